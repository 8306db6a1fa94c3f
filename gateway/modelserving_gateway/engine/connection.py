"""One HTTP/1.1 connection to an engine: bytes out, answers in, one exchange at a time.

Thin: the parser is httptools' (llhttp). No pool, no routing, no retries. Failures are httpx's.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

import httptools
import httpx

from modelserving_gateway.api.headers import RawHeaders

MAX_HEAD_BYTES: Final = 131_072
"""128 KiB for the head of an answer; vLLM's is under 1 KiB. More is no engine of ours."""

_PAUSE_ABOVE: Final = 262_144
"""256 KiB of an answer that nobody has taken yet: then the engine's kernel must wait too. More than
one read of the event loop brings, so that an ordinary answer never pauses."""

_NO_BODY: Final = frozenset({204, 304})

_TCP_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""A node that dies says nothing: without these a request would wait for the whole read timeout.
After 15 s of silence three probes, 5 s apart; 60 s (in ms) for data that nobody acknowledges, or
that an engine does not read: one that is alive stands still for that long only if it is stuck."""


class EngineExchange:
    """One request and its answer; iterating yields the body, undecoded, as it comes.

    What has come together is yielded together. An exchange that is closed early closes its
    connection, so that the engine stops working on it.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_error",
        "_parts",
        "_waiter",
        "answered",
        "buffered",
        "headers",
        "method",
        "status",
        "until_close",
        "whole",
    )

    def __init__(self, connection: "Connection", method: bytes) -> None:
        self.method = method
        self.status = 0
        self.headers: RawHeaders = []
        self.answered = False
        """Whether the whole head is there."""
        self.until_close = False
        """Whether only the end of the connection ends the body."""
        self.whole = False
        """Whether the parser has seen the end of the answer."""
        self.buffered = 0
        """Bytes of the body that nobody has taken yet."""
        self._connection: Connection | None = connection
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: httpx.TransportError | None = None

    async def answer_begins(self) -> None:
        """Wait for the head of the answer. Raises httpx.TransportError."""
        while not self.answered:
            if self._error is not None:
                raise self._error
            await self._wait()

    def __aiter__(self) -> "EngineExchange":
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        parts, self._parts = self._parts, []
        self.buffered = 0
        if self._connection is not None:
            self._connection.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def all_taken(self) -> bool:
        """Whether the answer is whole, and nothing of its body is left to be taken."""
        return self._ended and not self._parts

    def close(self) -> None:
        """Let go of the answer: unless it was whole, its connection is closed."""
        if self._connection is not None:
            self._connection.fail(httpx.ReadError("the answer was let go of"))
        self._parts.clear()

    def take(self, part: bytes) -> None:
        """Add a part of the body."""
        self._parts.append(part)
        self.buffered += len(part)

    def end(self, error: httpx.TransportError | None = None) -> None:
        """Nothing more comes: the answer is whole, or it has failed."""
        self._connection = None
        self._error = error
        self._ended = error is None
        self.wake()

    def wake(self) -> None:
        """Let the reader look at what is new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class _NoAnswerError(Exception):
    """What came has a status that HTTP does not know."""


class _StrayBytesError(Exception):
    """Something follows an answer that is whole."""


class Connection(asyncio.Protocol):
    """A connection, made by `loop.create_connection`; `released` is called when it is free again.

    Silence is timed by one timer for the whole life of the connection, not by one for each request.
    """

    __slots__ = (
        "_exchange",
        "_framing_bytes",
        "_heard_at",
        "_loop",
        "_parser",
        "_paused",
        "_read_timeout",
        "_released",
        "_reusable",
        "_timer",
        "_transport",
        "_unsent",
        "idle_since",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, released: Callable[["Connection"], None]
    ) -> None:
        self.idle_since = 0.0
        """When it was last released, in loop time."""
        self._loop = loop
        self._released = released
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: EngineExchange | None = None
        self._reusable = True
        self._paused = False
        self._framing_bytes = 0
        self._heard_at = 0.0
        self._read_timeout: float | None = None
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether a request may be sent now."""
        return (
            self._exchange is None
            and self._reusable
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def begin(
        self, method: bytes, head: bytes, content: bytes, read_timeout: float | None
    ) -> EngineExchange:
        """Send a request; `read_timeout` bounds each silence of the engine, in seconds."""
        assert self._transport is not None  # noqa: S101
        exchange = self._exchange = EngineExchange(self, method)
        self._framing_bytes = 0
        self._heard_at = self._loop.time()
        if read_timeout != self._read_timeout:
            self._stop_timer()
            self._read_timeout = read_timeout
        if self._timer is None and read_timeout is not None:
            self._timer = self._loop.call_later(read_timeout, self._check_silence)
        if len(content) > _PAUSE_ABOVE:
            self._transport.writelines((head, content))
            self._unsent = self._transport.get_write_buffer_size()
        else:
            self._transport.write(head + content)
        return exchange

    def fail(self, error: httpx.TransportError) -> None:
        """End the exchange with this error, and the connection with it."""
        exchange, self._exchange = self._exchange, None
        self.close()
        if exchange is not None:
            exchange.end(error)
            self._released(self)

    def retire(self) -> None:
        """Finish what runs, and take no other request."""
        self._reusable = False

    def close(self) -> None:
        """Close the connection at once."""
        self._reusable = False
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read on: what was buffered has been taken."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._heard_at = self._loop.time()
            self._transport.resume_reading()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport and set the socket's options."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass of it
        connected = transport.get_extra_info("socket")
        for level, option, value in _TCP_OPTIONS:
            connected.setsockopt(level, option, value)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and wake the reader once for all of it."""
        exchange = self._exchange
        if exchange is None:
            self.close()  # Nobody has asked: it could be taken for the next request's answer.
            return
        self._heard_at = self._loop.time()
        taken = exchange.buffered
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not exchange.whole:
                self.fail(httpx.RemoteProtocolError(f"not an answer in HTTP/1.1: {error}"))
                return
        if exchange.whole:
            self._complete(exchange)
        elif exchange.buffered == taken:
            self._count_framing(len(data))
        else:
            self._framing_bytes = 0
            self._pause_if_full(exchange)
        if exchange.answered:
            exchange.wake()

    def eof_received(self) -> None:
        """End a body that only this ends; the transport closes itself then."""
        self._reusable = False
        exchange = self._exchange
        if exchange is not None and exchange.until_close:
            self._complete(exchange)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what was running."""
        self._transport = None
        if error is None:
            self.fail(httpx.RemoteProtocolError("the engine has closed the connection"))
        else:
            self.fail(httpx.ReadError(str(error)))

    # What the parser calls. A second answer in the same bytes ends the parsing.

    def on_message_begin(self) -> None:
        """Refuse what follows a whole answer."""
        if self._exchange is None or self._exchange.whole:
            raise _StrayBytesError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        exchange = self._exchange
        if exchange is not None and not exchange.answered:
            exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Learn the status, and how the body ends. An interim answer is passed over."""
        exchange = self._exchange
        assert exchange is not None  # noqa: S101
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            exchange.headers.clear()  # 101, an upgrade, makes the parser raise.
            return
        if not 200 <= status <= 599:
            raise _NoAnswerError
        exchange.status = status
        exchange.answered = True
        if not self._parser.should_keep_alive():
            self._reusable = False
            exchange.until_close = status not in _NO_BODY and _has_no_length(exchange.headers)
        if exchange.method == b"HEAD":
            # The parser does not know the method, and would wait for a body.
            exchange.whole = True
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        exchange = self._exchange
        if exchange is None or exchange.whole:
            raise _StrayBytesError
        exchange.take(body)

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self._exchange is not None and self._exchange.answered:
            self._exchange.whole = True

    def _complete(self, exchange: EngineExchange) -> None:
        self._exchange = None
        if self._paused:
            self.resume()
        transport = self._transport
        if transport is not None and (not self._reusable or transport.get_write_buffer_size()):
            self.close()  # It wants no more requests, or has answered before it had read this one.
        self.idle_since = self._heard_at
        exchange.end()
        self._released(self)

    def _count_framing(self, size: int) -> None:
        """Bound what is neither body nor end: heads, interim answers, chunk sizes, trailers."""
        self._framing_bytes += size
        if self._framing_bytes > MAX_HEAD_BYTES:
            problem = f"the head of the answer is larger than {MAX_HEAD_BYTES} bytes"
            self.fail(httpx.RemoteProtocolError(problem))

    def _pause_if_full(self, exchange: EngineExchange) -> None:
        if exchange.buffered > _PAUSE_ABOVE and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _check_silence(self) -> None:
        self._timer = None
        if self._exchange is None or self._read_timeout is None:
            return  # The next exchange starts the timer again.
        if self._paused:  # It is not the engine that is silent.
            self._heard_at = self._loop.time()
        if self._unsent and self._transport is not None:
            # While a large request is on its way the engine has nothing to say.
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._heard_at = self._loop.time()
            self._unsent = unsent
        left = self._heard_at + self._read_timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
            return
        self.fail(httpx.ReadTimeout(f"nothing was heard for {self._read_timeout:g} s"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _has_no_length(headers: RawHeaders) -> bool:
    """Tell whether neither a length nor chunks say where the body ends (RFC 9112, 6.3)."""
    for name, value in headers:
        if name == b"content-length":
            return False
        if name == b"transfer-encoding":
            return not value.lower().rstrip().endswith(b"chunked")
    return True
