"""The connections to one engine, kept and made. Decision 0014 says why they are not a library's.

Knows HTTP requests and no models. Failures are httpx's; what they mean is upstream.py's.
"""

import asyncio
from collections import deque
from typing import Final

import httpx

from modelserving_gateway.api.headers import RawHeaders
from modelserving_gateway.engine.connection import Connection, EngineExchange

KEEP_ALIVE_SECONDS: Final = 4.0
"""vLLM's server closes a silent connection after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): we do before
it, so that no request is sent into a connection that is being closed."""


class EngineTransport:
    """Carries requests to one origin over kept connections, as many as there are requests.

    Of the answers nothing is decoded. HTTP/1.1 without TLS: engines are Pods of the same cluster.
    """

    def __init__(self, origin: httpx.URL) -> None:
        if origin.scheme != "http":
            raise httpx.UnsupportedProtocol(f"{origin} is not http://")
        self._host = origin.host
        self._port = origin.port or 80
        self._idle: deque[Connection] = deque()
        """The last released is the first used again, so that what is not needed grows old."""
        self._busy: dict[Connection, float] = {}
        """What carries a request, with the request's patience."""
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        """Requests without a connection yet, in their order; each leaves by itself."""
        self._connecting = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._deadlines: dict[Connection, asyncio.TimerHandle] = {}
        self._leaving = False

    @property
    def in_flight(self) -> int:
        """Requests without a whole answer yet."""
        return len(self._busy) + len(self._waiting)

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: RawHeaders,
        content: bytes,
        *,
        connect_timeout: float | None,
        read_timeout: float | None,
        patience: float,
    ) -> EngineExchange:
        """Send a request and wait for the head of its answer. Raises httpx.TransportError.

        The headers are complete: `host` and `content-length` are the caller's. `read_timeout`
        bounds each silence of the engine, `patience` how long the request may go on after `leave`;
        all in seconds.
        """
        head = _head(method, target, headers)
        connection = self._kept() or await self._next_connection(connect_timeout)
        if not connection.usable:
            connection.close()
            raise httpx.ConnectError(f"{self._host}:{self._port} closed the connection at once")
        self._busy[connection] = patience
        exchange = connection.begin(method, head, content, read_timeout)
        if self._leaving:
            self._dismiss(connection)
        try:
            await exchange.answer_begins()
        except BaseException:
            exchange.close()
            raise
        return exchange

    def leave(self) -> None:
        """Let what runs go on only as long as it may, and keep no connection.

        Another engine that comes later at the same address gets a transport of its own.
        """
        if self._leaving:
            return
        self._leaving = True
        self._close_idle()
        for connection in self._busy:
            self._dismiss(connection)

    def stay(self) -> None:
        """Let what runs go on: the engine is not gone after all."""
        self._leaving = False
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()

    def _dismiss(self, connection: Connection) -> None:
        connection.retire()
        self._deadlines[connection] = asyncio.get_running_loop().call_later(
            self._busy[connection],
            connection.fail,
            httpx.ReadError("the engine's endpoint was taken away"),
        )

    def _close_idle(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> Connection | None:
        """Return a connection that is likely to be still open at the other side."""
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _next_connection(self, timeout: float | None) -> Connection:
        """Wait for a connection: the first request gets the first that is there.

        So requests that are released together reach the engine in their order, however long each
        connection takes. A connection that fails fails the first request.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Connection] = loop.create_future()
        self._waiting.append(waiter)
        self._connecting += 1
        opening = loop.create_task(self._open(timeout))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                loop.call_soon(self._give, waiter.result())
            raise
        finally:
            self._waiting.remove(waiter)

    async def _open(self, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._released), self._host, self._port
                )
        except TimeoutError:
            self._opened(httpx.ConnectTimeout(f"no connection to {where}"))
        except Exception as error:  # whatever it is, somebody waits
            self._opened(httpx.ConnectError(f"no connection to {where}: {error}"))
        else:
            connection.idle_since = loop.time()
            self._opened(connection)

    def _opened(self, result: Connection | httpx.TransportError) -> None:
        """Hand on what has come of a connection.

        A failure fails the first request in line, unless there are connections under way for all
        that still wait: then what it was opened for has got another one, or has left.
        """
        self._connecting -= 1
        if isinstance(result, Connection):
            self._give(result)
            return
        waiting = [waiter for waiter in self._waiting if not waiter.done()]
        if len(waiting) > self._connecting:
            waiting[0].set_exception(result)

    def _give(self, connection: Connection) -> None:
        """Give a connection to the request that waits first, or keep it for the next one."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(connection)
                return
        if self._leaving or not connection.usable:
            connection.close()
            return
        self._idle.append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_old)

    def _released(self, connection: Connection) -> None:
        del self._busy[connection]
        if (deadline := self._deadlines.pop(connection, None)) is not None:
            deadline.cancel()
        if connection.usable:
            self._give(connection)
        else:
            connection.close()

    def _close_old(self) -> None:
        """Close what has been idle for long, and what the engine has closed."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - KEEP_ALIVE_SECONDS
        while self._idle and (self._idle[0].idle_since <= oldest or not self._idle[0].usable):
            self._idle.popleft().close()
        if self._idle:
            age = loop.time() - self._idle[0].idle_since
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS - age, self._close_old)


def _head(method: bytes, target: bytes, headers: RawHeaders) -> bytes:
    """Return a request's head. Raises httpx.LocalProtocolError when it would not be one."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(lines))
    # One look at the whole instead of one at each header: nothing but our own line ends.
    ends = len(lines) + 2
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise httpx.LocalProtocolError("a header of the request holds a line break")
    return head
