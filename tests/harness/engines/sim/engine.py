"""The running engine: slots, pace, draining, sleep. It knows nothing of HTTP.

A request waits for a slot, then yields its tokens at the pace of `Behaviour`. Draining is vLLM's:
what runs goes on, what comes is turned away, and what still runs at the end gets nothing more.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Gauge

from .answers import FINISH_ABORTED, Answer
from .behaviour import Behaviour, Fault
from .gpu import Gpu
from .metrics import Metrics


class ShuttingDownError(Exception):
    """The engine drains and takes no new request."""


@dataclass(frozen=True)
class Piece:
    """A token, and why it is the last when it is."""

    token: str
    finish_reason: str | None


class Engine:
    """What stands between the HTTP routes and the answers."""

    def __init__(
        self,
        behaviour: Behaviour,
        metrics: Metrics,
        gpu: Gpu,
        *,
        slots: int,
        die: Callable[[int], None] = os._exit,
    ) -> None:
        self.metrics = metrics
        self._behaviour = behaviour
        self._gpu = gpu
        self._slots = asyncio.Semaphore(slots)
        self._die = die
        self._draining = False
        self._interrupted = asyncio.Event()
        self._hangs = False
        self._requests = _Count()
        self._waiting = _Count(metrics.waiting)
        self._running = _Count(metrics.running)
        self._awake = asyncio.Event()
        self._awake.set()

    async def generate(
        self, prompt_tokens: int, answer: Answer, seconds_per_token: float | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of `answer`, the last with its reason.

        Raises ShuttingDownError when the engine is draining. The request counts as running until
        the iterator is closed.
        """
        self.check_accepting()
        began = time.monotonic()
        interrupted = self._interrupted
        reason = FINISH_ABORTED
        with self._requests:
            try:
                async with self._slot():
                    self.metrics.prompt_tokens.inc(prompt_tokens)
                    pieces = self._pieces(answer, seconds_per_token, began, interrupted)
                    async with aclosing(pieces):
                        async for piece in pieces:
                            reason = piece.finish_reason or reason
                            yield piece
            finally:
                self.metrics.finished(reason)
                self.metrics.request_seconds.observe(time.monotonic() - began)

    def check_accepting(self) -> None:
        """Raise ShuttingDownError when the engine drains."""
        if self._draining:
            raise ShuttingDownError

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        with self._waiting:
            await self._awake.wait()
            await self._slots.acquire()
        try:
            with self._running:
                yield
        finally:
            self._slots.release()

    async def _pieces(
        self,
        answer: Answer,
        seconds_per_token: float | None,
        began: float,
        interrupted: asyncio.Event,
    ) -> AsyncGenerator[Piece, None]:
        if self._behaviour.fault is Fault.EMPTY:
            self.metrics.generation_tokens.inc()
            yield Piece("", answer.finish_reason)
            return
        if self._behaviour.fault is Fault.GARBAGE:
            answer = Answer(("!",) * len(answer.tokens), answer.finish_reason)
        pace = self._behaviour.seconds_per_token if seconds_per_token is None else seconds_per_token
        due = time.monotonic() + self._behaviour.first_token_seconds
        for i, token in enumerate(answer.tokens):
            await _wait_until(due + i * pace, interrupted)
            if self._hangs:
                await asyncio.get_running_loop().create_future()  # until the client leaves
            if interrupted.is_set():
                yield Piece("", FINISH_ABORTED)
                return
            if i == 0:
                self.metrics.first_token_seconds.observe(time.monotonic() - began)
            self.metrics.generation_tokens.inc()
            last = i == len(answer.tokens) - 1
            yield Piece(token, answer.finish_reason if last else None)
            if self._behaviour.fault is Fault.DIE and i + 1 >= self._behaviour.die_after_tokens:
                await asyncio.sleep(0.05)  # the chunks so far leave the socket first
                self._die(self._behaviour.exit_code)

    async def drain(self, seconds: float) -> None:
        """Take nothing new; return when nothing runs, or after `seconds`.

        With 0 seconds what runs is aborted: its answer ends, with that reason. Otherwise what
        still runs at the end hangs, and its connections stay open, as in vLLM 0.32: the engine
        is killed there and nobody tells the requests.
        """
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._requests.none.wait()
        except TimeoutError:
            self._hangs = seconds > 0
            self._interrupted.set()
            self._awake.set()

    async def sleep(self, *, abort: bool) -> None:
        """Free the GPU once nothing runs; later requests wait until `wake_up`.

        What was accepted before is aborted, or else finishes first.
        """
        self._awake.clear()
        if abort:
            self._interrupted.set()
            self._interrupted = asyncio.Event()
        await self._running.none.wait()
        self._gpu.release()

    def wake_up(self) -> None:
        """Take the GPU again. Raises GpuInUseError when somebody else has it by now."""
        if not self._awake.is_set():
            self._gpu.acquire()
            self._awake.set()

    @property
    def is_sleeping(self) -> bool:
        return not self._awake.is_set()


class _Count:
    """How many are inside, shown by a gauge; `none` is set while there is none."""

    def __init__(self, gauge: Gauge | None = None) -> None:
        self._inside = 0
        self._gauge = gauge
        self.none = asyncio.Event()
        self.none.set()

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    def _add(self, difference: int) -> None:
        self._inside += difference
        if self._gauge is not None:
            self._gauge.set(self._inside)
        if self._inside:
            self.none.clear()
        else:
            self.none.set()


async def _wait_until(moment: float, interrupted: asyncio.Event) -> None:
    seconds = moment - time.monotonic()
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    try:
        await asyncio.wait_for(interrupted.wait(), seconds)
    except TimeoutError:
        return
