"""SIGTERM: not ready at once, what runs and what is held goes on within the budget."""

import asyncio
import json

import pytest

from tests.unit.gateway.conftest import CHAT, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


async def test_a_stopping_gateway_is_not_ready_but_still_answers(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), shutdown_delay_seconds=30, shutdown_timeout_seconds=60)
    serve = gateway.task
    gateway.stop.set()
    async with asyncio.timeout(5):
        while (ready := await gateway.client.get("/readyz")).status_code == 200:
            pass
    assert ready.json() == {"status": "stopping"}
    answer = await gateway.ask()
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert not serve.done()
    serve.cancel()


async def test_a_stream_runs_to_its_end_while_the_gateway_stops(
    start: Start, engine: Engine
) -> None:
    go_on = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b"data: 1\n\n")
        await go_on.wait()
        await connection.chunk(b"data: 2\n\n")
        await connection.chunk(b"")

    engine.behaviour = slow
    gateway = await start(active(engine), shutdown_timeout_seconds=10)
    asking = gateway.asking(stream=True)
    await eventually(lambda: engine.requests)
    gateway.stop.set()
    await asyncio.sleep(0.3)
    assert not gateway.task.done()
    go_on.set()
    assert (await asking).text == "data: 1\n\ndata: 2\n\n"
    await asyncio.wait_for(gateway.task, 5)


async def test_a_held_request_is_still_answered_while_the_gateway_stops(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster, shutdown_timeout_seconds=10)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    gateway.stop.set()
    await asyncio.sleep(0.3)
    assert cluster.demand() == {"coder": 1}
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    assert (await asking).status_code == 200
    await asyncio.wait_for(gateway.task, 5)
    assert cluster.objects["l4"]["spec"]["requests"] == []


async def test_when_the_budget_is_over_everything_ends_with_an_error_and_demand_is_withdrawn(
    start: Start, engine: Engine
) -> None:
    async def endless(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b'data: {"n": 0}\n\n')
        await connection.client_left()

    async def silent(connection: Connection) -> None:
        await connection.client_left()

    engine.next = [endless, silent]
    cluster = active(engine)
    gateway = await start(cluster, shutdown_timeout_seconds=0.5)
    streaming = gateway.asking(stream=True)
    await eventually(lambda: len(engine.requests) == 1)
    plain = gateway.asking()
    held = gateway.asking("coder")
    await eventually(lambda: len(engine.requests) == 2 and cluster.demand() == {"coder": 1})
    gateway.stop.set()

    for answer in (await plain, await held):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"] == "1"
    last = (await streaming).text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
    await asyncio.wait_for(gateway.task, 5)
    assert cluster.objects["l4"]["spec"]["requests"] == []


async def test_a_client_whose_body_is_still_coming_is_told_too(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), shutdown_timeout_seconds=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode())
    await eventually(lambda: gateway.gateway.in_flight == 1)
    gateway.stop.set()
    answer = (await asyncio.wait_for(reader.read(), 5)).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert '"shutting_down"' in answer
    await asyncio.wait_for(gateway.task, 5)
    writer.close()


async def test_a_gateway_that_cannot_withdraw_its_demand_still_ends(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster, shutdown_timeout_seconds=0.2)
    held = gateway.asking("coder")
    await eventually(lambda: cluster.demand())
    cluster.failing_writes = 1_000_000
    gateway.stop.set()
    assert (await held).status_code == 503
    await asyncio.wait_for(gateway.task, 10)


async def test_the_engines_connections_are_closed_at_the_end(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine))
    await gateway.client.post(CHAT, json={"model": "mistral"})
    assert engine.open_connections == 1
    gateway.stop.set()
    await gateway.task
    await eventually(lambda: engine.open_connections == 0)
