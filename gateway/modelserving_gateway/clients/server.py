"""uvicorn's HTTP protocol, and what a client may do to it before and beside the application.

Bounds for the head of a request, for how long it may take, and for a client that takes nothing of
its answer. Each costs nothing as long as clients behave: timers run only for those who don't.
"""

import asyncio
import socket
import urllib.parse
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, cast

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from modelserving_gateway.api import errors
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.clients.server_exchange import (
    EXTENSION,
    PAUSE_ABOVE,
    ServerExchange,
    status_line,
)

_LINGER_SECONDS: Final = 2.0
"""How long a refused client's bytes are still taken (and thrown away), so that it gets to read the
answer instead of a connection reset."""


_MOST_SENT_AHEAD: Final = 16
"""Requests that a client may send before it has its answers; with the last of them its connection
ends. No client library sends even two."""

_CLIENT_TCP_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
)
"""A client whose host is gone says nothing: after half a minute it is asked. What ends it then is
TCP_USER_TIMEOUT, which goes before the number of probes: the time for a client that stalls."""


@dataclass(frozen=True)
class Bounds:
    """What one client may take."""

    max_header_bytes: int
    """The head of a request, with its first line."""
    header_seconds: float
    """From the first byte of a head to its last."""
    stalled_seconds: float
    """For taking a byte of an answer that waits to be sent."""
    max_connections: int
    """Of all clients together, idle ones included."""
    refused: Callable[[ApiError], None] = lambda _: None
    """Told of each refusal here: the application never sees such a request."""


def bounded(bounds: Bounds) -> type[asyncio.Protocol]:
    """Return the protocol with those bounds, as uvicorn.Config's `http` takes it."""
    return cast("type[asyncio.Protocol]", partial(BoundedProtocol, bounds=bounds))


class BoundedProtocol(HttpToolsProtocol):
    """One client's connection."""

    cycle: ServerExchange | None  # type: ignore[assignment]
    """What is being received."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._answering: ServerExchange | None = None
        self._pipelined: deque[ServerExchange] = deque()
        """What has been received while another request is answered."""
        self._packet_bytes = 0
        self._body_came = False
        self._framing_bytes = 0
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False
        """Nothing more is read: what comes is thrown away."""
        self._idle_since = 0.0
        self._unsent = 0
        self._stalled_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: a client that says nothing is an idle one."""
        super().connection_made(cast("asyncio.Transport", transport))
        connected = transport.get_extra_info("socket")
        for level, option, value in _CLIENT_TCP_OPTIONS:
            connected.setsockopt(level, option, value)
        # For what has left us and is never acknowledged: a client that vanished, or reads nothing.
        milliseconds = int(self._bounds.stalled_seconds * 1000)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        full = len(self.connections) > self._bounds.max_connections
        if full and not self._close_idlest():
            self._refuse(errors.too_many_connections(self._bounds.max_connections))
        else:
            self._become_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whom it concerns."""
        for timer in (
            self._head_timer,
            self._stalled_timer,
            self._linger_timer,
            self.timeout_keep_alive_task,
        ):
            if timer is not None:
                timer.cancel()
        self.connections.discard(self)
        self._pipelined.clear()
        for exchange in (self._answering, self.cycle):
            if exchange is not None:
                exchange.leave()
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._packet_bytes = len(data)
        self._body_came = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(errors.malformed_request())
        if self._refused:
            return
        if self._in_head:
            self._bound_head()
        elif self.cycle is not None and not self.cycle.whole:
            self._bound_framing(len(data))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read on as if no upgrade had been asked for (RFC 9110, section 7.8).

        The parser takes a request that asks for one to end with its head. Java's HttpClient and
        curl ask for HTTP/2 with each first request, bodies included.
        """
        framing = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        going_on = _AfterHead(self)
        self.parser = httptools.HttpRequestParser(going_on)
        self.parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))
        going_on.begun = True
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        """Give a client that does not read its time."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        if self._stalled_timer is None:
            self._stalled_timer = self.loop.call_later(
                self._bounds.stalled_seconds, self._check_stalled
            )

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers are dropped: whoever reads headers trusts what came first."""
        if not self._in_head:
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is whole: let the application answer, after what came before it here."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._refused or self._is_too_large():
            return
        path, raw_path, query = _parsed(self.url)
        version = self.parser.get_http_version()
        exchange = ServerExchange(
            {
                "type": "http",
                "asgi": _ASGI,
                "http_version": version,
                "method": self.parser.get_method().decode("ascii"),
                "scheme": "http",
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "root_path": "",
                "headers": self.headers,
                "client": self.client,
                "server": self.server,
            },
            self.transport,
            self.flow,
            self.server_state,
            self.on_response_complete,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            expects_continue=self.expect_100_continue,
        )
        exchange.scope["extensions"] = {EXTENSION: exchange}
        self.cycle = exchange
        if self._answering is None or self._answering.response_complete:
            self._answer(exchange)
        else:
            self._pipelined.append(exchange)
            if len(self._pipelined) > _MOST_SENT_AHEAD:
                self._stop_after_this_answer()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._body_came = True
        exchange = self.cycle
        if exchange is None or self._refused or exchange.response_complete:
            return
        if exchange is not self._answering and exchange.unread + len(body) > PAUSE_ABOVE:
            # Reading goes on, or nobody would notice that the client leaves.
            self._stop_after_this_answer()
            return
        exchange.take(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self.parser.should_upgrade():
            return  # Only its head is: see _decline_upgrade.
        if self.cycle is not None and not self._refused:
            self.cycle.end()

    # An answer begins and ends.

    def _answer(self, exchange: ServerExchange) -> None:
        self._answering = exchange
        task = self.loop.create_task(self._run(exchange))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, exchange: ServerExchange) -> None:
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            _log.exception("the application failed")
        finally:
            exchange.let_go()
            if not exchange.response_complete and not exchange.disconnected:
                self.transport.close()  # An answer that is cut off is one that clients notice.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._answering is None:
            return
        if not self._answering.keep_alive:
            self._close_after_answer(self._answering)
        elif self._pipelined:
            self._answer(self._pipelined.popleft())
        else:
            self.flow.resume_reading()
            self._become_idle()

    def shutdown(self) -> None:
        """Close when nothing is being answered, else after the answer."""
        if self._answering is None or self._answering.response_complete:
            self.transport.close()
        else:
            self._answering.keep_alive = False

    def _become_idle(self) -> None:
        """Note since when; one timer looks at it as long as the connection lives."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being received or answered."""
        busy = self._answering is not None and not self._answering.response_complete
        return not (busy or self._in_head or self._refused or self.transport.is_closing())

    def _close_idlest(self) -> bool:
        """Make room for this connection where another one only waits; say whether there was one."""
        idle = [
            each
            for each in self.connections
            if isinstance(each, BoundedProtocol) and each is not self and each.is_idle
        ]
        if not idle:
            return False
        min(idle, key=lambda each: each._idle_since).transport.close()
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for too long."""
        self.timeout_keep_alive_task = None
        if not self.is_idle:
            return  # The end of the answer starts the timer again; a head has one of its own.
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()

    # Bounds.

    def _is_too_large(self) -> bool:
        """Refuse a head that is whole and too large; it is measured only when it may be."""
        limit = self._bounds.max_header_bytes
        if self._head_bytes + self._packet_bytes <= limit:
            return False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > limit:
            self._refuse(errors.headers_too_large(limit))
        return self._refused

    def _bound_head(self) -> None:
        """Refuse a head that goes on for too long, in bytes or in time."""
        if self._head_bytes > self._bounds.max_header_bytes:
            self._refuse(errors.headers_too_large(self._bounds.max_header_bytes))
        elif self._head_timer is None:
            seconds = self._bounds.header_seconds
            self._head_timer = self.loop.call_later(
                seconds, self._refuse, errors.headers_too_slow(seconds)
            )

    def _bound_framing(self, size: int) -> None:
        """Refuse a body that goes on without a byte of it: sizes of chunks, trailers."""
        self._framing_bytes = 0 if self._body_came else self._framing_bytes + size
        if self._framing_bytes > self._bounds.max_header_bytes:
            self._refuse(errors.headers_too_large(self._bounds.max_header_bytes))

    def _check_stalled(self) -> None:
        """Let go of a client that has taken nothing since the last look."""
        self._stalled_timer = None
        unsent, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent >= unsent:
            self.transport.abort()
            return
        self._stalled_timer = self.loop.call_later(
            self._bounds.stalled_seconds, self._check_stalled
        )

    def _refuse(self, error: ApiError) -> None:
        """Answer what the application never gets to see, and read nothing more."""
        answering = self._answering
        if (
            answering is not None
            and answering is self.cycle
            and not (answering.whole or answering.response_started)
        ):
            answering.leave()  # It is the rest of this request that is refused.
            self._answering = None
        if not self._stop_after_this_answer():
            return
        self._bounds.refused(error)
        body = error.body()
        lines = [status_line(error.status)]
        lines += (
            b"%b: %b\r\n" % header
            for header in (*self.server_state.default_headers, *error.headers())
        )
        lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join((*lines, body)))
        self._linger()

    def _stop_after_this_answer(self) -> bool:
        """Read nothing more; say whether nothing is being answered, so that one may write."""
        first_time, self._refused = not self._refused, True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._answering is None or self._answering.response_complete:
            return first_time
        if self._pipelined and not self._pipelined[-1].whole:
            self._pipelined.pop()  # Nothing more of it will be read.
        last = self._pipelined[-1] if self._pipelined else self._answering
        last.keep_alive = False
        return False

    def _close_after_answer(self, exchange: ServerExchange) -> None:
        self._pipelined.clear()
        if exchange.whole:
            self.transport.close()
            return
        # It still sends: closing now would reset the connection, and the answer be lost.
        self._refused = True
        self.flow.resume_reading()
        self._linger()

    def _linger(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


@lru_cache(maxsize=64)
def _parsed(target: bytes) -> tuple[str, bytes, bytes]:
    """Return path, raw path and query of what is asked for, mostly the same few."""
    url = httptools.parse_url(target)
    path = url.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, url.path, url.query or b""


class _AfterHead:
    """Passes on what a parser tells, save for the head of its first message."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self.begun = False
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete
        self._protocol = protocol

    def on_message_begin(self) -> None:
        if self.begun:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.begun:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.begun:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.begun:
            self._protocol.on_headers_complete()


_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}

_log: Final = structlog.get_logger(__name__)
