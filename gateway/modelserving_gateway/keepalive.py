"""Comments for a streaming client that waits, so that nothing on the way takes it for dead.

Writes to one client, and only until the engine's answer begins. What a comment says is progress.
Source: WHATWG HTML, server-sent events: lines that begin with a colon are for exactly this.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from modelserving_gateway.clients.client import Client, ClientLeftError, Sent

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
        self._answering: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Let the grace begin, unless it has, or comments are sent already."""
        if self._timer is not None or self._task is not None:
            return
        # A timer and no task yet: most streams are answered within the grace.
        pause = self._grace if self._client.sent is Sent.NOTHING else self._interval
        self._timer = asyncio.get_running_loop().call_later(pause, self._begin_comments)

    async def end(self) -> None:
        """Write nothing more: the answer comes now. What is being written is finished first."""
        self._stop_timer()
        task, self._task = self._task, None
        if task is not None and self._answering is not None:
            self._answering.set()
            await asyncio.wait({task})

    def cancel(self) -> None:
        """Write nothing more to a client that has left."""
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()

    def _begin_comments(self) -> None:
        self._timer = None
        self._answering = asyncio.Event()
        self._task = asyncio.create_task(self._send_until(self._answering), name="keepalive")

    async def _send_until(self, answering: asyncio.Event) -> None:
        # A client that left is noticed, and its request ended, by who attends it.
        with suppress(ClientLeftError):
            while not answering.is_set():
                if self._client.sent is Sent.NOTHING:
                    await self._client.start(200, _EVENT_STREAM, Sent.EVENTS)
                await self._client.write(self._comment())
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await answering.wait()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
