"""The running engine: slots, pace, draining, sleep. It knows nothing of HTTP.

A request waits for a slot, then yields its tokens at the pace of `Behaviour`. Draining is vLLM's:
what runs goes on, what comes is turned away, and what still runs at the end gets nothing more.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

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
        self._awake = asyncio.Event()
        self._awake.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._requests = 0
        self.sleep_level = 0

    async def generate(
        self, prompt_tokens: int, answer: Answer, seconds_per_token: float | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of `answer`, the last with its reason.

        Raises ShuttingDownError when the engine is draining. The request counts as running
        until the iterator is closed.
        """
        if self._draining:
            raise ShuttingDownError
        self._requests += 1
        self._idle.clear()
        began = time.monotonic()
        reason = FINISH_ABORTED
        try:
            await self._take_slot()
            try:
                self.metrics.running.inc()
                self.metrics.prompt_tokens.inc(prompt_tokens)
                async with aclosing(self._pieces(answer, seconds_per_token, began)) as pieces:
                    async for piece in pieces:
                        reason = piece.finish_reason or reason
                        yield piece
            finally:
                self.metrics.running.dec()
                self._slots.release()
        finally:
            self.metrics.finished(reason)
            self.metrics.request_seconds.observe(time.monotonic() - began)
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def _take_slot(self) -> None:
        self.metrics.waiting.inc()
        try:
            await self._awake.wait()
            await self._slots.acquire()
        finally:
            self.metrics.waiting.dec()

    async def _pieces(
        self, answer: Answer, seconds_per_token: float | None, began: float
    ) -> AsyncGenerator[Piece, None]:
        if self._behaviour.fault is Fault.EMPTY:
            yield Piece("", answer.finish_reason)
            return
        pace = self._behaviour.seconds_per_token if seconds_per_token is None else seconds_per_token
        due = time.monotonic() + self._behaviour.first_token_seconds
        for i, token in enumerate(answer.tokens):
            await self._wait_until(due + i * pace)
            if self._hangs:
                await asyncio.get_running_loop().create_future()  # until the client leaves
            if self._interrupted.is_set():
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

    async def _wait_until(self, moment: float) -> None:
        seconds = moment - time.monotonic()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._interrupted.wait(), seconds)
        except TimeoutError:
            return

    async def drain(self, seconds: float) -> None:
        """Take nothing new; return when nothing runs, or after `seconds`.

        With 0 seconds what runs is aborted: its answer ends, with that reason. Otherwise what
        still runs at the end hangs, and its connections stay open, as in vLLM 0.32: the engine
        is killed there and nobody tells the requests.
        """
        self._draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._hangs = seconds > 0
            self._interrupted.set()
            self._awake.set()

    def sleep(self, level: int) -> None:
        """Free the GPU; requests wait until `wake_up`."""
        self.sleep_level = level
        self._awake.clear()
        self._gpu.release()

    def wake_up(self) -> None:
        """Take the GPU again. Raises GpuInUseError when somebody else has it by now."""
        if not self._awake.is_set():
            self._gpu.acquire()
            self._awake.set()

    @property
    def is_sleeping(self) -> bool:
        return not self._awake.is_set()
