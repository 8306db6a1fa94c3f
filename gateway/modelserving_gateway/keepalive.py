"""Comments for a streaming client that is held, so that nothing on the way takes it for dead.

Writes to one client, and only until the engine's answer begins. What a comment says is progress.
Source: WHATWG HTML, server-sent events: lines that begin with a colon are for exactly this.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from modelserving_gateway.client import Client, ClientLeftError, Sent

_EVENT_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the comments in a buffer otherwise.
    (b"x-accel-buffering", b"no"),
]


class KeepAlive:
    """Sends the head of an event stream after a grace, and comments from then on."""

    def __init__(
        self, client: Client, grace: float, interval: float, comment: Callable[[], bytes]
    ) -> None:
        self._client = client
        self._grace = grace
        self._interval = interval
        self._comment = comment
        self._answering = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Let the grace begin, unless comments are sent already."""
        if self._task is not None and not self._task.done():
            return
        self._answering.clear()
        self._task = asyncio.create_task(self._run(), name="keepalive")

    async def end(self) -> None:
        """Write nothing more: the answer comes now. What is being written is finished first."""
        if self._task is not None:
            self._answering.set()
            await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Write nothing more to a client that has left."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause = self._grace if self._client.sent is Sent.NOTHING else self._interval
        # A client that left is noticed, and its request ended, by who attends it.
        with suppress(ClientLeftError):
            while not await self._answering_within(pause):
                if self._client.sent is Sent.NOTHING:
                    await self._client.start(200, _EVENT_STREAM, Sent.EVENTS)
                await self._client.write(self._comment())
                pause = self._interval

    async def _answering_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._answering.wait()
        return self._answering.is_set()
