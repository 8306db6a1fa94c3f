"""Requests to engines: httpx over aiohttp's connections, and what can go wrong there.

Thin: no routing, no retries, nothing about clients. A failure is told once, in one exception.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from typing import Any, Final

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from modelserving_gateway.headers import RawHeaders

_KEEP_ALIVE_SECONDS: Final = 4.0
"""vLLM's server closes a silent connection after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): we do before
it, so that no request is sent into a connection that is being closed."""

_TCP_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
)
"""A node that dies says nothing: without these a request would wait for the whole read timeout.
After 15 s of silence three probes, 5 s apart; 30 s (in ms) for data that nobody acknowledges."""


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
        except _FAILURES as error:
            raise _upstream_error(error, amid_answer=True) from error


class _Engine:
    """The connections to one endpoint, kept until it is gone and nothing runs on it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.transport = AiohttpTransport(client=_session, verify=False)
        self.running: dict[asyncio.Timeout, float] = {}
        """What runs, with the seconds it may go on once the endpoint is gone."""
        self._leaving = False
        self._urls: dict[str, httpx.URL] = {}

    def url(self, path: str) -> httpx.URL:
        """Return the URL of a path; parsing one costs more than all else of a request."""
        if path not in self._urls:
            self._urls[path] = httpx.URL(self.endpoint.rstrip("/") + path)
        return self._urls[path]

    def leave(self) -> None:
        """Let what runs go on only as long as it may."""
        if self._leaving:
            return
        self._leaving = True
        now = asyncio.get_running_loop().time()
        for timeout, patience in self.running.items():
            if not timeout.expired():
                timeout.reschedule(now + patience)

    def stay(self) -> None:
        """Let what runs go on: the endpoint is back."""
        self._leaving = False
        for timeout in self.running:
            if not timeout.expired():
                timeout.reschedule(None)


class Upstreams:
    """All engines that requests go to."""

    def __init__(self, *, connect_timeout: float, read_timeout: float) -> None:
        self._engines: dict[str, _Engine] = {}
        self._leaving: set[_Engine] = set()
        self._extensions = {"timeout": {"connect": connect_timeout, "read": read_timeout}}

    async def retain(self, endpoints: frozenset[str]) -> None:
        """Let go of every endpoint that is not among those, as soon as nothing runs on it.

        A Pod that comes later may have the same address; it must not get an old connection.
        """
        for endpoint in self._engines.keys() - endpoints:
            self._leaving.add(self._engines.pop(endpoint))
        for engine in tuple(self._leaving):
            if engine.endpoint in endpoints:
                engine.stay()
            else:
                engine.leave()
            await self._close_if_done(engine)

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
        amid_answer = False
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                engine.running[timeout] = patience
                request = httpx.Request(
                    "POST",
                    engine.url(path),
                    headers=headers,
                    content=content,
                    extensions=self._extensions,
                )
                async with aclosing(await _begin(engine.transport, request)) as response:
                    rest = response.aiter_raw()
                    answer = Answer(response, await _first(rest), rest)
                    amid_answer = True
                    yield answer
        except TimeoutError as error:
            if not timeout.expired():
                raise
            message = "its endpoint was taken away"
            raise UpstreamError(FailureKind.LOST, message, amid_answer=amid_answer) from error
        finally:
            engine.running.pop(timeout, None)
            await self._close_if_done(engine)

    async def _close_if_done(self, engine: _Engine) -> None:
        if engine in self._leaving and not engine.running:
            self._leaving.discard(engine)
            await engine.transport.aclose()


async def _begin(transport: AiohttpTransport, request: httpx.Request) -> httpx.Response:
    try:
        return await transport.handle_async_request(request)
    except _FAILURES as error:
        raise _upstream_error(error) from error


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(chunks, b"")
    except _FAILURES as error:
        raise _upstream_error(error) from error


_FAILURES: Final = (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError)
"""The transport maps most of aiohttp's errors to httpx's, but not all."""


def _upstream_error(error: BaseException, *, amid_answer: bool = False) -> UpstreamError:
    message = f"{type(error).__name__}: {error}"
    return UpstreamError(_kind(error), message, amid_answer=amid_answer)


def _kind(error: BaseException) -> FailureKind:
    # The transport maps "refused" and "disconnected" to the same httpx.ConnectTimeout; what really
    # happened is only in the cause.
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return FailureKind.UNREACHABLE
    if isinstance(cause, aiohttp.SocketTimeoutError):
        return FailureKind.SILENT
    return FailureKind.LOST


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,  # aiohttp's own default is 100 connections
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            socket_factory=_socket,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        # What the client did not send, the engine does not get.
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


def _socket(address: Any) -> socket.socket:
    family, type_, protocol, _, _ = address
    created = socket.socket(family, type_, protocol)
    for level, option, value in _TCP_OPTIONS:
        created.setsockopt(level, option, value)
    return created
