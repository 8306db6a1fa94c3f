"""Gives requests their turn: the one place where catalog, queue and engines meet.

Lives in the event loop, opens no socket. It decides nothing itself: where a request may go is
routing.py's, who is next queueing.py's, how much an engine may have engines.py's.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from modelserving_api.priority import HANDICAP_SECONDS, Priority
from modelserving_gateway.api import errors
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.cluster.catalog import Catalog
from modelserving_gateway.cluster.demand import Demand
from modelserving_gateway.turns.engines import Engines
from modelserving_gateway.turns.queueing import Held, HeldRequests, Limits, Waiting
from modelserving_gateway.turns.routing import (
    Decision,
    Forward,
    Refuse,
    Target,
    active_models,
    decide,
)
from modelserving_gateway.turns.wanted import demand_by_serving

_TIMER_SLACK: Final = 0.002
"""Seconds. uvloop rounds timers to milliseconds: one that fires too early would find the pause
still on, and nobody would look again."""


class Turn:
    """A request's turn at an engine; used as a context, it is over when the block is left."""

    def __init__(self, dispatcher: "Dispatcher", target: Target) -> None:
        self.target = target
        self._dispatcher = dispatcher
        self._over = False
        dispatcher.engines.begin(target.endpoint)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Make room for the next request; a second time it does nothing."""
        if self._over:
            return
        self._over = True
        self._dispatcher.end_turn(self.target.endpoint)

    def answered(self) -> None:
        """Note that the engine is well."""
        self._dispatcher.engine_answered(self.target.endpoint)

    def not_reached(self) -> None:
        """Note that the engine could not be reached."""
        self._dispatcher.engine_not_reached(self.target.endpoint)


@dataclass(slots=True)
class Waiter:
    """A request in the queue."""

    may_swap: bool
    """Whether it may wait for a model that is not active."""
    avoid: str | None
    """An endpoint that has just lost this request: not tried again before `avoid_until`."""
    avoid_until: float
    may_use: Callable[[str], bool] = lambda _: True
    """Of which models it may be told."""
    granted: asyncio.Future[Turn | Refuse] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    taken: bool = False

    def take(self) -> Turn | Refuse:
        """Return what was granted; the turn is the caller's to end from now on."""
        self.taken = True
        return self.granted.result()

    def give_back(self) -> None:
        """End a turn that was granted and not taken: its request has left in that moment."""
        if self.granted.done() and not self.granted.cancelled() and not self.taken:
            granted = self.granted.result()
            if isinstance(granted, Turn):
                granted.end()


class Dispatcher:
    """Catalog, engines and held requests of one gateway."""

    def __init__(self, limits: Limits, max_in_flight: int) -> None:
        self.catalog = Catalog()
        self.engines = Engines(max_in_flight)
        self._queues = HeldRequests(limits)
        self._waiters: dict[int, Waiter] = {}
        self._targets: dict[str, tuple[Target, ...]] = {}
        """Where each model is served now; kept, since every request asks for it."""
        self._served_at: dict[str, str] = {}
        """What each endpoint serves."""
        self._deleted: dict[str, str] = {}
        """The ModelServing that each name went with which nothing declares any more: names alone,
        as many as the metrics have."""
        self._listeners: list[Callable[[], None]] = []
        self._telling = False
        self._sequence = 0

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` soon after demand may have changed. It must not block."""
        self._listeners.append(listener)

    def replace_catalog(self, catalog: Catalog) -> None:
        """Take what the watch says now, and release or refuse what waits accordingly."""
        before = self.catalog.endpoints()
        deleted = {**self._deleted, **catalog.deleted_since(self.catalog)}
        self._deleted = {
            name: serving for name, serving in deleted.items() if catalog.model_called(name) is None
        }
        self.catalog = catalog
        self._targets = {
            model: decision.targets
            for model in catalog.models()
            if isinstance(decision := self.decide(model), Forward)
        }
        self._served_at = {
            target.endpoint: model for model, targets in self._targets.items() for target in targets
        }
        now = catalog.endpoints()
        self.engines.appeared(now - before)
        self.engines.retain(now)
        for model in self._queues.models():
            self._settle(model)
        self._tell()

    def undeclared(self, name: str) -> ApiError:
        """Return what a request is told that was admitted, when nothing declares its model now.

        It was declared when the request came, and a 404 is final for clients. Only a model that was
        taken out of a ModelServing has one: somebody has decided that it is not to be had.
        """
        serving = self._deleted.get(name)
        if serving is None:
            return errors.model_not_found(name)
        return errors.model_serving_deleted(name, serving)

    def decide(self, model: str) -> Decision:
        """Decide about a model that a request was admitted for, as things stand."""
        if not self.catalog.servings_of(model):
            return Refuse(self.undeclared(model))
        return decide(self.catalog, model, _now(), self.engines.by_endpoint())

    def is_active(self, model: str) -> bool:
        """Say whether the model is served now."""
        return model in self._targets

    def is_crowded(self, model: str) -> bool:
        """Say whether the model is served by an engine that is well and has all it may have."""
        return any(self.engines.full(each.endpoint) for each in self._targets.get(model, ()))

    def waiting(self) -> dict[str, Waiting]:
        """Return what is held, by model."""
        return self._queues.waiting()

    def ahead_of(self, held: Held) -> int:
        """Return how many requests go before this one."""
        return self._queues.ahead_of(held)

    def demand(self) -> dict[str, dict[str, Demand]]:
        """Return what is wanted of each ModelServing, by model.

        What waits only because its engine has all that it may have is no demand: it is being
        served, and nothing in the cluster has to change for it.
        """
        wanted = {
            model: waiting
            for model, waiting in self._queues.waiting().items()
            if not self.is_crowded(model)
        }
        return demand_by_serving(wanted, self.catalog, _now(), self.engines.by_endpoint())

    def next_sequence(self) -> int:
        """Give a request its place in arrival order."""
        self._sequence += 1
        return self._sequence

    def held(
        self, sequence: int, model: str, size: int, priority: Priority, arrived: float
    ) -> Held:
        """Return what the queue holds of a request that arrived at a time of time.monotonic."""
        waited = timedelta(seconds=time.monotonic() - arrived)
        due = arrived + HANDICAP_SECONDS[priority]
        return Held(sequence, model, size, _now() - waited, priority, due)

    def turn_at_once(self, model: str) -> Turn | None:
        """Return a turn when the model is served, there is room, and nobody waits for it."""
        targets = self._targets.get(model)
        if targets is None or self._queues.count(model):
            return None
        target = self._least_loaded(targets, asyncio.get_running_loop().time())
        return None if target is None else Turn(self, target)

    @contextmanager
    def queued(
        self,
        held: Held,
        *,
        admitted: bool = False,
        may_swap: bool = True,
        may_use: Callable[[str], bool] = lambda _: True,
        avoid: str | None = None,
        avoid_until: float = 0.0,
    ) -> Iterator[Waiter]:
        """Have a request wait for its turn in the block.

        Raises QueueFullError, unless the request was `admitted` before. However the block is left,
        the request is out of the queue at once.
        """
        if admitted:
            self._queues.put_back(held)
        else:
            self._queues.admit(held)
        waiter = self._waiters[held.sequence] = Waiter(may_swap, avoid, avoid_until, may_use)
        if avoid is not None:
            loop = asyncio.get_running_loop()
            loop.call_at(avoid_until + _TIMER_SLACK, self._settle, held.model)
        self._settle(held.model)
        self._tell()
        try:
            yield waiter
        finally:
            del self._waiters[held.sequence]
            if self._queues.leave(held):
                self._tell()
            waiter.give_back()

    def end_turn(self, endpoint: str) -> None:
        """Make room at an engine."""
        self.engines.end(endpoint)
        self._settle_at(endpoint)

    def engine_answered(self, endpoint: str) -> None:
        """Use an engine again that could not be reached."""
        if self.engines.heard_of(endpoint):
            self._settle_at(endpoint)

    def engine_not_reached(self, endpoint: str) -> None:
        """Send nothing to an engine for a while."""
        loop = asyncio.get_running_loop()
        until = self.engines.not_reached(endpoint, loop.time())
        loop.call_at(until + _TIMER_SLACK, self._settle_at, endpoint)

    def _settle_at(self, endpoint: str) -> None:
        """Settle the model that is served there now, which need not be the one that was."""
        model = self._served_at.get(endpoint)
        if model is not None and self._queues.count(model):
            self._settle(model)

    def _settle(self, model: str) -> None:
        """Grant turns to what waits for a model, in its order, as far as there is room."""
        decision = self.decide(model)
        if isinstance(decision, Forward):
            self._grant_turns(model, decision.targets)
            return
        for held in self._queues.in_order(model):
            waiter = self._waiters[held.sequence]
            if isinstance(decision, Refuse):
                self._grant(held, waiter, decision)
            elif not waiter.may_swap:
                active = tuple(filter(waiter.may_use, active_models(self.catalog)))
                self._grant(held, waiter, Refuse(errors.model_not_active(model, active)))

    def _grant_turns(self, model: str, targets: tuple[Target, ...]) -> None:
        now = asyncio.get_running_loop().time()
        for held in self._queues.in_order(model):
            waiter = self._waiters[held.sequence]
            target = self._least_loaded(targets, now, waiter)
            if target is not None:
                self._grant(held, waiter, Turn(self, target))
            elif waiter.avoid is None or now >= waiter.avoid_until:
                return

    def _grant(self, held: Held, waiter: Waiter, what: Turn | Refuse) -> None:
        self._queues.leave(held)
        self._tell()
        waiter.granted.set_result(what)

    def _least_loaded(
        self, targets: tuple[Target, ...], now: float, waiter: Waiter | None = None
    ) -> Target | None:
        if len(targets) == 1 and waiter is None:
            return targets[0] if self.engines.room(targets[0].endpoint, now) > 0 else None
        avoid = waiter.avoid if waiter is not None and now < waiter.avoid_until else None
        open_ = [
            target
            for target in targets
            if target.endpoint != avoid and self.engines.room(target.endpoint, now) > 0
        ]
        if len(open_) < 2:
            return open_[0] if open_ else None
        return min(open_, key=lambda target: self.engines.in_flight(target.endpoint))

    def _tell(self) -> None:
        """Tell the listeners, once for all that happens in this turn of the event loop."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._telling = False
        for listener in self._listeners:
            listener()


def _now() -> datetime:
    return datetime.now(UTC)
