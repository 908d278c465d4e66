#!/bin/sh
# Creates the RayJob of a manifest and waits until it has ended: the body of cronjob.yaml.
# Waiting is what makes `concurrencyPolicy: Forbid` guard anything. A pod that starts again after
# its node was lost finds the RayJob that is under way and waits for that one.
#   submit-and-wait.sh MANIFEST NAMESPACE [SECONDS BETWEEN LOOKS]
set -eu
manifest=${1:?usage: submit-and-wait.sh MANIFEST NAMESPACE [SECONDS]}
namespace=${2:?usage: submit-and-wait.sh MANIFEST NAMESPACE [SECONDS]}
pause=${3:-30}
# Looks that may fail one after another: the API server restarts now and then.
most_failures=20

state_of() {
    kubectl get rayjob "$1" --namespace "$namespace" \
        --output 'jsonpath={.status.jobDeploymentStatus} {.status.jobStatus}'
}

under_way() {
    kubectl get rayjob --namespace "$namespace" --selector app.kubernetes.io/component=nightly \
        --output 'jsonpath={range .items[*]}{.metadata.name} {.status.jobDeploymentStatus}{"\n"}{end}' |
        while read -r name state; do
            case $state in
                Complete | Failed) ;;
                *) echo "$name" ;;
            esac
        done | head -n 1
}

job=$(under_way)
if [ -n "$job" ]; then
    echo "RayJob $job is under way: waiting for it"
else
    created=$(kubectl create --namespace "$namespace" --filename "$manifest" --output name)
    job=${created##*/}
    echo "RayJob $job is created"
fi

failures=0
before=
while :; do
    if state=$(state_of "$job"); then
        failures=0
    else
        failures=$((failures + 1))
        if [ "$failures" -ge "$most_failures" ]; then
            echo "RayJob $job could not be looked at $failures times in a row: giving up" >&2
            exit 1
        fi
        sleep "$pause"
        continue
    fi
    if [ "$state" != "$before" ]; then
        shown=${state% }
        echo "RayJob $job: ${shown:-waits for the operator}"
        before=$state
    fi
    case $state in
        "Complete SUCCEEDED") exit 0 ;;
        Complete* | Failed*)
            echo "RayJob $job did not succeed. Its driver's output:" \
                "kubectl logs --namespace $namespace --selector job-name=$job" >&2
            exit 1
            ;;
    esac
    sleep "$pause"
done
