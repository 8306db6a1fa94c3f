"""Fixtures: a whole gateway, wired as in production, on a free port in front of a real engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio
from httpx_aiohttp import HttpxAiohttpClient

from modelserving_gateway.main import Gateway
from modelserving_gateway.settings import Settings
from tests.unit.gateway.fakes import Engine, FakeCluster

UNLIMITED = httpx.Limits(max_connections=0)
"""What aiohttp takes for no limit; None would be its default, 100."""

CHAT = "/v1/chat/completions"


async def eventually(condition: Callable[[], Any], seconds: float = 5) -> Any:
    """Wait until the condition holds; fails with its last value when it does not."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):  # noqa: ASYNC110 - some conditions signal nothing
            await asyncio.sleep(0.002)
        return value


@dataclass
class Running:
    """A gateway that serves."""

    gateway: Gateway
    cluster: FakeCluster
    client: httpx.AsyncClient
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def ask(self, model: str = "mistral", **fields: Any) -> httpx.Response:
        """Send a chat completion."""
        return await self.client.post(CHAT, json={"model": model, **fields})

    def asking(self, model: str = "mistral", **fields: Any) -> asyncio.Task[httpx.Response]:
        """Send a chat completion in the background."""
        return asyncio.create_task(self.ask(model, **fields))

    async def status(self) -> Any:
        """Return GET /status."""
        return (await self.client.get("/status")).json()

    async def held(self, count: int) -> None:
        """Wait until that many requests are held."""
        async with asyncio.timeout(5):
            while (await self.status())["held"] != count:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def knows(self, model: str, status: int = 200) -> None:
        """Wait until the gateway knows that the model is declared, or with 404 that it is not."""
        page = f"/v1/models/{model}"
        async with asyncio.timeout(5):
            while (await self.client.get(page)).status_code != status:  # noqa: ASYNC110
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running(cluster: FakeCluster, **settings: Any) -> AsyncIterator[Running]:
    """Run a gateway against the cluster; at the end it is told to stop, and not waited for."""
    values: dict[str, Any] = {
        "namespace": "default",
        "pod_name": "gateway-0",
        "host": "127.0.0.1",
        "port": 0,
        "shutdown_delay_seconds": 0,
        "shutdown_timeout_seconds": 2,
    }
    gateway = Gateway(Settings(**{**values, **settings}), cluster)
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.serve(stop))
    try:
        port = await eventually(lambda: task.done() or gateway.port)
        async with HttpxAiohttpClient(
            base_url=f"http://127.0.0.1:{port}", timeout=20, limits=UNLIMITED, verify=False
        ) as client:
            yield Running(gateway, cluster, client, stop, task)
    finally:
        stop.set()


async def ended(gateways: list[Running]) -> None:
    """Wait until gateways have ended, and raise what has ended one if that was no stop."""
    for gateway in gateways:
        await asyncio.wait({gateway.task})
        if not gateway.task.cancelled():
            gateway.task.result()


Start = Callable[..., Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started() -> AsyncIterator[list[Running]]:
    """All gateways of a module: they end together, since each needs a few ticks for that."""
    gateways: list[Running] = []
    yield gateways
    await ended(gateways)


@pytest_asyncio.fixture(loop_scope="module")
async def start(started: list[Running]) -> AsyncIterator[Start]:
    """Start gateways that stop with the test."""
    async with AsyncExitStack() as stack:

        async def starter(cluster: FakeCluster, **settings: Any) -> Running:
            gateway = await stack.enter_async_context(running(cluster, **settings))
            started.append(gateway)
            return gateway

        yield starter


@pytest_asyncio.fixture(loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    """An engine that answers."""
    engine = await Engine().start()
    yield engine
    await engine.stop()
