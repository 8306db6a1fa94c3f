"""Engines that fail: said plainly, undone, and nobody else suffers."""

import asyncio
import time
from typing import Any

import httpx
import pytest_asyncio

from tests.cluster.asking import ask, error_of, text_of, whole_stream
from tests.cluster.conftest import Make
from tests.cluster.kubernetes import EVENTS, World, condition, is_serving, model_status
from tests.harness.servings import SimModel, sim_modelserving

NAME = "frail"
ROLLBACK_SECONDS = 240
"""A failing load (two crashes), the failing engine's end and the good one's load; 30 s here."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """One good model, and others that fail in different ways."""
    manifest = sim_modelserving(
        NAME,
        image=sim_image,
        models=(
            SimModel("mistral"),
            SimModel("crashing", env={"SIM_FAULT": "crash", "SIM_EXIT_CODE": "3"}),
            SimModel("greedy", env={"SIM_FAULT": "oom"}),
            SimModel("hanging", env={"SIM_FAULT": "hang"}, load_timeout_seconds=5),
            SimModel("fragile", env={"SIM_FAULT": "die", "SIM_FAULT_TIMES": "1"}),
        ),
    )
    name: str = await made(manifest)
    return name


async def fails_and_goes_back(
    world: World, gateway: httpx.AsyncClient, model: str, reason: str
) -> dict[str, Any]:
    """Ask a model that cannot load; return its status once the good one serves again."""
    refused = await ask(gateway, model, "good day")
    error = error_of(refused, 503)
    assert error["code"] == "model_load_failed"
    assert reason in error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    # In its back-off nobody waits for it.
    began = time.monotonic()
    again = error_of(await ask(gateway, model, "good day"), 503)
    assert (again["code"], time.monotonic() - began < 5) == ("model_load_failed", True)
    now = await world.until_serving(
        NAME,
        lambda each: is_serving(each, "mistral"),
        what="the last working model is back",
        within=ROLLBACK_SECONDS,
    )
    assert text_of(await ask(gateway, "mistral", "good day")).startswith("mistral:")
    status = model_status(now, model)
    assert (status["state"], status["reason"]) == ("Failed", reason)
    return status


async def test_a_model_that_crashes_is_reported_with_its_last_words_and_undone(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    status = await fails_and_goes_back(world, gateway, "crashing", "CrashLoop")
    assert "code 3" in status["message"]
    assert "last words" in status["message"]
    degraded = condition(await world.serving(NAME), "Degraded")
    assert degraded["status"] == "True"
    assert "crashing" in degraded["message"]
    await world.until(
        EVENTS,
        lambda items: any(
            each["reason"] == "SwapFailed" and each["type"] == "Warning" for each in items
        ),
        what="a Warning Event for the failed swap",
    )


async def test_kubectl_get_shows_why(world: World, serving: str) -> None:
    wide = await world.kubectl("get", "ms", NAME, "--output=wide")
    assert "mistral" in wide
    described = await world.kubectl("describe", "ms", NAME)
    assert "CrashLoop" in described
    assert "SwapFailed" in described


async def test_a_model_that_runs_out_of_gpu_memory_is_reported_as_that(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    status = await fails_and_goes_back(world, gateway, "greedy", "OutOfMemory")
    assert "OutOfMemory" in status["message"]


async def test_a_model_that_never_finishes_loading_is_given_up(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    status, streamed = await asyncio.gather(
        fails_and_goes_back(world, gateway, "hanging", "LoadTimeout"),
        whole_stream(gateway, "hanging", "good day"),
    )
    assert "loadTimeoutSeconds" in status["message"]
    # Held for longer than its grace, the stream had begun: it is told in an event.
    assert (streamed.tokens, streamed.done) == ([], False)
    (error,) = streamed.errors
    assert error["code"] == "model_load_failed"
    assert "LoadTimeout" in error["message"]


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_and_comes_back(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    streamed = await whole_stream(gateway, "fragile", "good day", tokens=16)
    assert 1 <= len(streamed.tokens) <= 3
    (error,) = streamed.errors
    assert error["code"] == "upstream_lost"
    # The kubelet starts the container again, and this time it stays.
    async with asyncio.timeout(ROLLBACK_SECONDS):
        answer = await ask(gateway, "fragile", "good day")
    assert text_of(answer).startswith("fragile: good day")
