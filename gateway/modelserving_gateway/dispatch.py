"""Holds requests until their model is served: the one place where catalog and queue meet.

Lives in the event loop, opens no socket. It decides nothing itself: routing.py does.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from modelserving_gateway.catalog import Catalog
from modelserving_gateway.demand import Demand, demand_by_serving
from modelserving_gateway.queueing import Held, HeldRequests, Limits, Waiting
from modelserving_gateway.routing import Decision, Forward, Hold, decide


@dataclass(frozen=True, slots=True)
class _Waiter:
    wake: asyncio.Future[None]
    avoid: str | None
    """An endpoint that has just failed this request."""


class Dispatcher:
    """Catalog and held requests of one gateway."""

    def __init__(self, limits: Limits) -> None:
        self.catalog = Catalog()
        self._queues = HeldRequests(limits)
        self._waiters: dict[int, _Waiter] = {}
        self._listeners: list[Callable[[], None]] = []
        self._sequence = 0

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever demand may have changed. It must not block."""
        self._listeners.append(listener)

    def replace_catalog(self, catalog: Catalog) -> None:
        """Take what the watch says now, and release or refuse what waits accordingly."""
        self.catalog = catalog
        for model in self._queues.models():
            self._settle(model)
        self._tell()

    def decide(self, model: str) -> Decision:
        """Decide about a model as things stand."""
        return decide(self.catalog, model, _now())

    def waiting(self) -> dict[str, Waiting]:
        """Return what is held, by model."""
        return self._queues.waiting()

    def demand(self) -> dict[str, dict[str, Demand]]:
        """Return what is wanted of each ModelServing, by model."""
        return demand_by_serving(self._queues.waiting(), self.catalog, _now())

    def ticket(self, model: str, size: int) -> Held:
        """Give a request its place in arrival order."""
        self._sequence += 1
        return Held(self._sequence, model, size, _now())

    async def hold(
        self, held: Held, until: float, *, admitted: bool = False, avoid: str | None = None
    ) -> None:
        """Wait until there is something new to decide, at most until loop time `until`.

        New is that the model is served (elsewhere than at `avoid`), or that nothing will serve it:
        the caller decides again. Raises QueueFullError, unless the request was `admitted` before.
        A cancelled hold leaves the queue at once.
        """
        if admitted:
            self._queues.put_back(held)
        else:
            self._queues.admit(held)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        self._waiters[held.sequence] = waiter
        self._tell()
        try:
            async with asyncio.timeout_at(until):
                await waiter.wake
        except TimeoutError:
            return
        finally:
            del self._waiters[held.sequence]
            if self._queues.leave(held):
                self._tell()

    def _settle(self, model: str) -> None:
        """Wake what waits for a model, the oldest first, when its wait is over."""
        decision = self.decide(model)
        if isinstance(decision, Hold):
            return
        endpoint = decision.endpoint if isinstance(decision, Forward) else None
        for held in self._queues.in_order(model):
            waiter = self._waiters[held.sequence]
            if endpoint is not None and endpoint == waiter.avoid:
                continue
            self._queues.leave(held)
            if not waiter.wake.done():
                waiter.wake.set_result(None)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _now() -> datetime:
    return datetime.now(UTC)
