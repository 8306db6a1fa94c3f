"""2,000 requests held by one gateway: what they cost in memory, how fast and in what order they go.

The gateway runs by itself in its process, so that the memory is its own.
"""

import asyncio
import json
import time
from typing import Final, cast

from benchmarks.gateway import load
from benchmarks.gateway.api_server import ApiServer
from benchmarks.gateway.processes import resident_bytes
from benchmarks.gateway.proxies import Proxy

REQUESTS: Final = 2000
_PATIENCE_SECONDS: Final = 60


class _Held(asyncio.Protocol):
    """One client that waits for its answer."""

    def __init__(self, number: int) -> None:
        self.answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._content = load.chat(f"SEQ {number} of all")
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._content)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.answered.done() or b"chatcmpl" not in self._received:
            return
        if not self._received.startswith(b"HTTP/1.1 200"):
            self.answered.set_exception(RuntimeError(self._received[:300].decode()))
            return
        self.answered.set_result(time.perf_counter())

    def connection_lost(self, _: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(RuntimeError("a held request was cut off"))


async def measure(gateway: Proxy, engine: int, api: ApiServer) -> dict[str, float]:
    """Return memory with all of them held, and the seconds from `ready` to the last answer.

    As many as the engine may have at once are on their way together, each on its own connection,
    and the engine reads them as they come: that is how far off its place one may be seen there.
    Raises RuntimeError when one is not answered.
    """
    assert gateway.process is not None
    loop = asyncio.get_running_loop()
    await load.plain(gateway.port, 8, 0.5)  # code paths, and what Python keeps of memory
    api.activate(None)
    await _until_held(gateway.port, 0)
    before = resident_bytes(gateway.process.pid)
    clients: list[_Held] = []
    transports: list[asyncio.Transport] = []
    for number in range(REQUESTS):
        transport, client = await loop.create_connection(
            lambda number=number: _Held(number),  # type: ignore[misc]
            "127.0.0.1",
            gateway.port,
        )
        clients.append(client)
        transports.append(transport)
        await _until_held(gateway.port, number + 1)  # so that their order is beyond doubt
    await asyncio.sleep(1)
    held = resident_bytes(gateway.process.pid)
    began = time.perf_counter()
    api.activate("mistral")
    async with asyncio.timeout(_PATIENCE_SECONDS):
        answered = await asyncio.gather(*(client.answered for client in clients))
    for transport in transports:
        transport.close()
    order = json.loads(await load.get(engine, "/order"))
    return {
        "rss_mb": round(held / 1e6, 1),
        "rss_growth_mb": round((held - before) / 1e6, 1),
        "release_s": round(max(answered) - began, 3),
        "most_places_off": max(abs(place - number) for place, number in enumerate(order)),
        "answered": len(answered),
    }


async def _until_held(port: int, count: int) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            status = json.loads(await load.get(port, "/status"))
            if status["held"] == count:
                return
