"""What a client may ask for by header: how it is read, and that it is followed."""

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.priority import Priority
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.wishes import Wishes, read_wishes
from tests.unit.gateway.conftest import CHAT, Running, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, echo, serving

in_loop = pytest.mark.asyncio(loop_scope="module")


def read(
    given: Mapping[str, str], usual: Priority = Priority.NORMAL, most: Priority = Priority.HIGH
) -> Wishes:
    headers = [
        (f"x-modelserving-{name.replace('_', '-')}".encode(), value.encode())
        for name, value in given.items()
    ]
    return read_wishes([(b"content-type", b"application/json"), *headers], usual=usual, most=most)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Wishes()),
        ({"priority": "High"}, Wishes(priority=Priority.HIGH)),
        ({"priority": " low "}, Wishes(priority=Priority.LOW)),
        ({"swap": "never"}, Wishes(may_swap=False)),
        ({"swap": "Allow"}, Wishes()),
        ({"fallback": "coder, llava ,"}, Wishes(fallback=("coder", "llava"))),
        ({"fallback": "*"}, Wishes(fallback=("*",))),
        ({"hold_seconds": "2.5"}, Wishes(hold_seconds=2.5)),
        ({"hold_seconds": "0"}, Wishes(hold_seconds=0)),
        ({"something_newer": "1"}, Wishes()),
    ],
)
def test_wishes_are_read_from_headers(given: dict[str, str], expected: Wishes) -> None:
    assert read(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"priority": "urgent"},
        {"priority": ""},
        {"swap": "no"},
        {"fallback": " , "},
        {"fallback": ",".join("abcdefghijklmnopq")},
        {"hold_seconds": "-1"},
        {"hold_seconds": "nan"},
        {"hold_seconds": "inf"},
        {"hold_seconds": "1e9"},
        {"hold_seconds": "9" * 400},
        {"hold_seconds": "٣"},
    ],
    ids=str,
)
def test_a_wish_that_is_not_understood_is_an_error_that_says_what_is(given: dict[str, str]) -> None:
    with pytest.raises(ApiError, match=r"must be") as caught:
        read(given)
    assert (caught.value.status, caught.value.code) == (400, "invalid_header")
    assert caught.value.param is not None
    assert caught.value.param.startswith("X-ModelServing-")


def test_a_request_may_ask_for_less_than_its_key_allows_and_never_for_more() -> None:
    key = {"usual": Priority.NORMAL, "most": Priority.NORMAL}
    assert read({}, **key).priority is Priority.NORMAL
    assert read({"priority": "high"}, **key).priority is Priority.NORMAL
    assert read({"priority": "low"}, **key).priority is Priority.LOW
    assert read({}, usual=Priority.HIGH, most=Priority.HIGH).priority is Priority.HIGH


@given(st.binary(max_size=20), st.sampled_from(["priority", "swap", "fallback", "hold-seconds"]))
def test_whatever_a_header_holds_is_read_or_refused(value: bytes, name: str) -> None:
    headers = [(f"x-modelserving-{name}".encode(), value)]
    with suppress(ApiError):
        wishes = read_wishes(headers, usual=Priority.LOW, most=Priority.HIGH)
        assert 0 <= wishes.hold_seconds <= math.inf


def active(engine: Engine, model: str = "mistral") -> FakeCluster:
    models: dict[str, list[str]] = {"mistral": ["gpt-4"], "coder": ["codex"], "llava": []}
    return FakeCluster(serving(models=models, active=model, endpoint=engine.url))


async def ask(gateway: Running, model: str, **headers: str) -> Any:
    named = {f"X-ModelServing-{name.replace('_', '-')}": value for name, value in headers.items()}
    return await gateway.client.post(CHAT, json={"model": model}, headers=named)


@in_loop
async def test_a_request_that_refuses_a_swap_gets_409_with_what_is_active(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    answer = await ask(gateway, "coder", swap="never")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_not_active")
    assert "mistral" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert not cluster.applied
    assert (await ask(gateway, "mistral", swap="never")).status_code == 200


@in_loop
async def test_a_request_that_refuses_a_swap_ends_when_its_model_goes_before_its_turn(
    start: Start, engine: Engine
) -> None:
    go_on = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = slow
    cluster = active(engine)
    gateway = await start(cluster, max_in_flight=1)
    running = asyncio.create_task(ask(gateway, "mistral"))
    await eventually(lambda: engine.requests)
    waiting = asyncio.create_task(ask(gateway, "mistral", swap="never"))
    await gateway.held(1)
    cluster.set_status("l4", targetModel="coder")
    assert (await waiting).status_code == 409
    go_on.set()
    assert (await running).status_code == 200


@in_loop
async def test_a_request_is_answered_by_the_first_of_its_fallbacks_that_is_active(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine, "coder")
    gateway = await start(cluster)
    answer = await ask(gateway, "mistral", fallback="llava, gone, codex, *")
    assert answer.json() == {"model": "coder"}
    assert answer.headers["x-modelserving-model"] == "coder"
    assert not cluster.applied
    told = (await gateway.client.get("/metrics")).text
    assert 'fallbacks_total{answered_by="coder",model="mistral"} 1.0' in told


@in_loop
async def test_the_model_that_was_asked_for_goes_before_its_fallbacks(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    answer = await ask(gateway, "gpt-4", fallback="coder,*")
    assert answer.json() == {"model": "gpt-4"}
    assert answer.headers["x-modelserving-model"] == "mistral"


@in_loop
async def test_without_an_active_fallback_the_request_waits_for_its_own_model(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = asyncio.create_task(ask(gateway, "coder", fallback="llava"))
    await eventually(lambda: cluster.demand() == {"coder": 1})
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    assert (await asking).json() == {"model": "coder"}


@in_loop
async def test_a_fallback_that_goes_before_its_turn_is_not_swapped_in_for_the_request(
    start: Start, engine: Engine
) -> None:
    go_on = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = slow
    cluster = active(engine)
    gateway = await start(cluster, max_in_flight=1)
    running = asyncio.create_task(ask(gateway, "mistral"))
    await eventually(lambda: engine.requests)
    falling_back = asyncio.create_task(ask(gateway, "coder", fallback="mistral"))
    await gateway.held(1)
    cluster.set_status("l4", targetModel="llava")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    go_on.set()
    assert (await running).status_code == 200
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    answer = await falling_back
    assert answer.json() == {"model": "coder"}
    assert answer.headers["x-modelserving-model"] == "coder"
    told = (await gateway.client.get("/metrics")).text
    assert "fallbacks_total{" not in told


@in_loop
async def test_a_request_whose_model_and_fallback_are_both_deleted_is_told_so(
    start: Start, engine: Engine
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.client_left()

    engine.behaviour = hang
    cluster = FakeCluster(
        serving("a", {"coder": ["codex"]}),
        serving("b", {"mistral": []}, active="mistral", endpoint=engine.url),
    )
    gateway = await start(cluster)
    asking = asyncio.create_task(ask(gateway, "codex", fallback="mistral"))
    await eventually(lambda: engine.requests)
    cluster.delete("a")
    cluster.delete("b")
    await gateway.knows("mistral", 404)
    await engine.stop()
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_serving_deleted")
    assert "codex" in answer.json()["error"]["message"]


@in_loop
async def test_any_active_model_means_the_largest(start: Start, engine: Engine) -> None:
    def one(name: str, memory: str) -> dict[str, Any]:
        body = serving(name, {name: []}, active=name, endpoint=engine.url)
        body["spec"]["models"][0]["gpuMemory"] = memory
        return body

    cluster = FakeCluster(
        one("small", "7Gi"), one("big", "20Gi"), one("middle", "9Gi"), serving("off", {"off": []})
    )
    gateway = await start(cluster)
    answer = await ask(gateway, "off", fallback="*")
    assert answer.headers["x-modelserving-model"] == "big"


@in_loop
async def test_a_request_waits_no_longer_than_it_asked_for(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    for seconds in ("0", "0.1"):
        answer = await ask(gateway, "coder", hold_seconds=seconds)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            503,
            "model_not_ready_in_time",
        )
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await ask(gateway, "mistral", hold_seconds="0")).status_code == 200


@in_loop
async def test_a_model_may_have_a_hold_budget_of_its_own(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    models = cluster.objects["l4"]["spec"]["models"]
    models[1]["holdTimeoutSeconds"] = 1
    cluster.set_spec("l4", models=models)
    gateway = await start(cluster, hold_timeout_seconds=0.05)
    slow = asyncio.create_task(ask(gateway, "coder"))
    answer = await ask(gateway, "llava")
    assert "within 0.05 seconds" in answer.json()["error"]["message"]
    assert not slow.done()
    assert "within 1 seconds" in (await slow).json()["error"]["message"]


@in_loop
async def test_an_urgent_request_goes_first_and_a_late_one_last(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster, max_in_flight=1)
    asking = []
    for number, priority in enumerate(("low", "normal", "high", "normal", "high")):
        body = {"model": "coder", "seed": number}
        headers = {"X-ModelServing-Priority": priority}
        asking.append(asyncio.create_task(gateway.client.post(CHAT, json=body, headers=headers)))
        await gateway.held(number + 1)
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    await asyncio.gather(*asking)
    assert [request.json["seed"] for request in engine.requests] == [2, 4, 1, 3, 0]


@in_loop
async def test_an_engine_gets_no_more_at_a_time_than_it_may_have_and_the_rest_is_no_demand(
    start: Start, engine: Engine
) -> None:
    go_on = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = slow
    cluster = active(engine)
    gateway = await start(cluster, max_in_flight=3)
    asking = [asyncio.create_task(ask(gateway, "mistral")) for _ in range(8)]
    await gateway.held(5)
    await eventually(lambda: len(engine.requests) == 3)
    assert not cluster.applied
    late = await ask(gateway, "mistral", hold_seconds="0.05")
    assert (late.status_code, late.json()["error"]["code"]) == (503, "model_busy")
    go_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
