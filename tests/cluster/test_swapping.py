"""Swaps on request, with the stand-in engine: nobody's request is lost, and never two engines."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.cluster.asking import HELD_HEADER, ask, error_of, stream, text_of, until_told
from tests.cluster.conftest import Make, ready_pods
from tests.cluster.kubernetes import (
    DEPLOYMENTS,
    EVENTS,
    SERVICES,
    SERVINGS,
    World,
    condition,
    is_at_rest,
    is_serving,
    model_status,
)
from tests.harness.servings import SimModel, sim_modelserving

NAME = "l4"
ALIAS = "mistralai/Mistral-7B-Instruct-v0.3"
SWAP_SECONDS = 150
"""A swap takes 9 s here; a slow machine must not fail the test."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """Three models; mistral by default, and slow enough to be asked for another meanwhile."""
    manifest = sim_modelserving(
        NAME,
        image=sim_image,
        models=(
            SimModel("mistral", aliases=(ALIAS,), env={"SIM_SECONDS_PER_TOKEN": "0.05"}),
            SimModel("coder", gpu_memory="11Gi"),
            SimModel("llava", gpu_memory="20Gi"),
        ),
    )
    name: str = await made(manifest)
    return name


async def until_at_rest(world: World) -> dict[str, Any]:
    """Wait until nobody asks for anything and nothing is going on."""
    return await world.until_serving(
        NAME,
        is_at_rest,
        what="nothing is going on",
        within=SWAP_SECONDS,
    )


async def active(world: World) -> str:
    """Return the model that serves now."""
    return str((await world.serving(NAME))["status"]["activeModel"])


async def test_one_deployment_and_one_service_a_model_and_one_of_them_runs(
    world: World, serving: str
) -> None:
    deployments = await world.engines(DEPLOYMENTS, serving)
    replicas = {each["metadata"]["name"]: each["spec"]["replicas"] for each in deployments}
    assert replicas == {"l4-mistral": 1, "l4-coder": 0, "l4-llava": 0}
    services = {each["metadata"]["name"] for each in await world.engines(SERVICES, serving)}
    assert services == set(replicas)


async def test_every_declared_model_is_listed_with_its_state(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    listed = (await gateway.get("/v1/models")).json()["data"]
    states = {each["id"]: each["modelserving"]["state"] for each in listed}
    assert states == {"mistral": "Ready", ALIAS: "Ready", "coder": "Stopped", "llava": "Stopped"}


async def test_a_request_for_the_active_model_is_forwarded_at_once(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    began = time.monotonic()
    answer = await ask(gateway, "mistral", "good day")
    assert text_of(answer).startswith("mistral: good day")
    assert time.monotonic() - began < 5


async def test_a_request_for_another_model_is_held_until_it_has_been_swapped_in(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    answer = await ask(gateway, "coder", "good day")
    assert text_of(answer).startswith("coder: good day")
    assert float(answer.headers[HELD_HEADER]) > 0
    now = await until_at_rest(world)
    swap = now["status"]["lastSwap"]
    assert (swap["from"], swap["to"]) == ("mistral", "coder")
    assert (swap["outcome"], swap["reason"]) == ("Succeeded", "Requested")
    parts = ("drainSeconds", "stopSeconds", "scheduleSeconds", "loadSeconds", "probeSeconds")
    assert set(swap["parts"]) == set(parts)
    assert sum(swap["parts"].values()) == pytest.approx(swap["seconds"], abs=0.1)


async def test_kubectl_shows_what_serves_and_events_tell_the_story(
    world: World, serving: str
) -> None:
    header, row = (await world.kubectl("get", "ms", serving)).splitlines()
    assert header.split() == ["NAME", "ACTIVE", "TARGET", "READY", "REASON", "LAST", "SWAP", "AGE"]
    assert row.split()[:4] == [serving, "coder", "True", "Serving"]
    events = await world.until(
        EVENTS,
        lambda items: {"SwapStarted", "SwapFinished"} <= reasons_about(items, serving),
        what="Events for the swap's begin and end",
    )
    assert "SwapFailed" not in reasons_about(events, serving)


def reasons_about(events: list[dict[str, Any]], name: str) -> set[str]:
    """Return the reasons of all Events about a ModelServing."""
    return {
        each["reason"]
        for each in events
        if each["involvedObject"]["kind"] == "ModelServing"
        and each["involvedObject"]["name"] == name
    }


async def test_an_alias_and_a_path_without_v1_lead_to_the_model(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    answer = await ask(gateway, ALIAS, "good day", path="/chat/completions")
    assert text_of(answer).startswith("mistral: good day")


async def test_a_stream_runs_to_its_end_before_another_model_is_swapped_in(
    world: World, gateways: list[httpx.AsyncClient], serving: str
) -> None:
    """100 tokens in 5 s; coder is asked at the other gateway after the first of them."""
    other: asyncio.Task[httpx.Response] | None = None
    ended_first = False
    async for streamed in stream(gateways[0], "mistral", "go", tokens=100, ignore_eos=True):
        if other is None and streamed.tokens:
            other = asyncio.create_task(ask(gateways[1], "coder", "and you"))
        if streamed.done:
            ended_first = other is not None and not other.done()
    assert streamed.errors == []
    assert streamed.tokens == ["mistral:", " go", *(f" w{i}" for i in range(98))]
    assert streamed.finish_reason == "length"
    assert ended_first
    assert other is not None
    assert text_of(await other).startswith("coder: and you")


async def test_two_gateways_hold_and_both_release_after_one_swap(
    world: World, gateways: list[httpx.AsyncClient], serving: str
) -> None:
    before = (await until_at_rest(world))["status"]["swapsSucceeded"]
    asked = [
        asyncio.create_task(ask(gateway, "llava", f"question {i}"))
        for i in range(3)
        for gateway in gateways
    ]
    published = await world.until_serving(
        serving,
        lambda each: len(each["spec"].get("requests", [])) == 2,
        what="both gateways have published their demand",
    )
    entries = published["spec"]["requests"]
    assert {each["requester"] for each in entries} == set(await ready_pods(world, "gateway", 2))
    assert {model["name"] for each in entries for model in each["models"]} == {"llava"}
    answers = await asyncio.gather(*asked)
    assert [text_of(each).split()[0] for each in answers] == ["llava:"] * 6
    after = await until_at_rest(world)
    assert after["status"]["swapsSucceeded"] == before + 1


async def test_a_client_that_leaves_while_held_takes_its_demand_with_it(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    leaving = asyncio.create_task(ask(gateway, "coder", "never mind"))
    await world.until_serving(
        serving,
        lambda each: bool(each["spec"].get("requests")),
        what="the demand is published",
    )
    leaving.cancel()
    await asyncio.wait([leaving])
    await world.until_serving(
        serving,
        lambda each: not each["spec"].get("requests"),
        what="the demand is withdrawn",
        within=10,
    )
    # Whether the swap had begun or not, nothing is stuck.
    await until_at_rest(world)
    assert text_of(await ask(gateway, "llava", "still there")).startswith("llava: still there")


async def test_a_pin_alone_decides_until_it_is_taken_away(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    await until_at_rest(world)
    await world.kubectl("patch", "ms", NAME, "--type=merge", "--patch", pin("coder"))
    await world.until_serving(
        serving,
        lambda each: is_serving(each, "coder"),
        what="the pinned model serves",
        within=SWAP_SECONDS,
    )
    refused = await ask(gateway, "llava", "good day")
    assert error_of(refused, 503)["code"] == "model_pinned"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert text_of(await ask(gateway, "coder", "good day")).startswith("coder: good day")
    await world.kubectl("patch", "ms", NAME, "--type=merge", "--patch", pin(None))
    await until_told(gateway, lambda page: page["modelservings"][0]["pinned"] is None)
    assert text_of(await ask(gateway, "llava", "good day")).startswith("llava: good day")


def pin(model: str | None) -> str:
    """Return the patch that pins a model, or unpins."""
    return json.dumps({"spec": {"activeModel": model}})


async def test_nothing_is_written_while_nothing_happens(world: World, serving: str) -> None:
    await until_at_rest(world)
    changes = await asyncio.gather(
        *(world.changes(path, seconds=20) for path in (SERVINGS, DEPLOYMENTS, SERVICES))
    )
    assert [line for lines in changes for line in lines] == []


async def test_an_operator_that_is_killed_in_a_swap_goes_on_with_it(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    before = (await until_at_rest(world))["status"]["swapsSucceeded"]
    (pod,) = await ready_pods(world, "operator", 1)
    asked = asyncio.create_task(ask(gateway, "mistral", "still there"))
    swapping = await world.until_serving(
        serving,
        lambda each: each["status"].get("currentSwap", {}).get("phase") == "Stopping",
        what="a swap is under way",
    )
    await world.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    assert text_of(await asked).startswith("mistral: still there")
    after = await until_at_rest(world)
    assert after["status"]["lastSwap"]["id"] == swapping["status"]["currentSwap"]["id"]
    assert after["status"]["swapsSucceeded"] == before + 1
    assert await ready_pods(world, "operator", 1) != [pod]


async def test_a_gateway_that_is_replaced_answers_what_it_holds(
    world: World, gateways: list[httpx.AsyncClient], serving: str
) -> None:
    await until_at_rest(world)
    asked = asyncio.create_task(ask(gateways[0], "coder", "still there"))
    await world.until_serving(
        serving,
        lambda each: bool(each["spec"].get("requests")),
        what="the demand is published",
    )
    await world.kubectl("delete", "pod", gateways[0].headers["x-pod"], "--wait=false")
    assert text_of(await asked).startswith("coder: still there")


async def test_demand_of_a_gateway_that_died_is_forgotten(
    world: World, gateways: list[httpx.AsyncClient], serving: str
) -> None:
    await until_at_rest(world)
    await world.kubectl("patch", "ms", NAME, "--type=merge", "--patch", pin("coder"))
    # Nobody holds requests for a model that a pin rules out, so the demand is written by hand.
    ghost = {"requester": "ghost", "renewTime": "2026-01-01T00:00:00Z"}
    entry = {**ghost, "models": [{"name": "llava", "waiting": 1, "since": ghost["renewTime"]}]}
    await world.kubectl(
        *("patch", "ms", NAME, "--type=merge"),
        *("--patch", json.dumps({"spec": {"requests": [entry]}})),
    )
    await world.until_serving(
        serving,
        lambda each: not each["spec"].get("requests"),
        what="the entry that nobody renews is removed",
        within=30,
    )
    await world.kubectl("patch", "ms", NAME, "--type=merge", "--patch", pin(None))
    now = await until_at_rest(world)
    assert now["status"]["activeModel"] == "coder"


async def test_the_operators_page_tells_the_same_as_the_resource(
    world: World, operator: httpx.AsyncClient, serving: str
) -> None:
    now = await until_at_rest(world)
    page = (await operator.get("/status")).json()
    (shown,) = (each for each in page["modelservings"] if each["name"] == serving)
    assert shown["status"]["activeModel"] == now["status"]["activeModel"]
    assert shown["error"] is None
    assert (await operator.get("/healthz")).status_code == 200
    metrics = (await operator.get("/metrics")).text
    assert f'modelserving_ready{{modelserving="{serving}",namespace="{world.namespace}"}} 1.0' in (
        metrics
    )
    assert "modelserving_swaps_total" in metrics


async def test_the_gateways_pages_tell_what_they_know(
    gateways: list[httpx.AsyncClient], serving: str
) -> None:
    for gateway in gateways:
        page = (await gateway.get("/status")).json()
        (shown,) = page["modelservings"]
        assert (shown["name"], shown["ready"]) == (serving, True)
        assert page["held"] == 0
        assert (await gateway.get("/readyz")).status_code == 200
        assert "modelserving_gateway_" in (await gateway.get("/metrics")).text


async def test_ready_is_true_and_nothing_is_degraded_in_the_end(world: World, serving: str) -> None:
    now = await until_at_rest(world)
    assert condition(now, "Ready")["observedGeneration"] <= now["metadata"]["generation"]
    assert condition(now, "Swapping")["status"] == "False"
    assert condition(now, "Degraded")["status"] == "False"
    assert model_status(now, now["status"]["activeModel"])["state"] == "Ready"
    assert now["status"]["swapsFailed"] == 0


async def test_the_programs_needed_no_permission_that_they_lack(world: World, serving: str) -> None:
    logs = await world.kubectl(
        *("logs", "--selector=app.kubernetes.io/part-of=modelserving", "--tail=-1"),
    )
    assert logs
    assert [line for line in logs.splitlines() if "forbidden" in line.lower()] == []
