"""Two nodes' worth of ModelServings behind the same gateways: a GPU each, and one list of models.

Node a has mistral by default, node b llava; coder is declared in both and loads faster in a.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx
import pytest_asyncio

from tests.cluster.asking import MODEL_HEADER, ask, error_of, stream, text_of
from tests.cluster.conftest import Forwards, Make
from tests.cluster.gateways import gateway_with
from tests.cluster.gpus import FIRST, SECOND
from tests.cluster.kubernetes import (
    PODS,
    SERVINGS,
    World,
    condition,
    is_at_rest,
    is_serving,
    model_status,
)
from tests.harness.cluster import GPUS, Cluster
from tests.harness.engines import gpu_lock
from tests.harness.readiness import gpus_of
from tests.harness.servings import SimModel, sim_modelserving

A: Final = "node-a"
B: Final = "node-b"
DEFAULTS: Final = {A: "mistral", B: "llava"}
LOAD_SECONDS: Final = {A: "0.3", B: "4"}
SWAP_SECONDS: Final = 150
FAILURE_SECONDS: Final = 240
"""A failing load (two crashes), and the load at the other node."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(cluster: Cluster, made: Make, sim_image: str) -> tuple[str, str]:
    """Both ModelServings, each serving its default."""
    worker = await asyncio.to_thread(cluster.kubectl, "get", "node", cluster.worker, "-ojson")
    assert gpus_of(json.loads(worker)) >= GPUS, "two ModelServings need two GPUs"
    for name, gpu in ((A, FIRST), (B, SECOND)):
        slow_tokens = {"SIM_SECONDS_PER_TOKEN": "0.05"}
        coder = SimModel("coder", env={**slow_tokens, "SIM_LOAD_SECONDS": LOAD_SECONDS[name]})
        default = SimModel(DEFAULTS[name], env=slow_tokens)
        await made(
            sim_modelserving(
                name,
                image=sim_image,
                models=(default, coder),
                default_model=DEFAULTS[name],
                labels={"node": name},
            ),
            gpu=gpu,
        )
    return A, B


async def settle(world: World, active: dict[str, str]) -> None:
    """Have each node serve a model, with nothing wanted: by a pin, which is taken away again."""
    for name, model in active.items():
        await pin(world, name, model)
    for name, model in active.items():
        await until_at_rest(world, name, model)
    for name in active:
        await pin(world, name, None)
    for name, model in active.items():
        await until_at_rest(world, name, model)


async def pin(world: World, name: str, model: str | None) -> None:
    """Pin a model, or unpin."""
    patch = json.dumps({"spec": {"activeModel": model}})
    await world.kubectl("patch", "ms", name, "--type=merge", "--patch", patch)


async def until_at_rest(world: World, name: str, model: str) -> None:
    """Wait until a model serves and nobody waits."""
    await world.until_serving(
        name,
        lambda each: is_at_rest(each, model),
        what=f"{name} serves {model}",
        within=SWAP_SECONDS,
    )


class Demands:
    """Whose demand for a model has stood in which ModelServing."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.seen: set[tuple[str, str]] = set()

    @property
    def servings(self) -> set[str]:
        """The ModelServings that were ever asked for the model."""
        return {serving for serving, _ in self.seen}

    def note(self, servings: list[dict[str, Any]]) -> None:
        """Take in how things stand."""
        for serving in servings:
            for entry in serving["spec"].get("requests", []):
                if any(model["name"] == self._model for model in entry["models"]):
                    self.seen.add((serving["metadata"]["name"], entry["requester"]))


@asynccontextmanager
async def demands(world: World, model: str) -> AsyncIterator[Demands]:
    """Watch who demands a model of whom, while the context lasts."""
    found = Demands(model)

    def note(servings: list[dict[str, Any]]) -> bool:
        found.note(servings)
        return False

    watching = asyncio.create_task(
        world.until(SERVINGS, note, what="the watch is ended", within=SWAP_SECONDS * 4)
    )
    try:
        yield found
    finally:
        watching.cancel()
        await asyncio.wait([watching])


@asynccontextmanager
async def kept_busy(gateway: httpx.AsyncClient, model: str) -> AsyncIterator[None]:
    """Have a stream of 15 s or less run on a model while the context lasts."""

    async def run(begun: asyncio.Event) -> None:
        async for streamed in stream(gateway, model, "go", tokens=300, ignore_eos=True):
            if streamed.tokens:
                begun.set()
            assert streamed.errors == []

    begun = asyncio.Event()
    running = asyncio.create_task(run(begun))
    try:
        async with asyncio.timeout(30):
            await begun.wait()
        yield
    finally:
        if not running.done():
            running.cancel()
        await asyncio.wait([running])
    assert running.cancelled() or running.exception() is None, running.exception()


async def running_at(world: World, forwards: Forwards, serving: str) -> int:
    """Return how many requests an engine runs, by its own metrics."""
    (pod,) = await world.engines(PODS, serving)
    # By way of its node: a network that enforces policies lets the API server's proxy not in.
    async with httpx.AsyncClient(base_url=forwards.url(pod["metadata"]["name"], 8000)) as client:
        text = (await client.get("/metrics")).text
    found = re.search(r"^vllm:num_requests_running{.*} (\S+)$", text, re.MULTILINE)
    assert found, text
    return int(float(found[1]))


async def test_the_list_of_models_is_that_of_all_nodes(
    gateway: httpx.AsyncClient, nodes: tuple[str, str]
) -> None:
    listed = {each["id"]: each["modelserving"] for each in await models(gateway)}
    assert set(listed) == {"mistral", "llava", "coder"}
    assert {each["name"] for each in listed["coder"]["servings"]} == {A, B}
    assert (listed["mistral"]["active"], listed["llava"]["active"]) == (True, True)
    assert listed["coder"]["active"] is False


async def models(gateway: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return the list of models."""
    listed: list[dict[str, Any]] = (await gateway.get("/v1/models")).json()["data"]
    return listed


async def test_each_model_is_asked_where_it_is_active_and_nothing_is_swapped(
    world: World, gateways: list[httpx.AsyncClient], nodes: tuple[str, str]
) -> None:
    before = await swaps(world)
    for gateway in gateways:
        answers = await asyncio.gather(
            *(ask(gateway, model, "good day") for model in ("mistral", "llava") for _ in range(3))
        )
        assert [text_of(each).split()[0] for each in answers] == ["mistral:"] * 3 + ["llava:"] * 3
    assert await swaps(world) == before


async def swaps(world: World) -> dict[str, int]:
    """Return how many swaps each node has made."""
    return {name: (await world.serving(name))["status"]["swapsSucceeded"] for name in (A, B)}


async def test_an_idle_node_makes_the_swap_and_both_gateways_agree_on_it(
    world: World, gateways: list[httpx.AsyncClient], nodes: tuple[str, str]
) -> None:
    """Node a would load coder faster and is the first by name, but it has something to do."""
    before = await swaps(world)
    async with kept_busy(gateways[0], "mistral"), demands(world, "coder") as wanted:
        first = asyncio.create_task(ask(gateways[0], "coder", "first"))
        await world.until_serving(
            B, lambda each: bool(each["spec"].get("requests")), what="node b is asked"
        )
        second = asyncio.create_task(ask(gateways[1], "coder", "second"))
        assert text_of(await first).startswith("coder: first")
        assert text_of(await second).startswith("coder: second")
    assert wanted.servings == {B}
    assert len(wanted.seen) == 2, "both gateways have asked"
    assert await swaps(world) == {A: before[A], B: before[B] + 1}


async def test_a_model_that_is_active_twice_is_asked_where_least_runs(
    world: World, gateway: httpx.AsyncClient, forwards: Forwards, nodes: tuple[str, str]
) -> None:
    await settle(world, {A: "coder", B: "coder"})
    (listed,) = [each for each in await models(gateway) if each["id"] == "coder"]
    assert [each["active"] for each in listed["modelserving"]["servings"]] == [True, True]
    async with AsyncExitStack() as streams:
        for _ in range(4):
            await streams.enter_async_context(kept_busy(gateway, "coder"))
        assert [await running_at(world, forwards, name) for name in (A, B)] == [2, 2]


async def test_of_two_idle_nodes_the_one_that_loads_the_model_faster_swaps(
    world: World, gateways: list[httpx.AsyncClient], nodes: tuple[str, str]
) -> None:
    await settle(world, DEFAULTS)
    before = await swaps(world)
    loads = {name: model_status(await world.serving(name), "coder") for name in (A, B)}
    assert loads[A]["loadSeconds"] < loads[B]["loadSeconds"], "both were measured"
    async with demands(world, "coder") as wanted:
        answers = await asyncio.gather(*(ask(gateway, "coder", "hello") for gateway in gateways))
    assert [text_of(each).split()[0] for each in answers] == ["coder:"] * 2
    assert wanted.servings == {A}
    assert await swaps(world) == {A: before[A] + 1, B: before[B]}


async def test_demand_moves_to_another_node_when_the_load_fails(
    world: World, gateways: list[httpx.AsyncClient], nodes: tuple[str, str]
) -> None:
    await settle(world, DEFAULTS)
    gpu_of_a = world.cluster.gpu_directory / FIRST
    gpu_lock.set_behaviour(gpu_of_a, {"coder": {"SIM_FAULT": "crash"}})
    try:
        async with asyncio.timeout(FAILURE_SECONDS), demands(world, "coder") as wanted:
            answers = await asyncio.gather(
                *(ask(gateway, "coder", "hello") for gateway in gateways)
            )
    finally:
        gpu_lock.set_behaviour(gpu_of_a, {})
    assert [text_of(each).split()[0] for each in answers] == ["coder:"] * 2
    assert {each.headers[MODEL_HEADER] for each in answers} == {"coder"}
    assert wanted.servings == {A, B}
    failed = await world.until_serving(
        A,
        lambda each: is_serving(each, "mistral"),
        what="node a serves again what works there",
        within=FAILURE_SECONDS,
    )
    assert model_status(failed, "coder")["state"] == "Failed"
    assert condition(failed, "Degraded")["status"] == "True"
    assert is_serving(await world.serving(B), "coder")


async def test_a_label_selector_narrows_what_a_gateway_serves(
    world: World, forwards: Forwards, nodes: tuple[str, str]
) -> None:
    async with (
        gateway_with(world, {"labelSelector": f"node={A}"}) as pod,
        httpx.AsyncClient(base_url=forwards.url(pod, 8080), timeout=60) as narrow,
    ):
        assert {each["id"] for each in await models(narrow)} == {"mistral", "coder"}
        assert text_of(await ask(narrow, "mistral", "good day")).startswith("mistral:")
        error = error_of(await ask(narrow, "llava", "good day"), 404)
        assert error["code"] == "model_not_found"
