"""One request on a client's connection, as ASGI: its body in, its answer out.

No bounds and no time-outs, those are server.py's; nothing about models. The head of an answer is
sent with the first part of its body, in one write.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from modelserving_gateway.api.headers import RawHeaders

EXTENSION: Final = "modelserving.exchange"
"""Where in the scope's extensions an application finds the exchange itself, for what ASGI cannot
say: the whole body at once, and a call instead of a task when the client leaves."""

PAUSE_ABOVE: Final = 65_536
"""64 KiB of a request's body that nobody has read yet: then the client must wait."""

_JOIN_BELOW: Final = 65_536
"""64 KiB: below, one copy of an answer costs less than a second piece on its way to the socket."""

_NO_BODY: Final = frozenset({204, 304})


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES: Final = {status: status_line(status) for status in range(100, 600)}


class ServerExchange:
    """A request and its answer."""

    __slots__ = (
        "_bodiless",
        "_body",
        "_chunked",
        "_delivered",
        "_expected",
        "_expects_continue",
        "_finished",
        "_flow",
        "_head",
        "_http_version",
        "_received",
        "_server_state",
        "_transport",
        "_until_close",
        "disconnected",
        "keep_alive",
        "on_left",
        "response_complete",
        "response_started",
        "scope",
        "unread",
        "whole",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        server_state: ServerState,
        finished: Callable[[], None],
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.on_left: Callable[[], None] | None = None
        """Called when the client leaves before it has the whole answer."""
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.whole = False
        """Whether the whole body of the request is there."""
        self._transport = transport
        self._flow = flow
        self._server_state = server_state
        self._finished = finished
        self._expects_continue = expects_continue
        self._http_version = scope["http_version"]
        self._until_close = False
        """Whether only the end of the connection ends the body: HTTP/1.0 knows no chunks."""
        self._bodiless = scope["method"] == "HEAD"
        """Whether the answer has no body, whatever its head says of one."""
        self._body: list[bytes] = []
        self.unread = 0
        """Bytes of the body that the application has not read yet."""
        self._delivered = False
        """Whether the application has read the end of the body."""
        self._received: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked = True
        self._expected = 0

    # What comes from the client.

    def take(self, part: bytes) -> None:
        """Add a part of the body; the client must wait when too much is unread."""
        self._body.append(part)
        self.unread += len(part)
        if self.unread > PAUSE_ABOVE:
            self._flow.pause_reading()
        self._wake()

    def end(self) -> None:
        """Note the end of the body."""
        self.whole = True
        self._wake()

    def leave(self) -> None:
        """Note that the client has left."""
        if self.response_complete:
            return
        self.disconnected = True
        self._wake()
        if self.on_left is not None:
            self.on_left()

    def _wake(self) -> None:
        if self._received is not None and not self._received.done():
            self._received.set_result(None)

    def let_go(self) -> None:
        """Forget the scope, which refers to this: a cycle would be the garbage collector's work."""
        self.on_left = None
        self.scope = {}

    # What the application calls.

    def whole_body(self) -> bytes | None:
        """Return the body, and so read it, when all of it is there already."""
        return self._read() if self.whole and not self.disconnected else None

    def _read(self) -> bytes:
        parts, self._body = self._body, []
        if self.unread > PAUSE_ABOVE:
            self._flow.resume_reading()  # Else nobody would notice that the client leaves.
        self.unread = 0
        self._delivered = self.whole
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def receive(self) -> dict[str, Any]:
        """Wait for a part of the body, or for the client to leave."""
        if self._expects_continue and not self.response_started and not self.disconnected:
            self._expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._ended and (self._delivered or not (self._body or self.whole)):
            self._flow.resume_reading()
            self._received = asyncio.get_running_loop().create_future()
            await self._received
        if self._ended:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._read(), "more_body": not self.whole}

    @property
    def _ended(self) -> bool:
        return self.disconnected or self.response_complete

    async def respond(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send a whole answer, whose headers say how long it is; waits as `send` does."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if not self.disconnected:
            self._start(status, headers)
            self._write(body, more=False)
        if self._flow.write_paused and not self.disconnected:
            # A large answer counts as memory that is in use until its client has taken it.
            await self._flow.drain()

    async def send(self, message: dict[str, Any]) -> None:
        """Send a part of the answer; waits while the client takes nothing."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def _start(self, status: int, headers: RawHeaders) -> None:
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        self.response_started = True
        if self._expects_continue and not self.whole:
            self.keep_alive = False  # Nobody knows whether the body still comes.
        lines = [_STATUS_LINES.get(status) or status_line(status)]
        length: int | None = None
        for name, value in (*self._server_state.default_headers, *headers):
            if name == b"content-length":
                length = int(value)
                if status in _NO_BODY:
                    continue  # RFC 9110, section 8.6
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._bodiless = self._bodiless or status in _NO_BODY
        self._until_close = length is None and self._http_version == "1.0"
        self._chunked = length is None and not self._bodiless and not self._until_close
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        self._expected = 0 if self._bodiless or length is None else length
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        if self._head.count(b"\n") != len(lines) or self._head.count(b"\r") != len(lines):
            raise RuntimeError("a header of the answer holds a line break")

    def _write(self, body: bytes, *, more: bool) -> None:
        if not self.response_started or self.response_complete:
            raise RuntimeError("a part of a body without an answer that it belongs to")
        content = self._framed(body, more=more)
        head, self._head = self._head, b""
        if len(content) > _JOIN_BELOW:
            self._transport.writelines((head, content))
        elif head or content:
            self._transport.write(head + content)
        if not more:
            self._complete()

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._bodiless:
            return b""
        if self._until_close:
            return body
        if not self._chunked:
            self._expected -= len(body)
            if self._expected < 0:
                raise RuntimeError("the body is longer than its content-length")
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    def _complete(self) -> None:
        if self._expected:
            raise RuntimeError("the body is shorter than its content-length")
        self.response_complete = True
        self._wake()
        self._finished()
