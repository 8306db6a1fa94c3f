"""The bytes of an engine's answer: however they are split, the same answer or the same failure."""

import asyncio
import socket
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelserving_gateway.engine.connection import MAX_HEAD_BYTES, Connection, EngineExchange

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n"
    b"3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\nx-t: 1\r\n\r\n"
)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall of it"


class Transport:
    """As much of a transport as a connection needs; what happened to it can be asked."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.paused = False
        self.unsent = 0

    def get_extra_info(self, _: str) -> Any:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert level in (socket.SOL_SOCKET, socket.IPPROTO_TCP)

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, parts: Any) -> None:
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Wire:
    """A connection whose other side is the test."""

    def __init__(self) -> None:
        self.released: list[Connection] = []
        self.transport = Transport()
        self.connection = Connection(asyncio.get_running_loop(), self.released.append)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def ask(self, method: bytes = b"POST", read_timeout: float | None = None) -> EngineExchange:
        return self.connection.begin(method, b"head", b"content", read_timeout)

    def feed(self, data: bytes, cuts: list[int] | None = None) -> None:
        """Deliver the data in pieces, as long as the connection is open."""
        bounds = [0, *sorted(cuts or []), len(data)]
        for start, end in pairwise(bounds):
            if (piece := data[start:end]) and not self.transport.closed:
                self.connection.data_received(piece)

    def eof(self) -> None:
        self.connection.eof_received()
        self.connection.connection_lost(None)


async def read(exchange: EngineExchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    async with asyncio.timeout(2):
        await exchange.answer_begins()
        body = b"".join([part async for part in exchange])
    return exchange.status, exchange.headers, body


Outcome = tuple[Any, ...]


async def outcome(data: bytes, cuts: list[int], *, method: bytes = b"POST") -> Outcome:
    """Return the answer or its failure, and whether the connection may be used again."""
    wire = Wire()
    exchange = wire.ask(method)
    wire.feed(data, cuts)
    reusable = wire.connection.usable
    if not wire.released:
        wire.eof()
    try:
        return (*await read(exchange), reusable)
    except httpx.TransportError as error:
        return (type(error),)


ANSWERS = {
    "length": (JSON, (200, b"{}")),
    "chunks": (CHUNKED, (200, b"abcd")),
    "until close": (UNTIL_CLOSE, (200, b"all of it")),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + JSON,
        (200, b"{}"),
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", (304, b"")),
    "http 1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", (200, b"ok")),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", (200, b"ok")),
    "close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", (200, b"ok")),
    "unknown coding": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nz", (200, b"z")),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", (200, b"")),
}


@pytest.mark.parametrize(("data", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_every_way_to_end_a_body_is_understood(
    data: bytes, expected: tuple[int, bytes]
) -> None:
    status, headers, body, _ = await outcome(data, [])
    assert (status, body) == expected
    assert all(name == name.lower() for name, _ in headers)
    assert not any(name in (b"link", b"x-t") for name, _ in headers)


@pytest.mark.parametrize("data", [data for data, _ in ANSWERS.values()], ids=ANSWERS)
async def test_an_answer_that_comes_byte_by_byte_is_the_same(data: bytes) -> None:
    assert await outcome(data, list(range(len(data)))) == await outcome(data, [])


@given(
    data=st.sampled_from([data for data, _ in ANSWERS.values()]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
    kept=st.integers(0, 250),
    more=st.sampled_from([b"", b"H", b"x", JSON]),
)
@example(data=CHUNKED, cuts=[70, 71, 72], kept=250, more=b"")
def test_any_split_of_any_beginning_of_an_answer_gives_the_same(
    data: bytes, cuts: list[int], kept: int, more: bytes
) -> None:
    async def check() -> None:
        whole = data[:kept] + (more if kept >= len(data) else b"")
        assert await outcome(whole, cuts) == await outcome(whole, [])

    asyncio.run(check())


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_no_bytes_make_it_fail_in_any_other_way_than_a_transport_error(
    data: bytes, cuts: list[int]
) -> None:
    async def check() -> None:
        assert await outcome(data, cuts) == await outcome(data, [])
        assert await outcome(JSON[:-3] + data, cuts) == await outcome(JSON[:-3] + data, [])

    asyncio.run(check())


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "not http": b"hello\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "an unknown status": b"HTTP/1.1 700 What\r\ncontent-length: 0\r\n\r\n",
    "half a status": b"HTTP/1.1 099 What\r\ncontent-length: 0\r\n\r\n",
    "a bare line feed": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "a control character": b"HTTP/1.1 200 OK\r\nx: \x01\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_is_none_is_a_protocol_error(data: bytes) -> None:
    assert await outcome(data, []) == (httpx.RemoteProtocolError,)


async def test_an_answer_to_head_has_no_body_and_the_connection_goes_on() -> None:
    wire = Wire()
    exchange = wire.ask(b"HEAD")
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
    assert (await read(exchange))[::2] == (200, b"")
    assert wire.connection.usable
    exchange = wire.ask()
    wire.feed(JSON)
    assert (await read(exchange))[::2] == (200, b"{}")


async def test_a_connection_carries_one_answer_after_the_other() -> None:
    wire = Wire()
    for data in (JSON, CHUNKED, JSON):
        exchange = wire.ask()
        wire.feed(data)
        await read(exchange)
        assert wire.connection.usable
    assert len(wire.released) == 3


@pytest.mark.parametrize("stray", [b"x", b"\r\nHTTP", JSON])
@pytest.mark.parametrize("later", [False, True])
async def test_bytes_after_the_end_never_become_anothers_answer(stray: bytes, later: bool) -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(JSON if later else JSON + stray)
    if later:
        wire.feed(stray)
    assert (await read(exchange))[::2] == (200, b"{}")
    assert not wire.connection.usable
    assert wire.transport.closed


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 5 * MAX_HEAD_BYTES,
        b"HTTP/1.1 102 Processing\r\n\r\n" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"x: y\r\n" * MAX_HEAD_BYTES,
    ],
    ids=["headers", "a header", "interim answers", "trailers"],
)
async def test_what_is_neither_body_nor_end_is_bounded(endless: bytes) -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(endless, list(range(0, len(endless), 10_000)))
    with pytest.raises(httpx.RemoteProtocolError, match="larger than"):
        await read(exchange)
    assert wire.transport.closed


async def test_a_long_stream_of_small_chunks_is_not_taken_for_an_endless_head() -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(MAX_HEAD_BYTES // 2):
        wire.feed(b"1\r\n")
        wire.feed(b"x\r\n")
        exchange.buffered = 0
    assert not wire.transport.closed


async def test_an_engine_must_wait_while_nobody_takes_what_it_sends() -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 200_000)
    assert not wire.transport.paused
    wire.feed(b"x" * 200_000)
    assert wire.transport.paused
    assert await anext(exchange) == b"x" * 400_000
    assert not wire.transport.paused


async def test_silence_is_timed_from_the_last_byte_and_not_while_nobody_reads() -> None:
    wire = Wire()
    exchange = wire.ask(read_timeout=0.1)
    for _ in range(4):
        await asyncio.sleep(0.05)
        wire.feed(
            b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n" if not exchange.status else b"x"
        )
    wire.feed(b"x" * 300_000)
    await asyncio.sleep(0.25)  # paused: the engine may not send
    assert len(await anext(exchange)) > 300_000
    with pytest.raises(httpx.ReadTimeout):
        await anext(exchange)
    assert wire.transport.closed


async def test_a_large_request_on_its_way_is_no_silence() -> None:
    wire = Wire()
    wire.transport.unsent = 1_000_000
    exchange = wire.connection.begin(b"POST", b"head", b"x" * 1_000_000, 0.1)
    for _ in range(4):
        await asyncio.sleep(0.06)
        wire.transport.unsent -= 200_000
        assert not wire.transport.closed
    with pytest.raises(httpx.ReadTimeout):
        await exchange.answer_begins()


async def test_an_idle_connection_is_not_timed() -> None:
    wire = Wire()
    exchange = wire.ask(read_timeout=0.05)
    wire.feed(JSON)
    await read(exchange)
    await asyncio.sleep(0.15)
    assert wire.connection.usable
    exchange = wire.ask(read_timeout=0.05)
    with pytest.raises(httpx.ReadTimeout):
        await exchange.answer_begins()


async def test_an_answer_that_is_let_go_of_closes_its_connection() -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(JSON[:-1])
    exchange.close()
    assert wire.transport.closed
    assert len(wire.released) == 1


async def test_a_whole_answer_that_is_let_go_of_does_not() -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(JSON)
    exchange.close()
    assert wire.connection.usable


async def test_an_engine_that_answers_before_it_has_read_gets_no_other_request() -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.transport.unsent = 1000
    wire.feed(JSON)
    assert (await read(exchange))[::2] == (200, b"{}")
    assert not wire.connection.usable


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
async def test_a_lost_connection_is_told_after_what_had_come(error: Exception | None) -> None:
    wire = Wire()
    exchange = wire.ask()
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    wire.connection.connection_lost(error)
    assert await anext(exchange) == b"abc"
    with pytest.raises(httpx.RemoteProtocolError if error is None else httpx.ReadError):
        await anext(exchange)
