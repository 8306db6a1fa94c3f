"""The client's side of one request, over ASGI: its body in, its answer out, and whether it left.

No models, no engines: what to answer is decided elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Final

from modelserving_gateway.api import errors, headers, sse
from modelserving_gateway.api.errors import ApiError, Dialect
from modelserving_gateway.api.headers import RawHeaders
from modelserving_gateway.clients.server_exchange import EXTENSION, ServerExchange

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FAILING_SECONDS: Final = 2.5
"""To tell an error to a client, the discarding of its body included."""

_DISCARD_SECONDS: Final = 2.0
"""How long the rest of a refused body is still read, so that the client gets to read the answer
instead of a connection reset."""


_BODY_ERRORS: Final = frozenset({"bodies_full", "body_too_large", "body_too_slow"})
"""Errors while the body is still coming: the rest of it is not wanted any more."""


class ClientLeftError(Exception):
    """The client closed its connection before it had its answer."""


class Sent(StrEnum):
    """How far the answer is."""

    NOTHING = "nothing"
    PLAIN = "plain"
    EVENTS = "events"
    ALL = "all"


class Client:
    """One request's client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: RawHeaders = scope["headers"]
        self._first = headers.by_name(self.headers)
        self.request_id = headers.request_id(self._first.get(headers.REQUEST_ID))
        self.answer_headers = {headers.REQUEST_ID: self.request_id}
        """Headers of every answer to this request."""
        self.dialect = Dialect.OPENAI
        """Whose error objects this client reads; the route says it."""
        self.key: str | None = None
        """The name of the API key that it came with, once that is known."""
        self.sent = Sent.NOTHING
        self.status: int | None = None
        self.bytes_sent = 0
        self._exchange: ServerExchange = scope["extensions"][EXTENSION]
        self._receive = receive
        self._send = send
        self._attended: asyncio.Task[Any] | None = None
        self._interruption: Exception | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, or None; the name is lower case."""
        return self._first.get(name)

    async def read_body(self, limit: int, seconds: float, arrived: Callable[[int], None]) -> bytes:
        """Read the whole body. Raises ApiError (408, 413) or ClientLeftError.

        `arrived` is told how many bytes there are so far, and may raise an ApiError of its own.
        """
        length = self.header(b"content-length")
        if length is not None and int(length) > limit:
            raise errors.body_too_large(limit)
        if (body := self._exchange.whole_body()) is not None:
            if len(body) > limit:
                raise errors.body_too_large(limit)
            arrived(len(body))
            return body
        try:
            async with asyncio.timeout(seconds):
                return await self._read_body(limit, arrived)
        except TimeoutError:
            raise errors.body_too_slow(seconds) from None

    async def _read_body(self, limit: int, arrived: Callable[[int], None]) -> bytes:
        body = bytearray()
        while (message := await self._receive())["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > limit:
                raise errors.body_too_large(limit)
            arrived(len(body))
            if not message.get("more_body"):
                return bytes(body)
        raise ClientLeftError

    def attended(self) -> "_Attendance":
        """Run the block until the client leaves (ClientLeftError) or `interrupt` is called."""
        return _Attendance(self)

    def interrupt(self, error: Exception) -> None:
        """End the attended block with this error; without one, do nothing."""
        if self._attended is None or self._interruption is not None or self.sent is Sent.ALL:
            return
        self._interruption = error
        self._attended.cancel()

    def attend(self) -> None:
        """Begin the attended block in this task."""
        if self._exchange.disconnected:
            raise ClientLeftError
        self._attended = asyncio.current_task()
        self._exchange.on_left = self._left

    def leave_alone(self, error: BaseException | None) -> None:
        """End the attended block; raises the interruption in place of its cancellation."""
        task, self._attended = self._attended, None
        self._exchange.on_left = None
        if self._interruption is None or task is None:
            return
        # As asyncio.timeout does it: only if nobody else has cancelled the task, too.
        if task.uncancel() <= 0 and isinstance(error, asyncio.CancelledError):
            interruption, self._interruption = self._interruption, None
            try:
                raise interruption from None
            finally:
                del interruption  # Its traceback holds this frame: a cycle.

    def _left(self) -> None:
        self.interrupt(ClientLeftError())

    async def start(self, status: int, answer_headers: RawHeaders, kind: Sent) -> None:
        """Send status and headers; `kind` says what a later failure can still tell."""
        self.status = status
        self.sent = kind
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*answer_headers, *self.answer_headers.items()],
            }
        )

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body."""
        if chunk:
            self.bytes_sent += len(chunk)
            await self._send_body(chunk, more=True)

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part of the body."""
        self.bytes_sent += len(chunk)
        self.sent = Sent.ALL
        await self._send_body(chunk, more=False)

    async def _send_body(self, chunk: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def answer(self, status: int, answer_headers: RawHeaders, body: bytes) -> None:
        """Send a whole answer."""
        self.status = status
        self.sent = Sent.ALL
        self.bytes_sent += len(body)
        length = (b"content-length", b"%d" % len(body))
        head = [*answer_headers, *self.answer_headers.items(), length]
        await self._exchange.respond(status, head, body)

    async def fail(self, error: ApiError) -> None:
        """Tell the error as far as that is still possible.

        After the head of an event stream it is an event. After a plain head nothing can be told:
        the answer stays incomplete, and the server closes the connection, which clients notice.
        """
        # Nobody attends this client any more: one that does not read must not be waited for.
        with suppress(TimeoutError):
            async with asyncio.timeout(FAILING_SECONDS):
                await self._tell(error)

    async def _tell(self, error: ApiError) -> None:
        match self.sent:
            case Sent.NOTHING if error.code in _BODY_ERRORS and not self._exchange.whole:
                await self._refuse_body(error)
            case Sent.NOTHING:
                await self.answer(error.status, error.headers(), error.body(self.dialect))
            case Sent.EVENTS:
                await self.finish(sse.error_event(error, self.dialect))
            case Sent.PLAIN | Sent.ALL:
                return

    async def _refuse_body(self, error: ApiError) -> None:
        body = error.body(self.dialect)
        head = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        await self.start(error.status, [*error.headers(), *head], Sent.PLAIN)
        await self.write(body)
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                await self._discard_body()
        await self.finish()

    async def _discard_body(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return


class _Attendance:
    """The context of Client.attended; a class, since a generator costs each request more."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client.attend()

    def __exit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        self._client.leave_alone(error)
