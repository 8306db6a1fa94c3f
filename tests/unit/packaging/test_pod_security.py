"""The controls of `restricted`, and that an engine fits them wherever its weights allow it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from modelserving_operator import manifests
from tests.harness.pod_security import beyond_restricted
from tests.unit.operator.world import serving, spec
from tests.unit.packaging.chart import pod_specs, render

Pod = dict[str, Any]


def gateway() -> Pod:
    """Return a spec that fits."""
    return copy.deepcopy(dict(pod_specs(render()))["modelserving-gateway"])


def of_container(key: str, value: Any) -> Callable[[Pod], None]:
    """Return what changes the container's security context."""
    return lambda pod: pod["containers"][0]["securityContext"].update({key: value})


def of_pod(key: str, value: Any) -> Callable[[Pod], None]:
    """Return what changes the Pod's security context."""
    return lambda pod: pod["securityContext"].update({key: value})


@pytest.mark.parametrize(
    ("worsen", "said"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork"),
        (lambda pod: pod.update(hostPID=True), "hostPID"),
        (
            lambda pod: pod.update(volumes=[{"name": "x", "hostPath": {"path": "/"}}]),
            "volume x is a hostPath",
        ),
        (
            lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80),
            "gateway: hostPort",
        ),
        (
            lambda pod: pod.update(initContainers=[{"name": "first"}]),
            "first: not all capabilities are dropped",
        ),
        (of_container("privileged", True), "gateway: privileged"),
        (
            of_container("allowPrivilegeEscalation", None),
            "gateway: allowPrivilegeEscalation is not false",
        ),
        (
            of_container("capabilities", {"drop": ["NET_RAW"]}),
            "gateway: not all capabilities are dropped",
        ),
        (
            of_container("capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
            "gateway: capabilities SYS_ADMIN are added",
        ),
        (of_container("runAsNonRoot", False), "gateway: runAsNonRoot is not true"),
        (of_container("runAsUser", 0), "gateway: runAsUser is 0"),
        (
            of_container("seccompProfile", {"type": "Unconfined"}),
            "gateway: seccompProfile is neither RuntimeDefault nor Localhost",
        ),
        (of_container("procMount", "Unmasked"), "gateway: procMount is not Default"),
        (of_pod("runAsNonRoot", None), "gateway: runAsNonRoot is not true"),
        (of_pod("runAsUser", 0), "runAsUser is 0"),
        (
            of_pod("seccompProfile", None),
            "gateway: seccompProfile is neither RuntimeDefault nor Localhost",
        ),
        (of_pod("seLinuxOptions", {"type": "spc_t"}), "seLinuxOptions"),
        (of_pod("sysctls", [{"name": "kernel.msgmax", "value": "1"}]), "sysctl kernel.msgmax"),
    ],
)
def test_whatever_the_profile_forbids_is_named(worsen: Callable[[Pod], None], said: str) -> None:
    pod = gateway()
    assert beyond_restricted(pod) == []
    worsen(pod)
    assert said in beyond_restricted(pod)


@pytest.mark.parametrize(
    "source",
    [
        {"persistentVolumeClaim": {"claimName": "weights"}},
        {"hub": {"id": "mistralai/Mistral-7B-Instruct-v0.3"}},
    ],
)
def test_an_engine_with_weights_of_a_claim_or_a_hub_fits(source: dict[str, Any]) -> None:
    assert beyond_restricted(engine(source)) == []


def test_of_an_engine_with_weights_of_the_node_it_is_the_host_path_alone() -> None:
    assert beyond_restricted(engine({"hostPath": {"path": "/mnt/models/mistral"}})) == [
        "volume weights is a hostPath"
    ]


def engine(source: dict[str, Any]) -> Pod:
    """Return the spec of an engine's Pod."""
    parsed = serving(spec(models=[{"name": "mistral", "gpuMemory": "7Gi", "source": source}]))
    deployment = manifests.deployment(parsed, parsed.spec.models[0], 1)
    pod: Pod = deployment["spec"]["template"]["spec"]
    return pod
