"""Whether a cluster can be used, read from its nodes and system Pods. Pure: calls no API."""

from collections.abc import Mapping
from typing import Any

GPU_RESOURCE = "nvidia.com/gpu"


def not_ready(
    nodes: list[dict[str, Any]],
    pods: list[dict[str, Any]],
    *,
    expected_nodes: int,
    since: str = "",
) -> str:
    """Say what is not Ready yet among nodes and Pods (API objects); empty when all is.

    Containers must have started at or after `since` (RFC 3339, UTC): after a restart of the
    nodes the API server says for a while what was true before it.
    Static Pods are left out: an old kubelet reports them Ready up to a minute late, and that
    CoreDNS was created, scheduled and is Ready proves the control plane better.
    """
    if len(nodes) < expected_nodes:
        return f"{len(nodes)} of {expected_nodes} nodes have joined"
    waiting = [item["metadata"]["name"] for item in nodes if not _has_condition(item, "Ready")]
    if waiting:
        return f"nodes {', '.join(sorted(waiting))}"
    # CoreDNS comes last: without it, all of the Pods there are can be Ready too early.
    if not any(item["metadata"]["name"].startswith("coredns-") for item in pods):
        return "there is no CoreDNS Pod yet"
    waiting = [
        item["metadata"]["name"]
        for item in pods
        if not _is_static(item)
        and not (_has_condition(item, "Ready") and _started_after(item, since))
    ]
    return f"Pods {', '.join(sorted(waiting))}" if waiting else ""


def _started_after(pod: Mapping[str, Any], since: str) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    # RFC 3339 in UTC, whole seconds: in order as text.
    return all(
        (one["state"].get("running") or {}).get("startedAt", "") >= since for one in statuses
    )


def _is_static(pod: Mapping[str, Any]) -> bool:
    return "kubernetes.io/config.mirror" in (pod["metadata"].get("annotations") or {})


def _has_condition(item: Mapping[str, Any], kind_of_condition: str) -> bool:
    conditions = item.get("status", {}).get("conditions") or []
    return any(one["type"] == kind_of_condition and one["status"] == "True" for one in conditions)


def gpus_of(node: Mapping[str, Any]) -> int:
    """Return how many GPUs a node (API object) lets Pods have."""
    return int(node.get("status", {}).get("allocatable", {}).get(GPU_RESOURCE, "0"))
