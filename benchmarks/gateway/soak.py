"""An hour's worth of mixed traffic, a tenth of it aborted at random: nothing may be left behind.

Plain answers, streams, held requests, errors of ours and of the engine, engines that die; what is
compared is the gateway's memory, tasks and sockets after a warm-up and after everything.
"""

import asyncio
import random
import re
from collections.abc import Iterator
from typing import Final, cast

from benchmarks.gateway import load
from benchmarks.gateway.api_server import ApiServer
from benchmarks.gateway.processes import open_sockets, resident_bytes
from benchmarks.gateway.proxies import Proxy

CLIENTS: Final = 64
WARM_UP: Final = 50_000
"""The collector goes through all objects only every 250,000 new ones: what it has to find grows by
3 MB until it has come round a few times, and stays there."""

ABORTED: Final = 0.1

_SWAP_SECONDS: Final = 1.5
_AWAY_SECONDS: Final = 0.1
"""Every so often the model is away for a moment: what is asked meanwhile is held."""

_QUIET_SECONDS: Final = 6
"""Until idle connections to the engine are closed (4 s)."""

_PATIENCE_SECONDS: Final = 30

_KINDS: Final = (
    *((70, load.chat("Say something.")),),
    *((12, load.chat("FULL 20", stream=True)),),
    *((2, load.chat("PACED 5", stream=True)),),
    *((5, load.chat("FAIL now")),),
    *((1, load.chat("DIE 0")),),
    *((4, load.chat("Say something.", model="made-up")),),
    *((2, load.request("POST", load.PATH, b"{no json")),),
    *((2, load.request("GET", "/nowhere")),),
    *((2, load.request("GET", "/v1/models")),),
)


class _Client(asyncio.Protocol):
    """One connection; `answer` is set when an answer is whole or the connection is gone."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[bool] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self._set(False)

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data)[-65_536:] if self._received else data
        received = self._received
        head = received.find(b"\r\n\r\n")
        at = received.find(b"ength: ", 0, head)
        if head < 0:
            return
        if at >= 0:
            whole = len(received) >= head + 4 + int(received[at + 7 : received.index(b"\r", at)])
        else:
            whole = received.endswith(b"\r\n0\r\n\r\n")
        if whole:
            self._received = b""
            self._set(True)

    def _set(self, whole: bool) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(whole)

    async def ask(self, content: bytes, give_up_after: float | None) -> bool:
        """Send; say whether the connection may be used again."""
        if self.transport is None:
            return False
        self._received = b""
        self.answer = asyncio.get_running_loop().create_future()
        if give_up_after is not None and random.random() < 0.3:
            content = content[: random.randrange(len(content))]
        self.transport.write(content)
        await asyncio.wait({self.answer}, timeout=give_up_after or _PATIENCE_SECONDS)
        if self.answer.done():
            return self.answer.result()
        if give_up_after is None:
            raise RuntimeError(f"no answer within {_PATIENCE_SECONDS} s to {content[-200:]!r}")
        if self.transport is not None:
            self.transport.abort() if random.random() < 0.5 else self.transport.close()
        return False


async def measure(gateway: Proxy, api: ApiServer, requests: int) -> dict[str, float]:
    """Return what has grown. Raises RuntimeError when a request stays without an answer."""
    assert gateway.process is not None
    random.seed(20_261_124)
    swapping = asyncio.create_task(_swap(api))
    try:
        await _load(gateway.port, min(WARM_UP, requests))
        before = await _at_rest(gateway)
        await _load(gateway.port, requests)
        after = await _at_rest(gateway)
    finally:
        swapping.cancel()
    memory, tasks, sockets = (now - then for now, then in zip(after, before, strict=True))
    return {
        "rss_growth_mb": round(memory / 1e6, 2),
        "leaked_tasks": tasks,
        "leaked_sockets": sockets,
        "requests": requests,
    }


async def _load(port: int, requests: int) -> None:
    left = iter(range(requests))
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(_ask_on(port, left))


async def _ask_on(port: int, left: Iterator[int]) -> None:
    loop = asyncio.get_running_loop()
    weights = [weight for weight, _ in _KINDS]
    contents = [content for _, content in _KINDS]
    client: _Client | None = None
    for _ in left:
        if client is None:
            _, client = await loop.create_connection(_Client, "127.0.0.1", port)
        (content,) = random.choices(contents, weights)
        give_up_after = random.uniform(0, 0.02) if random.random() < ABORTED else None
        if not await client.ask(content, give_up_after):
            if client.transport is not None:
                client.transport.abort()
            client = None
    if client is not None and client.transport is not None:
        client.transport.close()


async def _swap(api: ApiServer) -> None:
    while True:
        await asyncio.sleep(_SWAP_SECONDS)
        api.activate(None)
        await asyncio.sleep(_AWAY_SECONDS)
        api.activate("mistral")


async def _at_rest(gateway: Proxy) -> tuple[int, int, int]:
    """Return memory, tasks and sockets when nothing has been going on for a while."""
    assert gateway.process is not None
    await asyncio.sleep(_QUIET_SECONDS)
    metrics = (await load.get(gateway.port, "/metrics")).decode()
    found = re.search(r"^modelserving_gateway_tasks (\S+)", metrics, re.MULTILINE)
    assert found is not None
    await asyncio.sleep(0.2)  # this very connection
    pid = gateway.process.pid
    return resident_bytes(pid), int(float(found[1])), open_sockets(pid)
