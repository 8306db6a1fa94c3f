"""A node of which nothing is heard: what serves there goes on, and what is dark says why.

Only on the harness's own cluster: the kubelet is stopped in its node. Containers live on without.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest_asyncio

from tests.cluster.conftest import Make, ready_pods
from tests.cluster.kubernetes import EVENTS, NODES, PODS, World, condition, is_serving
from tests.harness import docker
from tests.harness.containers import Container
from tests.harness.servings import SimModel, sim_modelserving

NAME: Final = "remote"

SILENCE_SECONDS: Final = 120
"""The node controller gives a kubelet 40 s, and the operator an engine 30 s."""

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
    )
    for component, count in (("gateway", 2), ("operator", 1)):
        await ready_pods(world, component, count)


async def start_kubelet(node: str) -> None:
    await asyncio.to_thread(docker.docker, "exec", node, "systemctl", "start", "kubelet")


async def until_ready_says(world: World, reason: str, within: float) -> dict[str, Any]:
    """Return the ModelServing once its condition Ready has this reason."""
    return await world.until_serving(
        NAME,
        lambda each: condition(each, "Ready").get("reason") == reason,
        what=f"Ready says {reason}",
        within=within,
    )


async def test_an_engine_that_answers_serves_on_without_its_kubelet(
    world: World, serving: str, worker: str
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
