"""The manifests for Kubernetes: schemas, and what a schema does not know."""

from __future__ import annotations

import copy
import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploy_files import KUBERAY, ROOT, documents, job_specs, kubernetes_files, manifests

SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay_schemas.json.gz"
KUBERNETES = "1.34"
OURS = ("RayCluster", "RayJob", "RayCronJob")


@cache
def schemas() -> dict[str, Any]:
    """Schema of each kind of KubeRay; skips visibly where they are not beside this checkout."""
    if not SCHEMAS.is_file():
        pytest.skip(f"{SCHEMAS} is not there")
    kinds = json.loads(gzip.decompress(SCHEMAS.read_bytes()))["kinds"]
    return {kind: found["schema"] for kind, found in kinds.items()}


def all_documents() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, found) for path in kubernetes_files() for found in documents(path)]


def named(pair: tuple[str, dict[str, Any]]) -> str:
    return f"{pair[0]}-{pair[1]['kind']}"


def clusters() -> list[tuple[str, dict[str, Any]]]:
    """The cluster spec of every file that has one."""
    alone = [(name, found["spec"]) for name, found in manifests("RayCluster")]
    return alone + [(name, spec["rayClusterSpec"]) for name, spec in job_specs()]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The spec of every pod, with the name of its file."""
    found = []
    for name, cluster in clusters():
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        found += [(name, group["template"]["spec"]) for group in groups]
    found += [(name, spec["submitterPodTemplate"]["spec"]) for name, spec in job_specs()]
    for name, cron in manifests("CronJob"):
        found.append((name, cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]))
    return found


@pytest.mark.parametrize("pair", [p for p in all_documents() if p[1]["kind"] in OURS], ids=named)
def test_kinds_of_kuberay_fit_their_closed_schemas(pair: tuple[str, dict[str, Any]]) -> None:
    jsonschema.validate(pair[1], schemas()[pair[1]["kind"]])


def test_a_misspelt_field_would_be_seen() -> None:
    _, job = manifests("RayJob")[0]
    job = copy.deepcopy(job)
    job["spec"]["shutdownAfterJobFinish"] = job["spec"].pop("shutdownAfterJobFinishes")
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate(job, schemas()["RayJob"])


@pytest.mark.parametrize(
    "pair", [p for p in all_documents() if p[1]["kind"] not in OURS], ids=named
)
def test_core_kinds_fit_their_schemas(pair: tuple[str, dict[str, Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(pair[1], KUBERNETES, strict=True)


def test_every_file_has_one_cluster() -> None:
    """Four files spell it out, so that each can be applied alone; they must not drift."""
    first, *others = clusters()
    assert len(others) == 3
    for name, cluster in others:
        assert cluster == first[1], name


def test_a_night_is_the_same_job_by_either_scheduler() -> None:
    (_, night), (_, cron) = (
        next(pair for pair in job_specs() if pair[0] == name)
        for name in ("nightly-rayjob.yaml", "raycronjob.yaml")
    )
    assert night == cron
    (_, by_kuberay), (_, by_kubernetes) = manifests("RayCronJob")[0], manifests("CronJob")[0]
    for field in ("schedule", "timeZone"):
        assert by_kuberay["spec"][field] == by_kubernetes["spec"][field]


def test_ray_is_the_version_of_the_image() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^ray==(\S+)$", constraints, flags=re.MULTILINE)
    assert pinned is not None
    for name, cluster in clusters():
        assert cluster["rayVersion"] == pinned[1], name


def test_one_image_of_this_version_everywhere() -> None:
    import bathyscope

    images = {container["image"] for _, pod in pods() for container in pod["containers"]}
    assert images == {f"registry.example.com/bathyscope:{bathyscope.__version__}"}


def test_nothing_is_scheduled_on_the_head_and_the_api_wants_a_token() -> None:
    for name, cluster in clusters():
        start = cluster["headGroupSpec"]["rayStartParams"]
        assert (start["num-cpus"], start["num-gpus"]) == ("0", "0"), name
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP", name
        assert cluster["authOptions"] == {"mode": "token"}, name


def test_jobs_end_and_give_their_gpus_back() -> None:
    for name, spec in job_specs():
        assert spec["shutdownAfterJobFinishes"] is True, name
        assert spec["ttlSecondsAfterFinished"] <= 600, name
        assert spec["activeDeadlineSeconds"] > 0, name
        assert spec["backoffLimit"] >= 1, name
        assert spec["submissionMode"] == "K8sJobMode", name


def test_pods_run_as_nobody_in_particular() -> None:
    for name, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name


def test_only_the_submitter_of_the_cron_job_has_an_account_with_rights() -> None:
    roles = dict(manifests("Role"))
    assert [rule["verbs"] for rule in roles["cronjob.yaml"]["rules"]] == [["get", "list", "create"]]
    for name, pod in pods():
        if pod["serviceAccountName"] == "bathyscope-nightly":
            assert name == "cronjob.yaml"
        else:
            assert pod["automountServiceAccountToken"] is False, name
    accounts = {found["metadata"]["name"] for _, found in manifests("ServiceAccount")}
    assert {pod["serviceAccountName"] for _, pod in pods()} == accounts


def test_workers_have_shared_memory_gpus_and_time_to_leave() -> None:
    for name, cluster in clusters():
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            limits = container["resources"]["limits"]
            assert container["resources"]["requests"] == limits, name
            assert int(limits["nvidia.com/gpu"]) > 0, name
            shared = next(m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
            volume = next(v for v in pod["volumes"] if v["name"] == shared["name"])
            assert volume["emptyDir"]["medium"] == "Memory", name
            script, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
            assert script == "drain-node", name
            assert pod["terminationGracePeriodSeconds"] >= int(seconds) + 20, name


def test_mounts_have_volumes_and_volumes_are_there() -> None:
    claims = {found["metadata"]["name"] for _, found in manifests("PersistentVolumeClaim")}
    for name, pod in pods():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted == set(volumes), name
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims, name


def test_no_manifest_holds_a_secret() -> None:
    assert manifests("Secret") == []
    for path in KUBERAY.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?i)(secret_access_key|token|password)\s*[:=]\s*['\"]?\w{8,}", text)
    for name, pod in pods():
        for container in pod["containers"]:
            for variable in container.get("env", []):
                assert not re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]), name


def test_overlap_is_forbidden_where_it_can_be() -> None:
    ((_, cron),) = manifests("CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    ((_, night),) = [pair for pair in job_specs() if pair[0] == "nightly-rayjob.yaml"]
    deadline = cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert night["activeDeadlineSeconds"] < deadline < 24 * 3600


def test_files_of_config_maps_are_there() -> None:
    text = (KUBERAY / "cronjob.yaml").read_text(encoding="utf-8")
    files = [Path(name) for name in re.findall(r"--from-file=(\S+)", text)]
    assert [f.name for f in files] == ["nightly-rayjob.yaml", "submit-and-wait.sh"]
    assert all((ROOT / file).is_file() for file in files)
