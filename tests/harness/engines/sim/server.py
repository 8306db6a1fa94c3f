"""The socket, uvicorn and SIGTERM, as vLLM has them. What is served is not decided here.

The port is bound before loading and listens only after it, so a probe is refused until then.
On SIGTERM the engine drains while the port stays open; then the port closes, and the process ends
when the last client with a request has left, however long that takes.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from .engine import Engine

logger = logging.getLogger("sim")

# vLLM's own keep-alive: longer than a client's pool keeps a connection, so the client closes it.
KEEP_ALIVE_SECONDS = 5


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # SIGTERM is handled by `serve`

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            logger.info("serving on port %s", listener.getsockname()[1])


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    return server


async def serve(
    app: Starlette,
    engine: Engine,
    listener: socket.socket,
    *,
    shutdown_timeout: float,
    ignore_sigterm: bool,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain for up to `shutdown_timeout` seconds."""
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            lifespan="off",
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    logger.info("draining for up to %s s", shutdown_timeout)
    await engine.drain(shutdown_timeout)
    logger.info("drained")
    server.should_exit = True
    await serving
