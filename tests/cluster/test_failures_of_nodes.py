"""A node of which nothing is heard, and one that is taken away: what is dark says why.

Only on the harness's own cluster: the kubelet is stopped in its node. Containers live on without.
The node that is taken away is an object without a machine; its Pods are bound, and never run.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest_asyncio

from tests.cluster.conftest import Make, apply, ready_pods, remove
from tests.cluster.kubernetes import EVENTS, NODES, PODS, World, condition, is_serving
from tests.harness import deploy, docker
from tests.harness.containers import Container
from tests.harness.servings import SimModel, sim_modelserving

NAME: Final = "remote"

MOVING: Final = "moving"
"""The one whose node is taken away."""

NODES_OF_MOVING: Final = ("departing", "arriving")

_POOL: Final = deploy.DECLARED_NODE_LABEL
"""Also a taint, which keeps everything else off those nodes."""

SILENCE_SECONDS: Final = 120
"""The node controller gives a kubelet 40 s, and the operator an engine 30 s."""

DEPARTURE_SECONDS: Final = 180
"""Kubernetes waits 40 s and up to two rounds of 20 s before it gives up a deleted node's Pods."""

STUCK_SECONDS: Final = 120
"""A minute beyond the Pod's grace of one second."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """One model on the node that falls silent."""
    manifest = sim_modelserving(
        NAME, image=sim_image, default_model="nomad", models=(SimModel("nomad"),)
    )
    name: str = await made(manifest)
    return name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(world: World, serving: str) -> AsyncIterator[str]:
    """The worker without its kubelet, which is started again whatever happens."""
    node = world.cluster.worker
    await asyncio.to_thread(docker.docker, "exec", node, "systemctl", "stop", "kubelet")
    yield node
    await start_kubelet(node)
    await world.until(
        NODES,
        lambda nodes: all(condition(each, "Ready").get("status") == "True" for each in nodes),
        what="the node is Ready again",
        within=120,
        name=node,
    )
    for component, count in (("gateway", 2), ("operator", 1)):
        await ready_pods(world, component, count)


def declared_node(name: str) -> dict[str, Any]:
    """Return a node that says of itself that it is Ready, with one GPU."""
    resources = {"cpu": "8", "memory": "32Gi", "pods": "10", "nvidia.com/gpu": "1"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {_POOL: "true"}},
        "spec": {"taints": [{"key": _POOL, "effect": "NoSchedule"}]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Declared"}],
        },
    }


async def add_node(world: World, name: str) -> None:
    await world.kubectl("create", "--filename", "-", input=json.dumps(declared_node(name)))


async def delete_nodes(world: World) -> None:
    await world.kubectl("delete", "nodes", f"--selector={_POOL}")


async def until_bound(world: World) -> dict[str, Any]:
    """Return the ModelServing once its engine's Pod is bound to a node."""
    return await until_ready_says(world, "Loading", 60, name=MOVING)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def departed(world: World, sim_image: str) -> AsyncIterator[None]:
    """A ModelServing whose node is deleted while its engine loads."""
    manifest = sim_modelserving(MOVING, image=sim_image, models=(SimModel("mistral"),))
    (model,) = manifest["spec"]["models"]
    model["loadTimeoutSeconds"] = 600
    manifest["spec"]["node"] |= {
        "nodeSelector": {_POOL: "true"},
        "tolerations": [{"key": _POOL, "operator": "Exists", "effect": "NoSchedule"}],
    }
    departing, _ = NODES_OF_MOVING
    try:
        await add_node(world, departing)
        await apply(world, manifest)
        await until_bound(world)
        await delete_nodes(world)
        yield
    finally:
        await remove(world, MOVING)
        await delete_nodes(world)


async def start_kubelet(node: str) -> None:
    await asyncio.to_thread(docker.docker, "exec", node, "systemctl", "start", "kubelet")


async def until_ready_says(
    world: World, reason: str, within: float, name: str = NAME
) -> dict[str, Any]:
    """Return the ModelServing once its condition Ready has this reason."""
    return await world.until_serving(
        name,
        lambda each: condition(each, "Ready").get("reason") == reason,
        what=f"Ready of {name} says {reason}",
        within=within,
    )


async def test_an_engine_that_answers_serves_on_without_its_kubelet(
    world: World, serving: str, departed: None, worker: str
) -> None:
    now = await until_ready_says(world, "ServingNodeNotReady", SILENCE_SECONDS)
    assert now["status"]["activeModel"] == "nomad"
    ready = condition(now, "Ready")
    assert ready["status"] == "True"
    assert worker in ready["message"]


async def test_an_engine_that_is_silent_too_is_waited_for_by_that_name(
    world: World, serving: str, worker: str
) -> None:
    (pod,) = await world.engines(PODS, NAME)
    engine = Container(world.cluster, world.namespace, pod["metadata"]["name"], "engine")
    await asyncio.to_thread(engine.kill)
    now = await until_ready_says(world, "NodeNotReady", SILENCE_SECONDS)
    assert worker in condition(now, "Ready")["message"]
    assert now["status"]["swapsFailed"] == 0


async def test_a_pod_that_does_not_end_is_named_and_the_rest_goes_by_itself(
    world: World, serving: str, worker: str
) -> None:
    (pod,) = await world.engines(PODS, NAME)
    name = pod["metadata"]["name"]
    await world.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")
    now = await until_ready_says(world, "PodStuckTerminating", STUCK_SECONDS)
    message = condition(now, "Ready")["message"]
    assert name in message
    assert worker in message
    await world.until(
        EVENTS,
        lambda events: any(each["reason"] == "PodStuckTerminating" for each in events),
        what="a Warning Event for it",
    )
    await start_kubelet(worker)
    await world.until_serving(
        NAME,
        lambda each: is_serving(each, "nomad"),
        what="it serves again without anyone's help",
        within=180,
    )
    shown = await world.kubectl("get", "events", "--field-selector=type=Warning")
    assert shown.count("PodStuckTerminating") == 1


async def test_a_node_that_was_deleted_is_missed_and_the_model_loads_when_one_comes(
    world: World, departed: None
) -> None:
    now = await until_ready_says(world, "Unschedulable", DEPARTURE_SECONDS, name=MOVING)
    assert "nodes are available" in condition(now, "Ready")["message"]
    assert now["status"]["swapsFailed"] == 0
    _, arriving = NODES_OF_MOVING
    await add_node(world, arriving)
    assert (await until_bound(world))["status"]["swapsFailed"] == 0
