"""Requests to engines: httpx over our own transport, and what can go wrong there.

Thin: no routing, no retries, nothing about clients. A failure is told once, in one exception.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import httpx

from modelserving_gateway.engine_transport import EngineTransport
from modelserving_gateway.headers import RawHeaders


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

    def __init__(self, response: httpx.Response, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self.status = response.status_code
        self.headers: RawHeaders = response.headers.raw
        self._first = first
        self._rest = rest

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, undecoded. Raises UpstreamError."""
        yield self._first
        try:
            async for chunk in self._rest:
                yield chunk
        except httpx.TransportError as error:
            raise _upstream_error(error, amid_answer=True) from error


class _Engine:
    """One endpoint: its transport, and what every request to it has in common."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.origin = httpx.URL(endpoint)
        self.transport = EngineTransport(self.origin)
        self._urls: dict[str, httpx.URL] = {}

    def url(self, path: str) -> httpx.URL:
        """Return the URL of a path; parsing one costs more than all else of a request."""
        if path not in self._urls:
            self._urls[path] = httpx.URL(self.endpoint.rstrip("/") + path)
        return self._urls[path]


class Upstreams:
    """All engines that requests go to."""

    def __init__(self, *, connect_timeout: float, read_timeout: float) -> None:
        self._engines: dict[str, _Engine] = {}
        self._leaving: list[_Engine] = []
        self._timeout = {"connect": connect_timeout, "read": read_timeout}

    def in_flight(self, endpoint: str) -> int:
        """Return how many requests run on an endpoint now."""
        engine = self._engines.get(endpoint)
        return (0 if engine is None else engine.transport.in_flight) + sum(
            left.transport.in_flight for left in self._leaving if left.endpoint == endpoint
        )

    async def retain(self, endpoints: frozenset[str]) -> None:
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

    @asynccontextmanager
    async def post(
        self, endpoint: str, path: str, headers: RawHeaders, content: bytes, *, patience: float
    ) -> AsyncIterator[Answer]:
        """POST to an engine and wait for the first chunk of its answer's body.

        Raises UpstreamError, also when the endpoint has been gone for `patience` seconds: an engine
        that is stopped amid an answer may keep its connection open and say nothing more. However
        the context is left, the answer is let go of: unless it was whole, its connection is closed,
        so that the engine stops working on it.
        """
        engine = self._engines.get(endpoint)
        if engine is None:
            engine = self._engines[endpoint] = _Engine(endpoint)
        request = httpx.Request(
            "POST",
            engine.url(path),
            headers=[
                (b"host", engine.origin.netloc),
                *headers,
                (b"content-length", b"%d" % len(content)),
            ],
            # `content=` would look at every header again, at three times the cost.
            stream=httpx.ByteStream(content),
            extensions={"timeout": self._timeout, "patience": patience},
        )
        try:
            response = await engine.transport.handle_async_request(request)
        except httpx.TransportError as error:
            raise _upstream_error(error) from error
        body = response.stream
        assert isinstance(body, httpx.AsyncByteStream)  # noqa: S101
        try:
            chunks = aiter(body)
            yield Answer(response, await _first(chunks), chunks)
        finally:
            await body.aclose()


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks, b"")
    except httpx.TransportError as error:
        raise _upstream_error(error) from error


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
