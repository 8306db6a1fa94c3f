"""Engines that fail: before the first byte the request is put back, after it the client is told."""

import asyncio
import json
from collections.abc import Callable

import pytest

from modelserving_gateway.cluster import catalog
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


async def gives_up(connection: Connection) -> None:
    await connection.answer(b'{"choices":[{"message":{},"finish_reason":"abort"}]}')


async def gives_up_a_stream_at_once(connection: Connection) -> None:
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    await connection.chunk(b'data: {"choices":[{"finish_reason":"abort"}]}\n\ndata: [DONE]\n\n')
    await connection.chunk(b"")


async def dies_in_its_first_event(connection: Connection) -> None:
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    await connection.chunk(b'data: {"error": {"message": "EngineCore encountered an issue."}}\n\n')
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.chunk(b"")


async def dies_in_its_first_event_in_two_pieces(connection: Connection) -> None:
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    await connection.chunk(b'data: {"error": {"mess')
    await asyncio.sleep(0.02)  # so that they arrive apart
    await connection.chunk(b'age": "EngineCore encountered an issue."}}\n\n')
    await connection.chunk(b"")


BEFORE_THE_FIRST_BYTE = {
    "reset": dies_unheard,
    "closed": closes_unheard,
    "only a head": dies_after_the_head,
    "not HTTP": talks_nonsense,
    "draining": turns_down("cannot schedule new futures after shutdown"),
    "given up": gives_up,
    "stream given up": gives_up_a_stream_at_once,
    "stream of a dead core": dies_in_its_first_event,
    "stream of a dead core in pieces": dies_in_its_first_event_in_two_pieces,
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
    assert answer.headers["x-should-retry"] == "false"
    assert len(engine.requests) == 2


async def test_a_request_that_lost_its_engine_once_may_be_tried_again_when_its_budget_is_over(
    start: Start, engine: Engine
) -> None:
    engine.behaviour = hang
    gateway = await start(active(engine), hold_timeout_seconds=0.5, max_upstream_attempts=2)
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    await engine.stop()
    answer = await asking
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_not_ready_in_time"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "x-should-retry" not in answer.headers


ONLY_CODER = serving(models={"coder": []})["spec"]["models"]
TAKEN_AWAY: dict[str, tuple[Callable[[FakeCluster], None], tuple[int, str]]] = {
    "its ModelServing is deleted": (
        lambda cluster: cluster.delete("l4"),
        (503, "model_serving_deleted"),
    ),
    "its model is taken out": (
        lambda cluster: cluster.set_spec("l4", models=ONLY_CODER),
        (404, "model_not_found"),
    ),
}


@pytest.mark.parametrize(("take_away", "told"), TAKEN_AWAY.values(), ids=TAKEN_AWAY)
async def test_a_request_that_loses_its_engine_when_its_model_is_gone_is_told_how_it_went(
    start: Start,
    engine: Engine,
    take_away: Callable[[FakeCluster], None],
    told: tuple[int, str],
) -> None:
    engine.behaviour = hang
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    take_away(cluster)
    await gateway.knows("mistral", 404)
    await engine.stop()
    answer = await asking
    assert (answer.status_code, answer.json()["error"]["code"]) == told
    assert (await gateway.ask()).status_code == 404


async def test_a_request_that_loses_its_engine_goes_to_the_modelserving_that_was_made_anew(
    start: Start, engine: Engine
) -> None:
    other = await Engine().start()
    engine.behaviour = hang
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    cluster.delete("l4")
    await gateway.knows("mistral", 404)
    cluster.put(serving("anew", active="mistral", endpoint=other.url))
    await gateway.knows("mistral")
    await engine.stop()
    assert (await asking).json() == {"model": "mistral"}
    await other.stop()


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


async def test_a_stream_that_the_engine_gives_up_ends_with_an_error_event(
    start: Start, engine: Engine
) -> None:
    async def aborts(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n":0}\n\n')
        await connection.chunk(
            b'data: {"n":1}\n\ndata: {"finish_reason":"abort"}\n\ndata: [DONE]\n\n'
        )
        await connection.chunk(b"")

    engine.behaviour = aborts
    gateway = await start(active(engine))
    events = [line for line in (await gateway.ask(stream=True)).text.splitlines() if line]
    assert events[:2] == ['data: {"n":0}', 'data: {"n":1}']
    assert json.loads(events[2].removeprefix("data: "))["error"]["code"] == "upstream_lost"
    assert len(events) == 3


async def test_a_model_may_write_what_a_dying_engine_says(start: Start, engine: Engine) -> None:
    said = b'data: {"text":"data: {\\"error\\":1} EngineCore encountered an issue"}\n\n'

    async def writes_it(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(said)
        await connection.chunk(b"")

    engine.behaviour = writes_it
    gateway = await start(active(engine))
    assert (await gateway.ask(stream=True)).content == said
    assert len(engine.requests) == 1


async def test_an_engine_that_is_back_counts_as_well_from_its_first_bytes_on(
    start: Start, engine: Engine
) -> None:
    """What waits behind a long stream is no demand, though the engine was away before it."""
    go_on = asyncio.Event()

    async def streams_for_long(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n": 0}\n\n')
        await go_on.wait()
        await connection.chunk(b"")

    engine.behaviour = streams_for_long
    await engine.stop()
    cluster = active(engine)
    gateway = await start(cluster, max_in_flight=1)
    first = gateway.asking(stream=True)
    await eventually(lambda: cluster.demand() == {"mistral": 1})
    await engine.start()
    await eventually(lambda: engine.requests)
    await eventually(lambda: cluster.demand() == {})
    second = gateway.asking(stream=True)
    await gateway.held(1)
    await asyncio.sleep(0.2)  # past the shortest time between two writes
    assert cluster.demand() == {}
    go_on.set()
    assert {(await first).status_code, (await second).status_code} == {200}


STOPS_QUICKLY = {
    "swap": {"drainTimeoutSeconds": 0},
    "engine": {"image": "vllm", "shutdownTimeoutSeconds": 0},
}


async def test_a_stream_of_an_engine_that_was_stopped_and_went_silent_ends_with_an_error_event(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_STOP_SLACK", 0.1)
    left = asyncio.Event()

    async def falls_silent(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n": 0}\n\n')
        await connection.client_left()
        left.set()

    engine.behaviour = falls_silent
    cluster = FakeCluster(serving(active="mistral", endpoint=engine.url, spec=STOPS_QUICKLY))
    gateway = await start(cluster)
    asking = gateway.asking(stream=True)
    await eventually(lambda: engine.requests)
    cluster.set_status("l4", targetModel="coder")
    last = (await asking).text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_lost"
    await asyncio.wait_for(left.wait(), 5)
    await eventually(lambda: not engine.open_connections)


async def test_a_request_of_an_engine_that_was_stopped_unheard_goes_to_the_next_one(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_STOP_SLACK", 0.1)
    engine.next = [hang]
    cluster = FakeCluster(serving(active="mistral", endpoint=engine.url, spec=STOPS_QUICKLY))
    gateway = await start(cluster)
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    cluster.set_status("l4", targetModel="coder")
    await eventually(lambda: cluster.demand() == {"mistral": 1})
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    assert (await asking).json() == {"model": "mistral"}


async def test_what_runs_goes_on_when_its_endpoint_comes_back(
    start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_STOP_SLACK", 0.2)
    go_on = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = slow
    cluster = FakeCluster(serving(active="mistral", endpoint=engine.url, spec=STOPS_QUICKLY))
    gateway = await start(cluster)
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    cluster.set_status("l4", targetModel="coder")
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    await asyncio.sleep(0.4)  # past the time that the endpoint's absence would have allowed
    go_on.set()
    assert (await asking).status_code == 200
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
