"""What carries a request to an engine, and what that costs: the table of decision 0014.

`python -m benchmarks.gateway.transports`: a proxy of a few lines on uvicorn, on one core, with 64
clients; printed is the CPU time of its process for each request, which a busy machine disturbs
least. `serve` is the proxy itself, as a program of its own.
"""

import os
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import httpx
import typer
import uvicorn
import uvloop
from httpx_aiohttp import AiohttpTransport
from rich.console import Console
from rich.table import Table

from benchmarks.gateway import load
from benchmarks.gateway.processes import (
    LOAD_CORE,
    PROXY_CORE,
    child,
    free_port,
    rest_on_core,
    wait_until_it_answers,
    working_directory,
)
from modelserving_gateway.api.headers import RawHeaders
from modelserving_gateway.engine.connection import EngineExchange
from modelserving_gateway.engine.transport import EngineTransport
from modelserving_gateway.engine.upstream import Upstreams

Post = Callable[[str, RawHeaders, bytes], Awaitable[tuple[int, RawHeaders, bytes]]]

_CLIENTS: Final = 64
_ROUNDS: Final = 3
_SECONDS: Final = 2.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")

app = typer.Typer(add_completion=False)


def _nothing() -> Post:
    async def post(_: str, __: RawHeaders, ___: bytes) -> tuple[int, RawHeaders, bytes]:
        return 200, [(b"content-type", b"application/json")], b'{"id": "chatcmpl-0"}' * 20

    return post


def _ours() -> Post:
    upstreams = Upstreams(connect_timeout=5, read_timeout=600)

    async def post(
        endpoint: str, headers: RawHeaders, content: bytes
    ) -> tuple[int, RawHeaders, bytes]:
        async with upstreams.post(endpoint, load.PATH, headers, content, patience=5) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            return answer.status, answer.headers, body

    return post


def _over(transport: httpx.AsyncBaseTransport) -> Post:
    extensions = {"timeout": {"connect": 5, "read": 600, "pool": 600}}

    async def post(
        endpoint: str, headers: RawHeaders, content: bytes
    ) -> tuple[int, RawHeaders, bytes]:
        request = httpx.Request(
            "POST", endpoint + load.PATH, headers=headers, content=content, extensions=extensions
        )
        response = await transport.handle_async_request(request)
        body = b"".join([chunk async for chunk in response.aiter_raw()])
        await response.aclose()
        return response.status_code, response.headers.raw, body

    return post


class _OursUnderHttpx(httpx.AsyncBaseTransport):
    """Our transport with httpx's objects for a request and an answer around it."""

    def __init__(self) -> None:
        self._transport: EngineTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._transport is None:
            self._transport = EngineTransport(request.url)
        exchange = await self._transport.send(
            request.method.encode(),
            request.url.raw_path,
            request.headers.raw,
            request.content,
            connect_timeout=request.extensions["timeout"]["connect"],
            read_timeout=request.extensions["timeout"]["read"],
            patience=5,
        )
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_Body(exchange))


class _Body(httpx.AsyncByteStream):
    def __init__(self, exchange: EngineExchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._exchange)

    async def aclose(self) -> None:
        self._exchange.close()


def _aiohttp_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )


_POSTS: Final[dict[str, Callable[[], Post]]] = {
    "nothing": _nothing,
    "ours": _ours,
    "ours under httpx": lambda: _over(_OursUnderHttpx()),
    "httpx-aiohttp": lambda: _over(AiohttpTransport(client=_aiohttp_session)),
    "httpx": lambda: _over(
        httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None)
        )
    ),
}


@app.command()
def serve(transport: str, port: int, engine: int) -> None:
    """Be the proxy."""
    post: Post | None = None

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        nonlocal post
        if scope["method"] == "GET":
            status, headers, body = 200, list[tuple[bytes, bytes]](), b"{}"
        else:
            post = post or _POSTS[transport]()
            content = (await receive())["body"]
            kept = [each for each in scope["headers"] if each[0] not in _MADE_ANEW]
            status, headers, body = await post(f"http://127.0.0.1:{engine}", kept, content)
        head = [(name.lower(), value) for name, value in headers]
        head = [each for each in head if each[0] not in _MADE_ANEW]
        head.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(
        proxy,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


_MADE_ANEW: Final = (b"host", b"content-length", b"transfer-encoding")


@app.command()
def measure(rounds: Annotated[int, typer.Option(min=1)] = _ROUNDS) -> None:
    """Measure them all in turns and print the table."""
    rest_on_core(LOAD_CORE)
    table = Table(title=f"{_CLIENTS} clients, CPU time of the proxy for each request")
    table.add_column("what carries it")
    table.add_column("µs", justify="right")
    table.add_column("requests/s", justify="right")
    for name, (cost, rate) in uvloop.run(_measure(rounds)).items():
        table.add_row(name, f"{cost:,.0f}", f"{rate:,.0f}")
    Console().print(table)


async def _measure(rounds: int) -> dict[str, tuple[float, float]]:
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in _POSTS}
    with working_directory() as files:
        engine = free_port()
        argv = [sys.executable, "-m", "benchmarks.gateway.engine", str(engine)]
        log = files / "engine.log"
        with child(argv, LOAD_CORE, log) as process:
            await wait_until_it_answers(f"http://127.0.0.1:{engine}/health", process, log, 20)
            for _ in range(rounds):
                for name, figures in seen.items():
                    figures.append(await _one(name, engine, files / f"{name}.log"))
    return {
        name: (
            statistics.median(cost for cost, _ in figures),
            statistics.median(rate for _, rate in figures),
        )
        for name, figures in seen.items()
    }


async def _one(name: str, engine: int, log: Path) -> tuple[float, float]:
    port = free_port()
    argv = [sys.executable, "-m", __spec__.name, "serve", name, str(port), str(engine)]
    with child(argv, PROXY_CORE, log) as process:
        await wait_until_it_answers(f"http://127.0.0.1:{port}/", process, log, 20)
        await load.plain(port, _CLIENTS, 0.5)
        before = _cpu_seconds(process.pid)
        figures = await load.plain(port, _CLIENTS, _SECONDS)
        answered = len(figures.latencies)
        cost = (_cpu_seconds(process.pid) - before) / answered * 1e6
    return cost, answered / figures.seconds


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    app()
