"""One loop for each ModelServing: a turn, then a wait for something to happen, and so on.

No policy and no Kubernetes: what a turn does is reconciler's, what wakes a loop is handlers'. A
loop of our own, since a kopf daemon puts a finalizer on its object, and a ModelServing must not be
kept from being deleted by an operator that is away.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from modelserving_operator import metrics
from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.sight import Views

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 5.0
"""After a failed turn, doubling in between. An API server that is back must not wait long for us,
and a hundred loops that each try once in five seconds do not keep it from coming back."""

_LONGEST_OBEDIENCE_SECONDS: Final = 60.0
"""An API server's Retry-After is a few seconds; nothing sane asks for more than this."""

Key = tuple[str, str]
"""Namespace and name of a ModelServing."""


class Turns(Protocol):
    """What a loop calls: the reconciler."""

    async def turn(self, namespace: str, name: str, views: Views) -> float | None: ...


@dataclass
class _Loop:
    event: asyncio.Event = field(default_factory=asyncio.Event)
    woken_at: float | None = None
    """By the monotonic clock: when the first thing happened that no turn has looked at yet."""
    task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        if self.woken_at is None:
            self.woken_at = time.monotonic()
        self.event.set()

    def take(self) -> float | None:
        """Return since when there was something to look at; what comes now wakes the next turn."""
        woken_at, self.woken_at = self.woken_at, None
        self.event.clear()
        return woken_at


class Loops:
    """The loops of all ModelServings.

    `gone` is told when a ModelServing is no more, `fail` when a loop died, which is a bug.
    """

    def __init__(
        self, turns: Turns, gone: Callable[[Key], None], fail: Callable[[BaseException], None]
    ) -> None:
        self._turns = turns
        self._gone = gone
        self._fail = fail
        self._loops: dict[Key, _Loop] = {}

    def begin(self, key: Key, views: Views) -> None:
        """Begin the loop of a ModelServing, or wake the one that there is."""
        loop = self._loops.get(key)
        if loop is None:
            loop = self._loops[key] = _Loop()
            loop.task = asyncio.create_task(self._run(key, loop, views), name=f"loop of {key}")
            loop.task.add_done_callback(self._ended)
        loop.wake()

    def wake(self, key: Key) -> None:
        """Let a ModelServing be looked at now, if it has a loop."""
        loop = self._loops.get(key)
        if loop is not None:
            loop.wake()

    async def close(self) -> None:
        """End all loops, each where it waits; what was begun is in the status."""
        tasks = [loop.task for loop in self._loops.values() if loop.task is not None]
        self._loops.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key, loop: _Loop, views: Views) -> None:
        failures = 0
        while True:
            woken_at = loop.take()
            structlog.contextvars.bind_contextvars(modelserving="/".join(key))
            try:
                pause = await self._turns.turn(*key, views)
            except Exception as error:
                # Whatever it was, the loop must live: the next turn sees the world afresh.
                pause = pause_after(error, failures)
                failures += 1
                _tell(error, failures, pause)
                # Not cut short by events: they come in crowds just when things go wrong.
                await asyncio.sleep(pause)
                continue
            failures = 0
            if woken_at is not None:
                metrics.RECONCILE_LATENCY.labels(*key).observe(time.monotonic() - woken_at)
            if pause is None:
                if loop.event.is_set():
                    continue
                # It is gone. No await since that was seen, so whoever makes one of the same name
                # finds either this loop, and wakes it, or none, and begins one.
                del self._loops[key]
                self._gone(key)
                return
            await _wait(loop.event, pause)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


def pause_after(error: Exception, failures: int) -> float:
    """Return how long to wait in seconds after a failed turn, the `failures`-th after the first.

    A server that says when to come back is obeyed. Else the pause doubles, and a random half of it
    keeps a hundred loops that failed together from coming back together.
    """
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 10), _LONGEST_PAUSE_SECONDS)
    pause *= random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
    if isinstance(error, KubernetesApiError) and error.retry_after_seconds is not None:
        return max(pause, min(error.retry_after_seconds, _LONGEST_OBEDIENCE_SECONDS))
    return pause


def _tell(error: Exception, failures: int, pause: float) -> None:
    """Log a failed turn: a trace only for what is not the API server's or an engine's trouble."""
    expected = isinstance(error, KubernetesApiError)
    _log.warning(
        "turn failed",
        error=str(error),
        failures=failures,
        retry_seconds=round(pause, 2),
        exc_info=None if expected else error,
    )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until something happened, or the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
