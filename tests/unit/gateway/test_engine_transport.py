"""The transport to an engine, against a real server, in asyncio's event loop and in uvloop's."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvloop

from modelserving_gateway.engine import transport as engine_transport
from modelserving_gateway.engine.transport import EngineTransport
from tests.unit.gateway.conftest import eventually
from tests.unit.gateway.fakes import Connection, Engine, echo, stream

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Scenario = Callable[[Engine, EngineTransport], Awaitable[None]]


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Run a scenario in one of the loops, and check that it leaves nothing behind."""

    async def whole(scenario: Scenario) -> None:
        engine = await Engine().start()
        transport = EngineTransport(httpx.URL(engine.url))
        before = asyncio.all_tasks()
        async with asyncio.timeout(10):
            await scenario(engine, transport)
        assert transport.in_flight == 0
        transport.leave()
        await eventually(lambda: not engine.open_connections)
        await eventually(lambda: asyncio.all_tasks() == before)
        await engine.stop()

    def runner(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=request.param) as loop:
            loop.run(whole(scenario))

    return runner


@dataclass
class Reply:
    status: int
    body: bytes


async def ask(transport: EngineTransport, path: bytes = b"/v1/x", **timeouts: float) -> Reply:
    """Ask for a model's name and read the whole answer."""
    content = b'{"model": "mistral"}'
    exchange = await transport.send(
        b"POST",
        path,
        [(b"host", b"engine"), (b"content-length", b"%d" % len(content))],
        content,
        connect_timeout=timeouts.get("connect", 5),
        read_timeout=timeouts.get("read", 5),
        patience=0.1,
    )
    try:
        return Reply(exchange.status, b"".join([part async for part in exchange]))
    finally:
        exchange.close()


def test_a_request_and_a_stream_come_through(run: Callable[[Scenario], None]) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        assert await ask(transport, b"/v1/y?a=b") == Reply(200, b'{"model": "mistral"}')
        engine.behaviour = stream
        assert (await ask(transport)).body.endswith(b"data: [DONE]\n\n")
        assert engine.requests[0].path == "/v1/y?a=b"
        assert engine.requests[0].headers["host"] == "engine"

    run(scenario)


def test_connections_are_kept_and_the_last_one_is_used_first(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        await asyncio.gather(*(ask(transport) for _ in range(5)))
        assert engine.open_connections == engine.connections == 5
        for _ in range(20):
            await ask(transport)
        assert engine.connections == 5

    run(scenario)


def test_there_are_as_many_connections_as_requests(run: Callable[[Scenario], None]) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        everybody = asyncio.Barrier(300)

        async def together(connection: Connection) -> None:
            await everybody.wait()
            await echo(connection)

        engine.behaviour = together
        replies = await asyncio.gather(*(ask(transport) for _ in range(300)))
        assert {reply.status for reply in replies} == {200}

    run(scenario)


def test_requests_reach_the_engine_in_their_order_however_long_connections_take(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        loop = asyncio.get_running_loop()
        create, delays = loop.create_connection, [0.2, 0.1, 0.0]

        async def slow(*arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(delays.pop(0))
            return await create(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", lambda: _Patched(loop, slow))
            await asyncio.gather(*(ask(transport, b"/%d" % number) for number in range(3)))
        assert [request.path for request in engine.requests] == ["/0", "/1", "/2"]

    run(scenario)


class _Patched:
    """An event loop that connects in another way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Any) -> None:
        self._loop = loop
        self.create_connection = connect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_request_that_leaves_while_it_connects_takes_nothing_with_it(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        for _ in range(30):
            left, stays = (asyncio.create_task(ask(transport)) for _ in range(2))
            await asyncio.sleep(0)
            left.cancel()
            assert (await stays).status == 200
        await eventually(lambda: transport.in_flight == 0)

    run(scenario)


def test_a_connection_that_nobody_needs_any_more_fails_nobody(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        loop = asyncio.get_running_loop()
        fail = asyncio.Event()

        async def late(*arguments: Any, **options: Any) -> Any:
            if not fail.is_set():
                await fail.wait()
                raise ConnectionRefusedError("late")
            await asyncio.sleep(0.05)
            return await loop.create_connection(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", lambda: _Patched(loop, late))
            left = asyncio.create_task(ask(transport))
            await asyncio.sleep(0.01)
            left.cancel()
            await asyncio.wait({left})
            fail.set()  # what was opened for it fails after a later request has begun
            assert (await ask(transport)).status == 200

    run(scenario)


def test_requests_that_leave_in_the_moment_that_their_connection_fails_harm_nobody(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        loop = asyncio.get_running_loop()
        problems: list[Any] = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        await engine.stop()
        for delay in range(20):
            tasks = [asyncio.create_task(ask(transport)) for _ in range(3)]
            for _ in range(delay % 5):
                await asyncio.sleep(0)
            tasks[0].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(each) for each in results} <= {asyncio.CancelledError, httpx.ConnectError}
        await engine.start()
        assert (await ask(transport)).status == 200
        assert not problems

    run(scenario)


def test_idle_connections_are_closed_before_the_engine_would(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_transport, "KEEP_ALIVE_SECONDS", 0.1)

    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        await asyncio.gather(*(ask(transport) for _ in range(3)))
        await eventually(lambda: not engine.open_connections)

    run(scenario)


def test_a_refused_connection_and_a_full_network_are_connect_errors(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        await engine.stop()
        with pytest.raises(httpx.ConnectError):
            await ask(transport)
        nowhere = EngineTransport(httpx.URL("http://192.0.2.1:9"))
        with pytest.raises((httpx.ConnectTimeout, httpx.ConnectError)):
            await ask(nowhere, connect=0.05)
        assert nowhere.in_flight == 0
        await engine.start()

    run(scenario)


def test_a_cancelled_request_closes_its_connection_at_any_point(
    run: Callable[[Scenario], None],
) -> None:
    async def slow(connection: Connection) -> None:
        await asyncio.sleep(0.002)
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        for number in range(50):
            await connection.chunk(b"data: %d\n\n" % number)
            await asyncio.sleep(0.0005)
        await connection.chunk(b"")

    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        engine.behaviour = slow
        for number in range(40):
            task = asyncio.create_task(ask(transport))
            await asyncio.sleep(number * 0.0003)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await eventually(lambda: not engine.open_connections)

    run(scenario)


def test_a_kept_connection_that_was_closed_is_not_used(run: Callable[[Scenario], None]) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        await ask(transport)
        await engine.stop()
        await engine.start()
        await eventually(lambda: not engine.open_connections)
        await asyncio.sleep(0.02)
        assert (await ask(transport)).status == 200

    run(scenario)


def test_an_engine_that_leaves_has_patience_for_what_runs_and_keeps_no_connection(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(engine: Engine, transport: EngineTransport) -> None:
        go_on = asyncio.Event()

        async def waits(connection: Connection) -> None:
            await go_on.wait()
            await echo(connection)

        engine.behaviour = waits
        lost, kept = (asyncio.create_task(ask(transport)) for _ in range(2))
        await eventually(lambda: len(engine.requests) == 2)
        transport.leave()
        with pytest.raises(httpx.ReadError, match="taken away"):
            await lost
        with pytest.raises(httpx.ReadError):
            await kept
        engine.requests.clear()
        transport.stay()
        kept = asyncio.create_task(ask(transport))
        await eventually(lambda: engine.requests)
        transport.leave()
        transport.stay()
        await asyncio.sleep(0.2)  # past its patience
        go_on.set()
        assert (await kept).status == 200
        await eventually(lambda: not engine.open_connections)

    run(scenario)


@pytest.mark.parametrize("header", [("a", "b\r\nc: d"), ("a\r\nb", "c"), ("a", "b\0"), ("a", "\n")])
async def test_a_header_cannot_smuggle_another(engine: Engine, header: tuple[str, str]) -> None:
    transport = EngineTransport(httpx.URL(engine.url))
    with pytest.raises(httpx.LocalProtocolError):
        await transport.send(
            b"POST",
            b"/",
            [(header[0].encode(), header[1].encode())],
            b"",
            connect_timeout=1,
            read_timeout=1,
            patience=0,
        )
    assert engine.connections == 0


def test_what_is_not_http_is_refused() -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        EngineTransport(httpx.URL("https://127.0.0.1"))
