"""Turns under random arrivals, leaves, swaps, failures and pauses: R5 and R6, and nobody forgotten.

The whole dispatcher runs, with a clock that only the test moves.
"""

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelserving_api.priority import Priority
from modelserving_gateway.cluster.catalog import Catalog, read_serving
from modelserving_gateway.turns.dispatch import Dispatcher, Turn, Waiter
from modelserving_gateway.turns.queueing import Held, Limits, QueueFullError
from modelserving_gateway.turns.routing import Refuse
from tests.unit.gateway.fakes import serving

MODELS = ("a", "b")
LIMITS = Limits(requests_each_model=4, requests_all=6, bytes_all=60)
MAX_IN_FLIGHT = 2


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is moved."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@dataclass(eq=False)
class Request:
    """A request that waits."""

    held: Held
    waiter: Waiter
    inside: ExitStack
    may_swap: bool

    @property
    def granted(self) -> Turn | None:
        """Its turn, while the request does not know of it yet."""
        done = self.waiter.granted.done() and not self.waiter.taken
        granted = self.waiter.granted.result() if done else None
        return granted if isinstance(granted, Turn) else None


class Life(RuleBasedStateMachine):
    """One gateway, two models, up to two ModelServings."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        asyncio.set_event_loop(self.loop)
        self.dispatcher = self.run(self._make())
        self.active: dict[str, str] = {}
        self.waiting: list[Request] = []
        self.running: list[tuple[Request, Turn]] = []

    async def _make(self) -> Dispatcher:
        return Dispatcher(LIMITS, MAX_IN_FLIGHT)

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    @property
    def queued(self) -> list[Request]:
        """What waits and has got no answer yet."""
        return [each for each in self.waiting if not each.waiter.granted.done()]

    @rule()
    def settle(self) -> None:
        """Let the loop do what is due, and take what was granted, as the proxy would."""

        async def turn() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        self.run(turn())
        for request in tuple(self.waiting):
            if not request.waiter.granted.done():
                continue
            granted = request.waiter.take()
            self.waiting.remove(request)
            request.inside.close()
            if isinstance(granted, Turn):
                self.running.append((request, granted))
            else:
                assert isinstance(granted, Refuse)

    @rule(
        model=st.sampled_from(MODELS),
        priority=st.sampled_from(Priority),
        may_swap=st.booleans(),
        size=st.integers(0, 20),
    )
    def arrive(self, model: str, priority: Priority, may_swap: bool, size: int) -> None:
        async def enter() -> None:
            sequence = self.dispatcher.next_sequence()
            held = self.dispatcher.held(sequence, model, size, priority, time.monotonic())
            turn = self.dispatcher.turn_at_once(model)
            if turn is not None:
                request = Request(held, Waiter(True, None, 0), ExitStack(), may_swap)
                self.running.append((request, turn))
                return
            self._enter(held, may_swap=may_swap)

        queued = self.queued
        try:
            self.run(enter())
        except QueueFullError:
            of_model = sum(each.held.model == model for each in queued)
            of_all = sum(each.held.size for each in queued)
            assert of_model >= 4 or len(queued) >= 6 or of_all + size > 60

    def _enter(self, held: Held, *, may_swap: bool, **more: Any) -> None:
        inside = ExitStack()
        waiter = inside.enter_context(self.dispatcher.queued(held, may_swap=may_swap, **more))
        self.waiting.append(Request(held, waiter, inside, may_swap))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client goes, in the worst case in the very moment that its turn has come."""
        request = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(request)
        self.run(self._close(request))

    async def _close(self, request: Request) -> None:
        request.inside.close()

    @rule(place=st.sampled_from(("one", "two")), model=st.sampled_from((*MODELS, None)))
    def swap(self, place: str, model: str | None) -> None:
        if model is None:
            self.active.pop(place, None)
        else:
            self.active[place] = model
        self.run(self._publish())

    async def _publish(self) -> None:
        self.dispatcher.replace_catalog(
            Catalog.of(
                read_serving(
                    serving(
                        place,
                        {model: [] for model in MODELS},
                        active=self.active.get(place),
                        endpoint=f"http://{place}:8000" if place in self.active else None,
                    )
                )
                for place in ("one", "two")
            )
        )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        request, turn = data.draw(st.sampled_from(self.running))
        self.running.remove((request, turn))

        async def end() -> None:
            with turn:
                turn.answered()

        self.run(end())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), unreachable=st.booleans())
    def fail(self, data: st.DataObject, unreachable: bool) -> None:
        """An engine fails a request, which goes back to its place."""
        request, turn = data.draw(st.sampled_from(self.running))
        self.running.remove((request, turn))

        async def end() -> None:
            with turn:
                if unreachable:
                    turn.not_reached()
            lost: dict[str, Any] = {}
            if not unreachable:
                lost = {"avoid": turn.target.endpoint, "avoid_until": self.loop.time() + 0.5}
            self._enter(request.held, may_swap=request.may_swap, admitted=True, **lost)

        self.run(end())

    @rule(seconds=st.floats(0.01, 10))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.settle()

    @invariant()
    def an_engine_has_at_most_what_it_may_have(self) -> None:
        running: dict[str, int] = {}
        granted = [turn for each in self.waiting if (turn := each.granted) is not None]
        for turn in [*granted, *(turn for _, turn in self.running)]:
            running[turn.target.endpoint] = running.get(turn.target.endpoint, 0) + 1
        assert all(count <= MAX_IN_FLIGHT for count in running.values())
        for endpoint, count in running.items():
            assert self.dispatcher.engines.in_flight(endpoint) == count

    @invariant()
    def the_queue_is_what_waits(self) -> None:
        told = {model: each.count for model, each in self.dispatcher.waiting().items()}
        mine: dict[str, int] = {}
        for each in self.queued:
            mine[each.held.model] = mine.get(each.held.model, 0) + 1
        assert told == mine

    @invariant()
    def nobody_is_forgotten_while_there_is_room(self) -> None:
        now = self.loop.time()
        for request in self.queued:
            if not self.dispatcher.is_active(request.held.model):
                assert request.may_swap
                continue
            for place, model in self.active.items():
                endpoint = f"http://{place}:8000"
                avoided = request.waiter.avoid == endpoint and now < request.waiter.avoid_until + 1
                assert (
                    model != request.held.model
                    or avoided
                    or self.dispatcher.engines.room(endpoint, now - 0.01) <= 0
                )

    @invariant()
    def what_waits_for_another_swap_is_wanted_somewhere(self) -> None:
        wanted = {model for models in self.dispatcher.demand().values() for model in models}
        for request in self.queued:
            if self.active and not self.dispatcher.is_active(request.held.model):
                assert request.held.model in wanted

    def teardown(self) -> None:
        for request in self.waiting:
            self.run(self._close(request))
        for _, turn in self.running:
            self.run(self._end(turn))
        assert self.dispatcher.waiting() == {}
        self.loop.close()
        asyncio.set_event_loop(None)

    async def _end(self, turn: Turn) -> None:
        turn.end()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40)
