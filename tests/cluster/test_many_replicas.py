"""Three gateways under load, one of them killed amid the swaps: the others lose nothing by it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from tests.cluster import load
from tests.cluster.conftest import Forwards, Make, ready_pods
from tests.cluster.kubernetes import NODES, SERVICES, World, is_serving
from tests.cluster.load import Client, Outcome
from tests.harness.containers import Container
from tests.harness.servings import SimModel, sim_modelserving

NAME: Final = "shared"
MODELS: Final = ["mistral", "coder"]
SWAP_SECONDS: Final = 150
EXPIRY_SECONDS: Final = 30
"""operator.demandExpirySeconds of the test installation is 6; the operator may be busy."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """Two models that are both wanted all the time, so that swaps never end."""
    env = {"SIM_SECONDS_PER_TOKEN": "0.02"}
    models = [SimModel(model, env=env) for model in MODELS]
    # Neither is ever idle: each has its turn, and time in it for some requests of every client.
    swap = {"minResidencySeconds": 3, "maxWaitSeconds": 5}
    name: str = await made(sim_modelserving(NAME, image=sim_image, models=models, swap=swap))
    return name


@pytest.fixture
async def three(world: World, serving: str) -> AsyncIterator[list[str]]:
    """The names of three gateways' Pods; afterwards there are two again."""
    await scale(world, 3)
    yield await ready_pods(world, "gateway", 3)
    await scale(world, 2)
    await ready_pods(world, "gateway", 2)


async def scale(world: World, replicas: int) -> None:
    """Set the number of gateways as a person does."""
    await world.kubectl("scale", "deployment/modelserving-gateway", f"--replicas={replicas}")


@pytest.fixture
async def service_url(world: World) -> str:
    """The gateways' Service as clients outside of the cluster reach it."""
    services = await world.objects(SERVICES)
    (port,) = (
        each["spec"]["ports"][0]["nodePort"]
        for each in services
        if each["metadata"]["name"] == "modelserving-gateway"
    )
    (node,) = (
        each
        for each in await world.objects(NODES)
        if each["metadata"]["name"] == world.cluster.worker
    )
    (address,) = (
        each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"
    )
    return f"http://{address}:{port}"


async def test_a_gateway_that_is_killed_amid_the_swaps_takes_only_its_own_requests_with_it(
    world: World, three: list[str], forwards: Forwards, service_url: str, serving: str
) -> None:
    victim, *survivors = three
    at_victim = load.mixed("victim", forwards.url(victim, 8080), MODELS, retries=False)
    at_survivors = [
        client
        for pod in survivors
        for client in load.mixed(pod[-5:], forwards.url(pod, 8080), MODELS, retries=False)
    ]
    at_service = load.mixed("service", service_url, MODELS, retries=True)
    async with load.steady([*at_victim, *at_survivors, *at_service]):
        await swaps_go_on(world, 2)
        await kill_amid_a_swap(world, victim)
        killed = time.monotonic()
        await world.until_serving(
            NAME,
            lambda each: victim not in requesters(each),
            what="the demand of the dead gateway is forgotten",
            within=EXPIRY_SECONDS,
        )
        forgotten_after = time.monotonic() - killed
        await swaps_go_on(world, 2)
    # It was not withdrawn by anybody: it has expired.
    assert forgotten_after > 2
    assert_answered(at_survivors)
    assert_answered(at_service, cut_off_is_asked_again=True)
    before = [each for client in at_victim for each in client.asked if each.began < killed]
    assert sum(each.outcome is Outcome.ANSWERED for each in before) > len(MODELS)
    # Whoever asked the dead one found that out at the connection, and was told nothing wrong.
    allowed = {Outcome.ANSWERED, Outcome.CONNECTION, Outcome.CUT}
    assert set(load.outcomes(at_victim)) <= allowed, load.told(at_victim)
    assert set(load.outcomes(at_victim)) > {Outcome.ANSWERED}
    await assert_at_rest_and_agreed(world, forwards)


def assert_answered(clients: list[Client], *, cut_off_is_asked_again: bool = False) -> None:
    """Every request was answered, of each kind and in time, the swaps notwithstanding."""
    allowed = {Outcome.ANSWERED, *([Outcome.CUT] if cut_off_is_asked_again else [])}
    assert set(load.outcomes(clients)) <= allowed, load.told(clients)
    for client in clients:
        assert client.asked[-1].outcome is Outcome.ANSWERED
        # Held across a swap and answered afterwards, again and again: no wake-up was lost.
        assert max(each.seconds for each in client.asked) < SWAP_SECONDS
        assert len(client.asked) >= 4, client.name


async def swaps_go_on(world: World, count: int) -> None:
    """Wait for so many more swaps."""
    goal = (await world.serving(NAME))["status"]["swapsSucceeded"] + count
    await world.until_serving(
        NAME,
        lambda each: each["status"]["swapsSucceeded"] >= goal,
        what=f"{count} more swaps succeed",
        within=count * SWAP_SECONDS,
    )


async def kill_amid_a_swap(world: World, victim: str) -> None:
    """End a gateway as a crash does, while a swap goes on for which it has waiting requests."""
    container = await asyncio.to_thread(
        Container, world.cluster, world.namespace, victim, "gateway"
    )
    await world.until_serving(
        NAME,
        lambda each: "currentSwap" in each["status"] and victim in requesters(each),
        what="the gateway has demand in a swap",
        within=SWAP_SECONDS,
    )
    await asyncio.to_thread(container.kill)
    # Not restarted under its name: its node is gone, so to speak.
    await world.kubectl("delete", "pod", victim, "--grace-period=0", "--force")


def requesters(serving: dict[str, Any]) -> set[str]:
    """Return whose demand stands in the resource."""
    return {entry["requester"] for entry in serving["spec"].get("requests", [])}


async def assert_at_rest_and_agreed(world: World, forwards: Forwards) -> None:
    """Nothing is held or demanded, and all gateways name the same active model."""
    now = await world.until_serving(
        NAME,
        lambda each: (
            not each["spec"].get("requests")
            and is_serving(each, each["status"].get("activeModel", "?"))
        ),
        what="nothing is wanted and nothing is going on",
        within=SWAP_SECONDS,
    )
    assert now["status"]["swapsFailed"] == 0
    pods = await ready_pods(world, "gateway", 3)
    for pod in pods:
        async with httpx.AsyncClient(base_url=forwards.url(pod, 8080)) as gateway:
            page = (await gateway.get("/status")).json()
        (shown,) = page["modelservings"]
        assert (page["held"], page["in_flight"]) == (0, 0)
        assert shown["active"] == now["status"]["activeModel"]
        assert shown["endpoint"] == now["status"]["endpoint"]
