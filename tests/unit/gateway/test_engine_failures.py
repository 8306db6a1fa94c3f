"""Engines that fail: before the first byte the request is put back, after it the client is told."""

import asyncio
import json

import pytest

from tests.unit.gateway.conftest import CHAT, Start, eventually
from tests.unit.gateway.fakes import Behaviour, Connection, Engine, FakeCluster, echo, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


async def dies_unheard(connection: Connection) -> None:
    connection.die()


async def closes_unheard(connection: Connection) -> None:
    connection.writer.close()


async def dies_after_the_head(connection: Connection) -> None:
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    connection.die()


async def talks_nonsense(connection: Connection) -> None:
    await connection.send(b"hello\r\n\r\n")
    connection.die()


def turns_down(message: str) -> Behaviour:
    async def behaviour(connection: Connection) -> None:
        await connection.answer(json.dumps({"error": {"message": message}}).encode(), status=500)

    return behaviour


BEFORE_THE_FIRST_BYTE = {
    "reset": dies_unheard,
    "closed": closes_unheard,
    "only a head": dies_after_the_head,
    "not HTTP": talks_nonsense,
    "draining": turns_down("cannot schedule new futures after shutdown"),
    "core died": turns_down("EngineCore encountered an issue. See stack trace (above)"),
}


@pytest.mark.parametrize("failure", BEFORE_THE_FIRST_BYTE.values(), ids=BEFORE_THE_FIRST_BYTE)
async def test_a_request_whose_engine_fails_before_the_first_byte_is_sent_again(
    start: Start, engine: Engine, failure: Behaviour
) -> None:
    engine.next = [failure]
    gateway = await start(active(engine))
    answer = await gateway.ask()
    assert (answer.status_code, answer.json()) == (200, {"model": "mistral"})
    assert len(engine.requests) == 2
    assert engine.requests[0].body == engine.requests[1].body


async def test_a_refused_connection_is_tried_again_until_the_engine_is_back(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    await engine.stop()
    gateway = await start(cluster, max_upstream_attempts=1)
    asking = gateway.asking()
    await gateway.held(1)
    await eventually(lambda: cluster.demand() == {"mistral": 1})
    await engine.start()
    assert (await asking).status_code == 200


async def test_a_lost_request_goes_to_the_next_engine_as_soon_as_it_is_known(
    start: Start, engine: Engine
) -> None:
    other = await Engine().start()
    await engine.stop()
    cluster = active(engine)
    gateway = await start(cluster)
    asking = [gateway.asking(seed=number) for number in range(5)]
    await gateway.held(5)
    cluster.set_status("l4")
    await asyncio.sleep(0.3)  # past the pause before the next try at the lost engine
    cluster.set_status("l4", activeModel="mistral", endpoint=other.url)
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}
    assert len(other.requests) == 5
    await other.stop()


async def test_a_request_that_kills_every_engine_is_not_sent_for_ever(
    start: Start, engine: Engine
) -> None:
    engine.behaviour = dies_unheard
    gateway = await start(active(engine), max_upstream_attempts=2)
    answer = await gateway.ask()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_failed"
    assert len(engine.requests) == 2


async def test_an_engine_that_never_comes_back_ends_in_an_error_when_the_budget_is_over(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    await engine.stop()
    gateway = await start(cluster, hold_timeout_seconds=0.3)
    answer = await gateway.ask()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_not_ready_in_time"
    await eventually(lambda: cluster.demand() == {})


async def test_a_silent_engine_is_a_504_and_not_asked_again(start: Start, engine: Engine) -> None:
    async def hang(connection: Connection) -> None:
        await connection.client_left()

    engine.behaviour = hang
    gateway = await start(active(engine), upstream_read_timeout_seconds=0.1)
    answer = await gateway.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(engine.requests) == 1


async def reset(connection: Connection) -> None:
    connection.die()


async def hang(connection: Connection) -> None:
    await connection.client_left()


@pytest.mark.parametrize(
    ("end", "code"), [(reset, "upstream_lost"), (hang, "upstream_timeout")], ids=["reset", "hang"]
)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_half_event(
    start: Start, engine: Engine, end: Behaviour, code: str
) -> None:
    async def breaks(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n": 0}\n\ndata: {"n"')
        await end(connection)

    engine.behaviour = breaks
    gateway = await start(active(engine), upstream_read_timeout_seconds=0.3)
    answer = await gateway.ask(stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert json.loads(events[0]) == {"n": 0}
    error = json.loads(events[1])["error"]
    assert (error["type"], error["code"]) == ("server_error", code)
    assert len(events) == 2
    assert len(engine.requests) == 1


async def test_a_plain_answer_that_breaks_is_a_502_and_not_asked_again(
    start: Start, engine: Engine
) -> None:
    async def breaks(connection: Connection) -> None:
        await connection.head(content_type="application/json", content_length="100")
        await connection.send(b'{"id": ')
        connection.die()

    engine.behaviour = breaks
    gateway = await start(active(engine))
    answer = await gateway.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_lost")
    assert len(engine.requests) == 1


async def test_a_client_that_leaves_between_two_tries_is_out_at_once(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    await engine.stop()
    gateway = await start(cluster)
    asking = gateway.asking()
    await gateway.held(1)
    asking.cancel()
    await gateway.held(0)
    await eventually(lambda: cluster.demand() == {})


async def test_an_ordinary_error_500_of_the_engine_is_passed_on(
    start: Start, engine: Engine
) -> None:
    engine.behaviour = turns_down("list index out of range")
    gateway = await start(active(engine))
    answer = await gateway.client.post(CHAT, json={"model": "mistral"})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "list index out of range"
    assert len(engine.requests) == 1


async def test_a_kept_connection_that_the_engine_closes_costs_no_request(
    start: Start, engine: Engine
) -> None:
    async def answers_and_closes(connection: Connection) -> None:
        await echo(connection)
        connection.writer.close()

    engine.behaviour = answers_and_closes
    gateway = await start(active(engine))
    for _ in range(20):
        assert (await gateway.ask()).status_code == 200
