"""When a cluster counts as ready."""

from typing import Any

import pytest

from tests.harness.readiness import gpus_of, not_ready

_STARTED = "2026-01-01T12:00:00Z"


def _node(name: str, ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def _pod(name: str, ready: bool = True, *, static: bool = False) -> dict[str, Any]:
    annotations = {"kubernetes.io/config.mirror": "x"} if static else {}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"state": {"running": {"startedAt": _STARTED}}}],
        },
    }


_NODES = [_node("a"), _node("b")]
_PODS = [_pod("coredns-1"), _pod("kube-proxy-1")]


def test_ready_nodes_and_pods_are_a_ready_cluster() -> None:
    assert not_ready(_NODES, _PODS, expected_nodes=2) == ""


@pytest.mark.parametrize(
    ("nodes", "pods", "reason"),
    [
        ([_node("a")], _PODS, "1 of 2 nodes"),
        ([_node("a"), _node("b", ready=False)], _PODS, "nodes b"),
        (_NODES, [_pod("kube-proxy-1")], "no CoreDNS"),
        (_NODES, [*_PODS, _pod("kube-proxy-2", ready=False)], "Pods kube-proxy-2"),
        (_NODES, [{"metadata": {"name": "coredns-1"}}], "Pods coredns-1"),
    ],
)
def test_what_is_not_ready_is_named(
    nodes: list[dict[str, Any]], pods: list[dict[str, Any]], reason: str
) -> None:
    assert reason in not_ready(nodes, pods, expected_nodes=2)


def test_static_pods_are_not_waited_for() -> None:
    pods = [*_PODS, _pod("etcd-a", ready=False, static=True)]
    assert not_ready(_NODES, pods, expected_nodes=2) == ""


@pytest.mark.parametrize(("since", "ready"), [(_STARTED, True), ("2026-01-01T12:00:01Z", False)])
def test_readiness_from_before_a_restart_does_not_count(since: str, ready: bool) -> None:
    assert (not_ready(_NODES, _PODS, expected_nodes=2, since=since) == "") is ready


def test_a_container_that_waits_has_not_started() -> None:
    pod = _pod("coredns-1")
    pod["status"]["containerStatuses"] = [{"state": {"waiting": {}}}]
    assert not_ready(_NODES, [pod], expected_nodes=2, since=_STARTED)


def test_a_node_without_the_resource_has_no_gpu() -> None:
    assert gpus_of(_node("a")) == 0
    assert gpus_of({"status": {"allocatable": {"nvidia.com/gpu": "1"}}}) == 1
