"""Engines that fail: said plainly, undone, and nobody else suffers.

Two ModelServings fail side by side, one on each GPU: most of the time goes into waiting for an old
kubelet to take Pods away.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.cluster.asking import ask, error_of, text_of, whole_stream
from tests.cluster.conftest import Make
from tests.cluster.gpus import FIRST, SECOND
from tests.cluster.kubernetes import EVENTS, PODS, World, condition, is_serving, model_status
from tests.harness.servings import SimModel, sim_modelserving

ENGINES: Final = "frail"
"""Engines that start and are no good."""

PLACES: Final = "homeless"
"""Engines that cannot start where they are put, and one that finds no memory there."""

DEFAULTS: Final = {ENGINES: "mistral", PLACES: "pixtral"}

ROLLBACK_SECONDS = 300
"""Until all of these failed and the good one is back; 80 s here."""


@dataclass(frozen=True)
class Failure:
    """How a model of the table below fails."""

    reason: str
    told: str
    """What its message must hold."""


FAILURES: Final = {
    ENGINES: {
        "crashing": Failure("CrashLoop", "code 3"),
        "hanging": Failure("LoadTimeout", "loadTimeoutSeconds (5 s)"),
        "nothing": Failure("ProbeFailed", "its tokens have no text"),
        "garbage": Failure("ProbeFailed", "no likely ones"),
        "nameless": Failure("WeightsMissing", "Invalid repository ID"),
    },
    PLACES: {
        "imageless": Failure("ImagePullFailed", "registry.invalid/none"),
        "unplaced": Failure("Unschedulable", "Insufficient example.com/nowhere"),
        "weightless": Failure("WeightsMissing", "/mnt/models/not-there is not a directory"),
        "claimless": Failure("WeightsMissing", 'persistentvolumeclaim "not-there" not found'),
        "thirsty": Failure("HostOutOfMemory", "raise resources.limits.memory"),
        "greedy": Failure("OutOfMemory", "3 times in a row"),
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servings(made: Make, sim_image: str) -> None:
    """One good model in each, and others that fail in different ways."""
    engines = sim_modelserving(
        ENGINES,
        image=sim_image,
        default_model=DEFAULTS[ENGINES],
        models=(
            SimModel("mistral"),
            SimModel("crashing", env={"SIM_FAULT": "crash", "SIM_EXIT_CODE": "3"}),
            SimModel("hanging", env={"SIM_FAULT": "hang"}, load_timeout_seconds=5),
            SimModel("nothing", env={"SIM_FAULT": "empty"}),
            SimModel("garbage", env={"SIM_FAULT": "garbage"}),
            SimModel("nameless", env={"SIM_FAULT": "weights"}),
            # After more tokens than the operator asks for.
            SimModel(
                "fragile",
                env={"SIM_FAULT": "die", "SIM_FAULT_TIMES": "1", "SIM_DIE_AFTER_TOKENS": "6"},
            ),
            SimModel("late", env={"SIM_FAULT": "oom", "SIM_FAULT_TIMES": "2"}),
        ),
    )
    # What may be written here before the kubelet evicts the Pod.
    engines["spec"]["engine"]["volumes"].append({"name": "spill", "emptyDir": {"sizeLimit": "1Mi"}})
    engines["spec"]["engine"]["volumeMounts"].append({"name": "spill", "mountPath": "/spill"})
    places = sim_modelserving(
        PLACES,
        image=sim_image,
        default_model=DEFAULTS[PLACES],
        models=(
            SimModel("pixtral"),
            SimModel("imageless"),
            SimModel("unplaced", load_timeout_seconds=5),
            SimModel("weightless"),
            SimModel("claimless"),
            SimModel("thirsty", env={"SIM_FAULT": "host-oom"}),
            SimModel("greedy", env={"SIM_FAULT": "oom"}),
        ),
    )
    named = {each["name"]: each for each in places["spec"]["models"]}
    nowhere = {"example.com/nowhere": "1"}
    named["imageless"]["engine"] = {"image": "registry.invalid/none:0"}
    named["unplaced"]["engine"] = {"resources": {"requests": nowhere, "limits": nowhere}}
    named["weightless"]["source"] = {"hostPath": {"path": "/mnt/models/not-there"}}
    named["claimless"]["source"] = {"persistentVolumeClaim": {"claimName": "not-there"}}
    named["thirsty"]["engine"]["resources"] = {"limits": {"memory": "256Mi"}}
    await asyncio.gather(made(engines, gpu=FIRST), made(places, gpu=SECOND))


async def refused(gateway: httpx.AsyncClient, model: str, failure: Failure) -> None:
    """Ask for a model that cannot load, and be told why."""
    error = error_of(await ask(gateway, model, "good day"), 503)
    assert error["code"] == "model_load_failed"
    assert failure.reason in error["message"]


async def back(world: World, serving: str) -> dict[str, Any]:
    """Return a ModelServing once its default model serves."""
    default = DEFAULTS[serving]
    return await world.until_serving(
        serving,
        lambda each: is_serving(each, default),
        what=f"{default} is back",
        within=ROLLBACK_SECONDS,
    )


async def mend(world: World, serving: str, model: str) -> None:
    """Give a model an environment without a fault, as a person does who has found it."""
    models = (await world.serving(serving))["spec"]["models"]
    (broken,) = (each for each in models if each["name"] == model)
    broken["engine"]["env"] = [{"name": "SIM_FAULT_TIMES", "value": "0"}]
    patch = json.dumps({"spec": {"models": models}})
    await world.kubectl("patch", "ms", serving, "--type=merge", "--patch", patch)


async def text_at_last(gateway: httpx.AsyncClient, model: str) -> str:
    """Ask until the gateway has heard that a failed model may be tried again."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(AssertionError),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(60),
        reraise=True,
    ):
        with attempt:
            return text_of(await ask(gateway, model, "good day"))
    raise AssertionError(model)


async def warnings_about(world: World, reason: str, told: str) -> None:
    """Wait for a Warning Event of ours."""
    await world.until(
        EVENTS,
        lambda events: any(
            (each["type"], each["reason"]) == ("Warning", reason) and told in each["message"]
            for each in events
        ),
        what=f"a Warning Event {reason} that holds {told!r}",
    )


async def test_each_failure_is_told_and_a_model_that_works_serves_again_without_help(
    world: World, gateway: httpx.AsyncClient, servings: None
) -> None:
    asked = [
        refused(gateway, model, failure)
        for failing in FAILURES.values()
        for model, failure in failing.items()
    ]
    streamed, _ = await asyncio.gather(
        whole_stream(gateway, "hanging", "good day"), asyncio.gather(*asked)
    )
    # Held for longer than its grace, the stream had begun: it is told in an event.
    assert (streamed.tokens, streamed.done) == ([], False)
    (error,) = streamed.errors
    assert error["code"] == "model_load_failed"
    for serving in FAILURES:
        await back(world, serving)
        answer = await ask(gateway, DEFAULTS[serving], "good day")
        assert text_of(answer).startswith(f"{DEFAULTS[serving]}:")


@pytest.mark.parametrize(
    ("serving", "model"), [(serving, model) for serving in FAILURES for model in FAILURES[serving]]
)
async def test_the_reason_of_each_failure_stays_to_be_read(
    world: World, servings: None, serving: str, model: str
) -> None:
    failure = FAILURES[serving][model]
    now = await world.serving(serving)
    status = model_status(now, model)
    assert (status["state"], status["reason"]) == ("Failed", failure.reason)
    assert failure.told in status["message"]
    degraded = condition(now, "Degraded")
    assert degraded["status"] == "True"
    assert f"{model}: " in degraded["message"]
    await warnings_about(world, "SwapFailed", failure.reason)


async def test_what_failed_is_answered_at_once_while_it_is_not_tried(
    gateway: httpx.AsyncClient, servings: None
) -> None:
    began = time.monotonic()
    answer = await ask(gateway, "greedy", "good day")
    error = error_of(answer, 503)
    assert (error["code"], time.monotonic() - began < 5) == ("model_load_failed", True)
    assert "retry-after" not in answer.headers, "it is not tried again before its spec changes"


async def test_kubectl_shows_why(world: World, servings: None) -> None:
    wide = await world.kubectl("get", "ms", ENGINES, "--output=wide")
    assert "mistral" in wide
    described = await world.kubectl("describe", "ms", ENGINES)
    assert "CrashLoop" in described
    assert "SwapFailed" in described


async def test_memory_that_comes_back_late_fails_nothing_and_a_model_that_is_cut_to_fit_loads(
    world: World, gateway: httpx.AsyncClient, servings: None
) -> None:
    before = await world.serving(ENGINES)
    assert "nextRetryTime" not in model_status(await world.serving(PLACES), "greedy")

    async def mended() -> str:
        await mend(world, PLACES, "greedy")
        return await text_at_last(gateway, "greedy")

    late, greedy = await asyncio.gather(ask(gateway, "late", "good day"), mended())
    assert text_of(late).startswith("late:")
    assert greedy.startswith("greedy:")
    after = await world.serving(ENGINES)
    assert after["status"]["swapsFailed"] == before["status"]["swapsFailed"]
    await warnings_about(world, "OutOfMemory", "of 3")


async def test_a_broken_model_is_tried_after_longer_pauses_and_at_once_when_its_spec_changes(
    world: World, gateway: httpx.AsyncClient, servings: None
) -> None:
    def pause(status: dict[str, Any]) -> timedelta:
        failed, retry = status["failedTime"], status["nextRetryTime"]
        return datetime.fromisoformat(retry) - datetime.fromisoformat(failed)

    first = model_status(await world.serving(ENGINES), "crashing")
    retry = datetime.fromisoformat(first["nextRetryTime"])
    await asyncio.sleep(max((retry - datetime.now(UTC)).total_seconds(), 0))
    await refused(gateway, "crashing", FAILURES[ENGINES]["crashing"])
    second = model_status(await world.serving(ENGINES), "crashing")
    assert (first["failures"], second["failures"]) == (1, 2)
    assert pause(first) >= timedelta(seconds=9.9)
    assert pause(second) >= timedelta(seconds=19.9)
    await mend(world, ENGINES, "crashing")
    assert (await text_at_last(gateway, "crashing")).startswith("crashing:")
    began = (await world.serving(ENGINES))["status"]["lastSwap"]["startedTime"]
    assert began < second["nextRetryTime"]


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_and_comes_back(
    world: World, gateway: httpx.AsyncClient, servings: None
) -> None:
    streamed = await whole_stream(gateway, "fragile", "good day", tokens=16)
    assert 1 <= len(streamed.tokens) <= 6
    (error,) = streamed.errors
    assert error["code"] == "upstream_lost"
    # The kubelet starts the container again, and this time it stays.
    async with asyncio.timeout(ROLLBACK_SECONDS):
        answer = await ask(gateway, "fragile", "good day")
    assert text_of(answer).startswith("fragile: good day")
    swap = (await world.serving(ENGINES))["status"]["lastSwap"]
    assert (swap["reason"], swap["to"]) == ("EngineDied", "fragile")
    await warnings_about(world, "EngineDied", "code 1")


async def test_an_engine_that_is_evicted_is_told_as_that_and_comes_back(
    world: World, gateway: httpx.AsyncClient, servings: None
) -> None:
    assert text_of(await ask(gateway, "fragile", "good day")).startswith("fragile:")
    (pod,) = await world.objects(PODS, "modelserving.dev/model=fragile")
    spill = "import pathlib; pathlib.Path('/spill/much').write_bytes(bytes(4 << 20))"
    name = pod["metadata"]["name"]
    await world.kubectl("exec", name, "--container=engine", "--", "python3", "-c", spill)
    await warnings_about(world, "Evicted", name)
    answer = await ask(gateway, "fragile", "good day")
    assert text_of(answer).startswith("fragile:")
    swap = (await world.serving(ENGINES))["status"]["lastSwap"]
    assert (swap["reason"], swap["outcome"]) == ("Evicted", "Succeeded")
