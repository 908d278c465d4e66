#!/bin/sh
# Tells Ray that this node is about to leave, and waits while its units end: a worker pod's preStop.
# No unit is given to a node that drains; those that will not end in time are done elsewhere.
#   drain-node SECONDS
set -eu
seconds=${1:?usage: drain-node SECONDS}
address=${RAY_ADDRESS:?RAY_ADDRESS is not set: it names the cluster, as host:port}

timeout 30 ray drain-node --address "$address" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod is leaving" --deadline-remaining-seconds "$seconds"

# The driver takes its worker away when the last unit here has ended.
end=$(($(date +%s) + seconds))
while [ "$(date +%s)" -lt "$end" ]; do
    if ! grep -qs '^ray::Worker' /proc/[0-9]*/cmdline; then
        exit 0
    fi
    sleep 1
done
