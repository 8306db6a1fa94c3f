"""What a change of the spec, of the engines' image or of the operator does to what is running.

Two ModelServings with a GPU each, so that two changes are seen in the time of one swap. The effects
are those that docs/changes.md promises; the tests stand in the order of a story, since each swap
costs ten seconds.
"""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import pytest_asyncio

from modelserving_api.names import SERVING_LABEL
from tests.cluster import load
from tests.cluster.asking import HELD_HEADER, MODEL_HEADER, ask, error_of, stream, text_of
from tests.cluster.conftest import VALUES, Forwards, Make, ready_pods
from tests.cluster.gpus import FIRST, SECOND
from tests.cluster.kubernetes import (
    DEPLOYMENTS,
    PODS,
    SERVICES,
    SERVINGS,
    Object,
    World,
    is_at_rest,
    is_serving,
    model_status,
)
from tests.cluster.load import Outcome
from tests.harness import deploy, docker
from tests.harness.cluster import Cluster
from tests.harness.servings import SimModel, sim_modelserving

A: Final = "changing"
B: Final = "upgraded"
SWAP_SECONDS: Final = 150
SLOW: Final = {"SIM_SECONDS_PER_TOKEN": "0.05"}

LONG: Final = 120
"""Tokens of an answer that is under way while something changes: 6 s. A patch with kubectl and the
sight of its effect take 1 s here, and 4 s were seen on a machine that is overloaded."""
LONGER: Final = 200
"""10 s: longer than a drain budget that is cut short, shorter than the engines' own time to stop
(20 s)."""

Edit = Callable[[Object], None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servings(made: Make, sim_image: str) -> tuple[str, str]:
    """Two ModelServings, each serving its first model."""
    await asyncio.gather(
        made(
            sim_modelserving(
                A,
                image=sim_image,
                models=(
                    SimModel("mistral", env=SLOW),
                    SimModel("coder", env=SLOW),
                    SimModel("llava", env=SLOW),
                ),
            ),
            gpu=FIRST,
        ),
        made(
            sim_modelserving(
                B,
                image=sim_image,
                default_model="qwen",
                models=(
                    SimModel("qwen", env=SLOW),
                    SimModel("phi", env=SLOW),
                    SimModel("gemma", env={"SIM_FAULT": "hang"}, load_timeout_seconds=600),
                ),
            ),
            gpu=SECOND,
        ),
    )
    return A, B


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_image(cluster: Cluster, sim_image: str) -> str:
    """The stand-in's image under a second tag: an upgrade."""
    repository, _, version = sim_image.rpartition(":")
    tag = f"{repository}:{version}-upgraded"
    await asyncio.to_thread(docker.docker, "tag", sim_image, tag)
    await asyncio.to_thread(cluster.load, tag)
    return tag


async def change(world: World, name: str, edit: Edit) -> None:
    """Change a spec as a person with an editor does."""
    spec = (await world.serving(name))["spec"]
    spec.pop("requests", None)  # the gateways' own
    before = copy.deepcopy(spec)
    edit(spec)
    changed = {key: spec.get(key) for key in {*before, *spec} if before.get(key) != spec.get(key)}
    patch = json.dumps({"spec": changed})
    await world.kubectl("patch", "modelserving", name, "--type=merge", "--patch", patch)


def model_of(spec: Object, name: str) -> Object:
    """Return a model of a spec."""
    found: Object = next(each for each in spec["models"] if each["name"] == name)
    return found


@dataclass
class Answer:
    """A streamed answer under way."""

    model: str
    tokens: int
    task: asyncio.Task[None]
    ended: bool = False


@asynccontextmanager
async def answering(gateway: httpx.AsyncClient, model: str, tokens: int) -> AsyncIterator[Answer]:
    """Have an answer run while the context lasts, and see to it that it comes whole."""
    begun = asyncio.Event()
    last = None

    async def run() -> None:
        nonlocal last
        async for last in stream(gateway, model, "go", tokens=tokens, ignore_eos=True):
            if last.tokens:
                begun.set()
        answer.ended = True
        begun.set()

    answer = Answer(model, tokens, asyncio.create_task(run()))
    try:
        async with asyncio.timeout(30):
            await begun.wait()
        yield answer
        async with asyncio.timeout(60):
            await answer.task
    finally:
        answer.task.cancel()
        await asyncio.wait([answer.task])
    assert last is not None
    assert (last.errors, last.finish_reason, last.done) == ([], "length", True)
    assert last.tokens == [f"{model}:", " go", *(f" w{i}" for i in range(tokens - 2))]


async def until_swapping(world: World, name: str) -> Object:
    """Wait until a swap goes on."""
    return await world.until_serving(
        name, lambda each: "currentSwap" in each["status"], what=f"{name} swaps"
    )


async def until_at_rest(world: World, name: str, model: str) -> Object:
    """Wait until a model serves, nothing goes on, and the operator has seen the spec."""
    return await world.until_serving(
        name,
        lambda each: is_at_rest(each, model),
        what=f"{name} serves {model}, and nothing goes on",
        within=SWAP_SECONDS,
    )


async def deployments(world: World, name: str) -> dict[str, Object]:
    """Return the Deployments of a ModelServing by model."""
    found = await world.engines(DEPLOYMENTS, name)
    return {each["metadata"]["labels"]["modelserving.dev/model"]: each for each in found}


def engine_of(deployment_or_pod: Object) -> Object:
    """Return the engine's container."""
    spec = deployment_or_pod["spec"]
    (container,) = (
        spec["template"]["spec"]["containers"] if "template" in spec else (spec["containers"])
    )
    found: Object = container
    return found


async def running_pod(world: World, name: str) -> Object:
    """Return the only Pod of a ModelServing that is not on its way out."""
    (pod,) = (
        each
        for each in await world.engines(PODS, name)
        if "deletionTimestamp" not in each["metadata"]
    )
    return pod


async def test_applying_the_same_manifest_again_changes_nothing(
    world: World, servings: tuple[str, str]
) -> None:
    async def versions() -> list[str]:
        objects = [
            *await world.engines(DEPLOYMENTS, A),
            *await world.engines(SERVICES, A),
            *await world.engines(PODS, A),
        ]
        return [each["metadata"]["resourceVersion"] for each in objects]

    before = await until_at_rest(world, A, "mistral")
    objects = await versions()
    annotations = before["metadata"]["annotations"]
    applied = annotations["kubectl.kubernetes.io/last-applied-configuration"]
    await world.kubectl("apply", "--filename", "-", input=applied)
    after = await until_at_rest(world, A, "mistral")
    assert (after["spec"], after["status"]) == (before["spec"], before["status"])
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert await versions() == objects


async def test_new_args_of_another_model_disturb_nobody(
    world: World, gateway: httpx.AsyncClient, servings: tuple[str, str]
) -> None:
    before, pod = await until_at_rest(world, A, "mistral"), await running_pod(world, A)

    def shorter_context(spec: Object) -> None:
        model_of(spec, "coder").setdefault("engine", {})["args"] = ["--max-model-len", "1024"]

    async with answering(gateway, "mistral", LONG):
        await change(world, A, shorter_context)
        await world.until(
            DEPLOYMENTS,
            lambda items: "1024" in engine_of(items[0])["args"],
            what="coder's Deployment has the new args",
            selector=f"{SERVING_LABEL}={A},modelserving.dev/model=coder",
        )
    assert (await deployments(world, A))["coder"]["spec"]["replicas"] == 0
    after = await until_at_rest(world, A, "mistral")
    assert after["status"]["swapsSucceeded"] == before["status"]["swapsSucceeded"]
    assert (await running_pod(world, A))["metadata"]["uid"] == pod["metadata"]["uid"]


async def swaps_to_itself(
    world: World, gateways: list[httpx.AsyncClient], name: str, model: str, edit: Edit
) -> None:
    """Change a spec while an answer runs: it ends whole, and a later request gets the new engine's.

    Asserts both.
    """
    pod = await running_pod(world, name)
    async with answering(gateways[0], model, LONG) as running:
        await change(world, name, edit)
        swapping = await until_swapping(world, name)
        assert swapping["status"]["currentSwap"]["phase"] == "Draining"
        later = asyncio.create_task(ask(gateways[1], model, "and you"))
        await running.task
        assert not later.done(), "the old engine ends before the new one begins"
        answer = await later
    assert text_of(answer).startswith(f"{model}: and you")
    assert float(answer.headers[HELD_HEADER]) > 0
    now = await until_at_rest(world, name, model)
    swap = now["status"]["lastSwap"]
    assert (swap["from"], swap["to"], swap["reason"]) == (model, model, "SpecChanged")
    assert swap["outcome"] == "Succeeded"
    assert (await running_pod(world, name))["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_new_args_of_the_active_model_and_a_new_image_for_all_wait_for_what_runs(
    world: World,
    gateways: list[httpx.AsyncClient],
    servings: tuple[str, str],
    other_image: str,
) -> None:
    def fewer_at_once(spec: Object) -> None:
        model_of(spec, "mistral").setdefault("engine", {})["args"] = ["--max-num-seqs", "9"]

    def upgrade(spec: Object) -> None:
        spec["engine"]["image"] = other_image

    await asyncio.gather(
        swaps_to_itself(world, gateways, A, "mistral", fewer_at_once),
        swaps_to_itself(world, gateways, B, "qwen", upgrade),
    )
    assert engine_of(await running_pod(world, A))["args"][-2:] == ["--max-num-seqs", "9"]
    assert engine_of(await running_pod(world, B))["image"] == other_image
    upgraded = await deployments(world, B)
    assert {name: each["spec"]["replicas"] for name, each in upgraded.items()} == {
        "qwen": 1,
        "phi": 0,
        "gemma": 0,
    }
    assert {engine_of(each)["image"] for each in upgraded.values()} == {other_image}


async def the_active_model_is_removed(world: World, gateways: list[httpx.AsyncClient]) -> None:
    """Its answer ends whole; what is wanted next comes; nothing of it is left."""

    def remove(spec: Object) -> None:
        spec["models"] = [each for each in spec["models"] if each["name"] != "mistral"]
        spec["defaultModel"] = None

    async with answering(gateways[0], "mistral", LONG) as running:
        wanted = asyncio.create_task(ask(gateways[1], "llava", "good day"))
        await world.until_serving(
            A, lambda each: bool(each["spec"].get("requests")), what="llava is wanted"
        )
        await change(world, A, remove)
        await until_swapping(world, A)
        assert not running.ended
        # Nobody new gets there while it ends.
        refused = error_of(await ask(gateways[1], "mistral", "still there"), 404)
        assert refused["code"] == "model_not_found"
    assert text_of(await wanted).startswith("llava: good day")
    now = await until_at_rest(world, A, "llava")
    assert [each["name"] for each in now["status"]["models"]] == ["coder", "llava"]
    for path in (DEPLOYMENTS, SERVICES):
        await world.until(
            path,
            lambda items: len(items) == 2,
            what=f"nothing of mistral is left in {path}",
            selector=f"{SERVING_LABEL}={A}",
        )


async def the_active_model_is_renamed(world: World, gateways: list[httpx.AsyncClient]) -> None:
    """The old name goes on as an alias, for those who wait by it, too."""

    def rename(spec: Object) -> None:
        model_of(spec, "qwen").update(name="qwen2", aliases=["qwen"])
        spec["defaultModel"] = "qwen2"

    async with answering(gateways[0], "qwen", LONG) as running:
        await change(world, B, rename)
        swapping = await until_swapping(world, B)
        assert swapping["status"]["targetModel"] == "qwen2"
        assert not running.ended
        later = await ask(gateways[1], "qwen", "good day")
    assert later.headers[MODEL_HEADER] == "qwen2"
    assert text_of(later).startswith("qwen2: good day")
    # An alias is answered under the name that was asked for.
    assert later.json()["model"] == "qwen"
    await until_at_rest(world, B, "qwen2")
    await world.until(
        DEPLOYMENTS,
        lambda items: {engine_of(each)["args"][3] for each in items} == {"qwen2", "phi", "gemma"},
        what="the old name's Deployment is gone",
        selector=f"{SERVING_LABEL}={B}",
    )


async def test_an_active_model_that_is_removed_or_renamed_ends_what_runs_before_the_next_comes(
    world: World, gateways: list[httpx.AsyncClient], servings: tuple[str, str]
) -> None:
    await asyncio.gather(
        the_active_model_is_removed(world, gateways),
        the_active_model_is_renamed(world, gateways),
    )


async def another_default_takes_nothing_off_the_gpu(world: World) -> None:
    """Until it is idle, and only if idle means to return to the default."""
    before = await until_at_rest(world, A, "llava")
    await change(world, A, lambda spec: spec.update(defaultModel="coder"))
    now = await until_at_rest(world, A, "llava")
    assert now["status"]["swapsSucceeded"] == before["status"]["swapsSucceeded"]
    idle = {"action": "ReturnToDefault", "afterSeconds": 1}
    await change(world, A, lambda spec: spec["swap"].update(idle=idle))
    now = await until_at_rest(world, A, "coder")
    assert now["status"]["lastSwap"]["reason"] == "Idle"
    # Its args were changed while it was not loaded.
    assert "1024" in engine_of(await running_pod(world, A))["args"]


async def budgets_are_cut_in_mid_swap(world: World, gateway: httpx.AsyncClient) -> None:
    """A swap under way goes by the new ones at once; an answer has the engine's own time to end."""
    await until_at_rest(world, B, "qwen2")
    pod = await running_pod(world, B)
    async with answering(gateway, "qwen2", LONGER) as running:
        await change(world, B, lambda spec: spec.update(activeModel="gemma"))
        swapping = await until_swapping(world, B)
        await change(world, B, lambda spec: spec["swap"].update(drainTimeoutSeconds=1))
        await world.until_serving(
            B,
            lambda each: each["status"].get("currentSwap", {}).get("phase") == "Stopping",
            what="the drain is over",
        )
        assert not running.ended
    loading = await world.until_serving(
        B,
        lambda each: each["status"].get("currentSwap", {}).get("phase") == "Loading",
        what="gemma is being loaded",
        within=SWAP_SECONDS,
    )
    # Neither budget has made another swap of it, nor started anything anew.
    assert loading["status"]["currentSwap"]["id"] == swapping["status"]["currentSwap"]["id"]
    await change(world, B, lambda spec: model_of(spec, "gemma").update(loadTimeoutSeconds=2))
    failed = await world.until_serving(
        B,
        lambda each: model_status(each, "gemma").get("reason") == "LoadTimeout",
        what="gemma is given up by the new budget",
        within=30,
    )
    assert failed["status"]["lastSwap"]["id"] == swapping["status"]["currentSwap"]["id"]
    await change(world, B, lambda spec: spec.update(activeModel=None))
    await until_at_rest(world, B, "qwen2")
    again = await running_pod(world, B)
    assert again["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_another_default_waits_for_idleness_and_new_budgets_hold_for_the_swap_under_way(
    world: World, gateways: list[httpx.AsyncClient], servings: tuple[str, str]
) -> None:
    await asyncio.gather(
        another_default_takes_nothing_off_the_gpu(world),
        budgets_are_cut_in_mid_swap(world, gateways[0]),
    )


async def test_new_budgets_alone_restart_nothing(
    world: World, gateway: httpx.AsyncClient, servings: tuple[str, str]
) -> None:
    before, pod = await until_at_rest(world, B, "qwen2"), await running_pod(world, B)

    def patience(spec: Object) -> None:
        spec["swap"]["drainTimeoutSeconds"] = 90
        model_of(spec, "qwen2")["loadTimeoutSeconds"] = 90

    await change(world, B, patience)
    after = await until_at_rest(world, B, "qwen2")
    assert after["status"]["swapsSucceeded"] == before["status"]["swapsSucceeded"]
    assert (await running_pod(world, B))["metadata"]["uid"] == pod["metadata"]["uid"]


async def test_the_operator_is_upgraded_amid_swaps_and_nothing_is_dropped(
    world: World, forwards: Forwards, servings: tuple[str, str]
) -> None:
    (old,) = await ready_pods(world, "operator", 1)
    # Both models of the one are wanted all the time: it never stops swapping.
    turns = {"minResidencySeconds": 1, "maxWaitSeconds": 3, "idle": {"action": "Keep"}}
    await change(world, A, lambda spec: spec["swap"].update(turns))
    clients = [
        client
        for pod in await ready_pods(world, "gateway", 2)
        for client in load.mixed(
            pod[-5:], forwards.url(pod, 8080), ["coder", "llava", "qwen2"], retries=False
        )
    ]
    values = {"operator": {"podAnnotations": {"modelserving.dev/upgraded": "true"}}}
    async with load.steady(clients):
        await until_swapping(world, A)
        await asyncio.to_thread(
            deploy.install, world.cluster, world.namespace, values=deploy.merged(VALUES, values)
        )
        (new,) = await ready_pods(world, "operator", 1)
        assert new != old
        goal = (await world.serving(A))["status"]["swapsSucceeded"] + 1
        await world.until_serving(
            A,
            lambda each: each["status"]["swapsSucceeded"] >= goal,
            what="the new operator ends a swap",
            within=SWAP_SECONDS,
        )
    assert set(load.outcomes(clients)) == {Outcome.ANSWERED}, load.told(clients)
    assert all(client.asked for client in clients)
    assert (await world.serving(A))["status"]["swapsFailed"] == 0


async def until_nothing_is_left(world: World, name: str) -> None:
    """Wait until a ModelServing and all that it owned is gone."""
    for path in (SERVINGS, DEPLOYMENTS, SERVICES, PODS):
        await world.until(
            path,
            lambda items: (
                not any(each["metadata"]["name"].startswith(f"{name}-") for each in items)
                and not any(each["metadata"]["name"] == name for each in items)
            ),
            what=f"nothing of {name} is left in {path}",
            within=180,
        )


async def test_a_modelserving_that_is_deleted_in_mid_swap_ends_what_runs_and_leaves_nothing(
    world: World, gateways: list[httpx.AsyncClient], servings: tuple[str, str]
) -> None:
    now = await world.until_serving(
        A,
        lambda each: (
            not each["spec"].get("requests")
            and is_serving(each, each["status"].get("activeModel", "?"))
        ),
        what="the load is over",
        within=SWAP_SECONDS,
    )
    active = now["status"]["activeModel"]
    (other,) = {"coder", "llava"} - {active}
    async with answering(gateways[0], active, LONGER) as running:
        await change(world, A, lambda spec: spec.update(activeModel=other))
        await until_swapping(world, A)
        held = asyncio.create_task(ask(gateways[1], other, "good day"))
        await world.until_serving(
            A, lambda each: bool(each["spec"].get("requests")), what="a request is held"
        )
        await world.kubectl("delete", "modelserving", A, "--timeout=60s")
        async with asyncio.timeout(10):
            assert error_of(await held, 503)["code"] == "model_serving_deleted"
        assert not running.ended
    await until_nothing_is_left(world, A)


async def test_a_modelserving_is_deleted_although_the_operator_is_away(
    world: World, gateway: httpx.AsyncClient, servings: tuple[str, str]
) -> None:
    await until_at_rest(world, B, "qwen2")
    await world.kubectl("scale", "deployment/modelserving-operator", "--replicas=0")
    try:
        await ready_pods(world, "operator", 0)
        async with answering(gateway, "qwen2", LONG) as running:
            await world.kubectl("delete", "modelserving", B, "--timeout=10s")
            assert not running.ended
        await until_nothing_is_left(world, B)
    finally:
        await world.kubectl("scale", "deployment/modelserving-operator", "--replicas=1")
    await ready_pods(world, "operator", 1)
