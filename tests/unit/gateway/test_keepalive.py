"""A streaming client that is held: comments while it waits, and errors that it can still read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.unit.gateway.conftest import CHAT, Running, Start, eventually
from tests.unit.gateway.fakes import (
    Behaviour,
    Connection,
    Engine,
    FakeCluster,
    echo,
    serving,
    stream,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = {"hold_grace_seconds": 0.05, "keepalive_seconds": 0.05}


class Reading:
    """A stream as its client reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.lines: list[str] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for line in self.response.aiter_lines():
            self.lines.append(line)

    @property
    def comments(self) -> list[str]:
        return [line for line in self.lines if line.startswith(":")]

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self.lines if line.startswith("data: ")]


@asynccontextmanager
async def reading(gateway: Running, path: str = CHAT, **fields: object) -> AsyncIterator[Reading]:
    body = {"model": "coder", "stream": True, **fields}
    async with gateway.client.stream("POST", path, json=body) as response:
        yield Reading(response)


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


def serve_coder(cluster: FakeCluster, engine: Engine) -> None:
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)


async def test_a_held_stream_gets_its_head_and_comments_that_say_how_far_the_swap_is(
    start: Start, engine: Engine
) -> None:
    engine.behaviour = stream
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        assert client.response.status_code == 200
        assert client.response.headers["content-type"].startswith("text/event-stream")
        assert client.response.headers["x-modelserving-model"] == "coder"
        await eventually(lambda: len(client.comments) >= 2)
        assert "model=coder" in client.comments[0]
        assert "state=Waiting" in client.comments[0]
        assert "estimated_seconds=40" in client.comments[0]
        swap = {
            "id": "1",
            "to": "coder",
            "reason": "Demand",
            "message": "",
            "phase": "Loading",
            "startedTime": "2026-11-24T10:00:00Z",
        }
        cluster.set_status("l4", targetModel="coder", currentSwap=swap)
        await eventually(lambda: "state=Loading" in client.comments[-1])
        serve_coder(cluster, engine)
        await client.task
        assert client.events == ['{"n": 0}', '{"n": 1}', '{"n": 2}', "[DONE]"]


async def test_comments_go_on_until_the_engine_begins_and_never_stand_within_its_answer(
    start: Start, engine: Engine
) -> None:
    begin, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Connection) -> None:
        await begin.wait()
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n": 0}\n\n')
        await go_on.wait()
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.chunk(b"")

    engine.behaviour = slow
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        serve_coder(cluster, engine)
        await eventually(lambda: engine.requests)
        before = len(client.comments)
        await eventually(lambda: len(client.comments) > before + 1)
        assert "state=Ready" in client.comments[-1]
        begin.set()
        await eventually(lambda: client.events)
        before = len(client.comments)
        await asyncio.sleep(0.2)  # four times the interval: nothing may come
        assert len(client.comments) == before
        go_on.set()
        await client.task


async def test_a_stream_whose_engine_is_silent_is_kept_alive_though_it_was_never_held(
    start: Start, engine: Engine
) -> None:
    begin = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await begin.wait()
        await stream(connection)

    engine.behaviour = slow
    gateway = await start(active(engine), **QUICK)
    async with reading(gateway, model="mistral") as client:
        await eventually(lambda: len(client.comments) > 1)
        assert "state=Ready requests_ahead=0" in client.comments[0]
        begin.set()
        await client.task
    assert client.events[-1] == "[DONE]"


async def test_a_stream_that_is_held_for_less_than_the_grace_is_answered_as_ever(
    start: Start, engine: Engine
) -> None:
    async def refuses(connection: Connection) -> None:
        await connection.answer(b'{"error": {"message": "too long"}}', status=400)

    engine.behaviour = refuses
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder", stream=True)
    await gateway.held(1)
    serve_coder(cluster, engine)
    assert (await asking).status_code == 400


async def test_a_plain_request_gets_nothing_before_its_answer(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    asking = gateway.asking("coder")
    await gateway.held(1)
    await asyncio.sleep(0.2)
    serve_coder(cluster, engine)
    assert (await asking).content == b'{"model": "coder"}'


def last_error(client: Reading) -> dict[str, str]:
    error = json.loads(client.events[-1])["error"]
    assert isinstance(error, dict)
    return error


async def test_the_end_of_the_budget_arrives_as_an_error_event(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), hold_timeout_seconds=0.2, **QUICK)
    async with reading(gateway) as client:
        await client.task
    assert last_error(client)["code"] == "model_not_ready_in_time"
    assert last_error(client).keys() == {"message", "type", "param", "code"}
    text = (await gateway.client.get("/metrics")).text
    assert 'requests_total{model="coder",status="503"} 1.0' in text


async def test_anthropics_client_gets_its_own_kind_of_error_event(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), hold_timeout_seconds=0.2, **QUICK)
    async with reading(gateway, "/v1/messages") as client:
        await client.task
    assert "event: error" in client.lines
    event = json.loads(client.events[-1])
    assert event["type"] == "error"
    assert event["error"]["type"] == "overloaded_error"


async def refuses(connection: Connection) -> None:
    await connection.answer(
        b'{"error": {"message": "too long", "code": "context_length_exceeded"}}', status=400
    )


async def answers_in_html(connection: Connection) -> None:
    await connection.answer(b"<h1>500</h1>", status=500, content_type="text/html")


@pytest.mark.parametrize(
    ("behaviour", "code", "message"),
    [
        (refuses, "context_length_exceeded", "too long"),
        (answers_in_html, "engine_error", "The engine of `coder` answered with status 500."),
    ],
    ids=["its own error", "not even JSON"],
)
async def test_an_error_of_the_engine_after_the_head_is_an_event(
    start: Start, engine: Engine, behaviour: Behaviour, code: str, message: str
) -> None:
    engine.behaviour = behaviour
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        serve_coder(cluster, engine)
        await client.task
    assert (last_error(client)["code"], last_error(client)["message"]) == (code, message)


async def test_a_plain_answer_after_the_head_is_an_event(start: Start, engine: Engine) -> None:
    engine.behaviour = echo
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        serve_coder(cluster, engine)
        await client.task
    assert client.events == ['{"model": "coder"}']


async def test_a_held_stream_whose_engine_dies_unheard_waits_on_for_the_next(
    start: Start, engine: Engine
) -> None:
    async def dies(connection: Connection) -> None:
        connection.die()

    engine.next = [dies, dies]
    engine.behaviour = stream
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        serve_coder(cluster, engine)
        await client.task
    assert client.events[-1] == "[DONE]"
    assert len(engine.requests) == 3


async def test_a_client_that_leaves_after_comments_is_out_at_once(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster, **QUICK)
    async with reading(gateway) as client:
        await eventually(lambda: client.comments)
        client.task.cancel()
    await gateway.held(0)
    await eventually(lambda: cluster.demand() == {})
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "keepalive"]


async def test_the_alias_stands_in_every_event_of_a_held_stream(
    start: Start, engine: Engine
) -> None:
    async def says_its_name(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"model":"mistral","n":')
        await connection.chunk(
            b'0}\n\ndata: {"model":"mistral","text":"\\"model\\":\\"mistral\\""}\n'
        )
        await connection.chunk(b"\n")
        await connection.chunk(b"")

    engine.behaviour = says_its_name
    cluster = FakeCluster(serving(active="coder", endpoint=engine.url))
    gateway = await start(cluster, **QUICK)
    async with reading(gateway, model="gpt-4") as client:
        cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
        await client.task
    told = [json.loads(event) for event in client.events]
    assert [each["model"] for each in told] == ["gpt-4", "gpt-4"]
    assert told[1]["text"] == '"model":"mistral"'
