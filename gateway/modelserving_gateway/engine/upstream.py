"""Requests to engines, and what can go wrong there.

Thin: no routing, no retries, nothing about clients. A failure is told once, in one exception.
"""

from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from types import TracebackType
from typing import Any, Final

import httpx

from modelserving_gateway.api.headers import RawHeaders
from modelserving_gateway.engine.connection import EngineExchange
from modelserving_gateway.engine.transport import EngineTransport


class FailureKind(StrEnum):
    """How an engine failed a request."""

    UNREACHABLE = "unreachable"
    """No connection: the engine has seen nothing of the request."""
    LOST = "lost"
    """The connection broke: the engine may have worked on the request."""
    SILENT = "silent"
    """Nothing was heard for the whole read timeout."""
    DEPARTING = "departing"
    """It is being stopped and has turned the request down."""


class UpstreamError(Exception):
    """An engine failed before its answer, or amid it: then bytes of it have come."""

    def __init__(self, kind: FailureKind, message: str, *, amid_answer: bool = False) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.amid_answer = amid_answer


class Answer:
    """An engine's answer, of whose body the first chunk is there."""

    __slots__ = ("_exchange", "_first", "headers", "status")

    def __init__(self, exchange: EngineExchange, first: bytes) -> None:
        self.status = exchange.status
        self.headers: RawHeaders = exchange.headers
        self._exchange = exchange
        self._first: bytes | None = first

    def chunks(self) -> AsyncIterator[bytes]:
        """Return the body as it comes, undecoded, to be gone through once. Raises UpstreamError."""
        return self

    def whole(self) -> bytes | None:
        """Return the body, and so take it, when all of it has come already."""
        if self._first is None or not self._exchange.all_taken:
            return None
        first, self._first = self._first, None
        return first

    def __aiter__(self) -> "Answer":
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return await anext(self._exchange)
        except httpx.TransportError as error:
            raise _upstream_error(error, amid_answer=True) from error


class _Engine:
    """One endpoint: its transport, and what every request to it has in common."""

    def __init__(self, endpoint: str) -> None:
        origin = httpx.URL(endpoint)
        self.endpoint = endpoint
        self.host = (b"host", origin.netloc)
        self.transport = EngineTransport(origin)
        self._prefix = origin.raw_path.rstrip(b"/")

    def target(self, path: str) -> bytes:
        """Return what the request line says for a path."""
        return self._prefix + path.encode("ascii")


class Upstreams:
    """All engines that requests go to."""

    def __init__(self, *, connect_timeout: float, read_timeout: float) -> None:
        self._engines: dict[str, _Engine] = {}
        self._leaving: list[_Engine] = []
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout

    def retain(self, endpoints: frozenset[str]) -> None:
        """Let go of every endpoint that is not among those, as soon as nothing runs on it.

        A Pod that comes later may have the same address; it must not get an old connection.
        """
        for endpoint in self._engines.keys() - endpoints:
            self._leaving.append(self._engines.pop(endpoint))
        self._leaving = [engine for engine in self._leaving if engine.transport.in_flight]
        for engine in self._leaving:
            if engine.endpoint in endpoints:
                engine.transport.stay()
            else:
                engine.transport.leave()

    def post(
        self, endpoint: str, path: str, headers: RawHeaders, content: bytes, *, patience: float
    ) -> AbstractAsyncContextManager[Answer]:
        """POST to an engine and wait for the first chunk of its answer's body.

        Raises UpstreamError, also when the endpoint has been gone for `patience` seconds: an engine
        that is stopped amid an answer may keep its connection open and say nothing more. However
        the context is left, the answer is let go of: unless it was whole, its connection is closed,
        so that the engine stops working on it.
        """
        engine = self._engines.get(endpoint)
        if engine is None:
            engine = self._engines[endpoint] = _Engine(endpoint)
        return _Post(
            engine.transport.send(
                b"POST",
                engine.target(path),
                [engine.host, *headers, (b"content-length", b"%d" % len(content))],
                content,
                connect_timeout=self._connect_timeout,
                read_timeout=self._read_timeout,
                patience=patience,
            )
        )


class _Post:
    """The context of Upstreams.post; a class, since a generator costs each request more."""

    __slots__ = ("_exchange", "_sending")

    def __init__(self, sending: Coroutine[Any, Any, EngineExchange]) -> None:
        self._sending = sending
        self._exchange: EngineExchange | None = None

    async def __aenter__(self) -> Answer:
        try:
            exchange = self._exchange = await self._sending
            return Answer(exchange, await anext(exchange, b""))
        except httpx.TransportError as error:
            raise _upstream_error(error) from error
        except BaseException:
            self._let_go()
            raise

    async def __aexit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._exchange is not None:
            self._exchange.close()


def _upstream_error(error: httpx.TransportError, *, amid_answer: bool = False) -> UpstreamError:
    message = f"{type(error).__name__}: {error}"
    return UpstreamError(_kind(error), message, amid_answer=amid_answer)


def _kind(error: httpx.TransportError) -> FailureKind:
    for kind, types in _KINDS.items():
        if isinstance(error, types):
            return kind
    return FailureKind.LOST


_KINDS: Final = {
    FailureKind.UNREACHABLE: (httpx.ConnectError, httpx.ConnectTimeout),
    FailureKind.SILENT: (httpx.ReadTimeout,),
}
