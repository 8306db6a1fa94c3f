"""One GPU, its engine, two gateways and the operator, as discrete events.

Decides nothing: when to swap is asked of a discipline with the very facts that the operator's
policy gets, and what swaps cost is learned by the operator's own code. Gateways publish demand by
the gateway's own rules. Time is simulated; seconds are floats since the start.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from benchmarks.arbitration.workloads import Arrival, Workload
from modelserving_api.priority import HANDICAP_SECONDS
from modelserving_api.spec import Demand as PublishedDemand
from modelserving_api.spec import RequestEntry, Swap
from modelserving_api.status import SwapCost
from modelserving_gateway.cluster.demand import Demand, seconds_until_write
from modelserving_operator.activity import IdleTracker
from modelserving_operator.costs import Costs, Sample, learn
from modelserving_operator.decision import Decision, Facts, Stay, SwapTo
from modelserving_operator.demand import aggregate
from modelserving_operator.observation import EngineActivity, ModelDemand

START: Final = datetime(2026, 1, 1, tzinfo=UTC)

GATEWAYS: Final = 2
RENEW_SECONDS: Final = 10.0
"""The gateway's default: how often lasting demand is written anew."""
LATENCY_SECONDS: Final = 0.03
"""From a write to the API server until who watches acts on it."""
ACTIVE_POLL_SECONDS: Final = 5.0
"""The operator looks at an active engine at least this often (actions.py)."""
DRAIN_POLL_SECONDS: Final = (0.1, 1.0)
"""The least and the most between looks at a draining engine (steps.py)."""
JITTER: Final = 0.1
"""Each swap takes up to this much more or less than its cost."""

Discipline = Callable[[Facts], Decision]


@dataclass
class Request:
    """One request on its way."""

    arrival: Arrival
    forwarded: float | None = None


@dataclass
class Gateway:
    """What one gateway holds and has published."""

    name: str
    held: dict[str, deque[Request]] = field(default_factory=dict)
    published: dict[str, Demand] = field(default_factory=dict)
    entry: RequestEntry | None = None
    last_write: float = -1e9
    due: float = -1.0

    def wanted(self) -> dict[str, Demand]:
        """Return what it holds, as the gateway would publish it."""
        return {
            model: Demand(len(queue), moment(queue[0].arrival.seconds))
            for model, queue in self.held.items()
            if queue
        }


@dataclass
class CurrentSwap:
    """A swap that is going on."""

    leaving: str | None
    target: str
    started: float
    drained: float | None = None


@dataclass(frozen=True)
class Spell:
    """A stretch of time in which one model was ready, until its drain had ended."""

    model: str
    began: float
    draining: float
    ended: float


@dataclass
class Record:
    """What has happened."""

    workload: Workload
    ended: float = 0.0
    requests: list[Request] = field(default_factory=list)
    swaps: list[tuple[float, str]] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    busy_seconds: float = 0.0
    """With at least one request running, within the workload's hours."""
    wanted_seconds: float = 0.0
    """With at least one request running or waiting."""
    cut_off: list[Request] = field(default_factory=list)
    """Requests that a drain budget has ended."""
    decisions: int = 0

    def waits(self, model: str | None = None) -> list[float]:
        """Return how long requests waited until their model was ready; so far, if they still do."""
        return [
            (self.ended if each.forwarded is None else each.forwarded) - each.arrival.seconds
            for each in self.requests
            if model is None or each.arrival.model == model
        ]


class Simulation:
    """One run of a workload under a discipline."""

    def __init__(
        self,
        workload: Workload,
        discipline: Discipline,
        *,
        cost: float,
        swap: Swap,
        concurrency: int = 64,
        jitter: float = JITTER,
        seed: int = 0,
    ) -> None:
        self.record = Record(workload)
        self._discipline = discipline
        self._cost, self._jitter, self._swap = cost, jitter, swap
        self._concurrency = concurrency
        self._rng = random.Random(f"swap-{seed}")
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._gateways = [Gateway(f"gateway-{index}") for index in range(GATEWAYS)]
        self._active: str | None = workload.models[0]
        self._active_since = 0.0
        self._unasked = True
        self._pod = 0
        self._current: CurrentSwap | None = None
        self._running: dict[int, Request] = {}
        self._queued: deque[Request] = deque()
        self._finished = 0
        self._idle = IdleTracker()
        self._costs: list[SwapCost] = []
        self._known = Costs()
        self._next_turn = -1.0

    def run(self, beyond: float = 600.0) -> Record:
        """Run the workload, and at most `beyond` seconds more until nobody waits."""
        for index, arrival in enumerate(self.record.workload.arrivals):
            request = Request(arrival)
            self.record.requests.append(request)
            gateway = self._gateways[index % GATEWAYS]
            self._at(arrival.seconds, self._arrive(gateway, request))
        self._look_at(0.0)
        end = self.record.workload.seconds
        while self._events and self._now < end + beyond:
            when, _, event = heapq.heappop(self._events)
            self._count_time(min(when, end) - min(self._now, end))
            self._now = when
            event()
            if self._now > end and not any(any(each.held.values()) for each in self._gateways):
                break
        self.record.ended = self._now
        self._close_spell(self._now)
        return self.record

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, event))

    def _count_time(self, seconds: float) -> None:
        if self._running:
            self.record.busy_seconds += seconds
        if self._running or any(any(each.held.values()) for each in self._gateways):
            self.record.wanted_seconds += seconds

    # The gateways.

    def _arrive(self, gateway: Gateway, request: Request) -> Callable[[], None]:
        def arrive() -> None:
            model = request.arrival.model
            if self._current is None and self._active == model and not gateway.held.get(model):
                self._forward(request)
            else:
                gateway.held.setdefault(model, deque()).append(request)
                self._publish(gateway)

        return arrive

    def _release(self, model: str) -> None:
        for gateway in self._gateways:
            for request in gateway.held.pop(model, ()):
                self._forward(request)
            self._publish(gateway)

    def _publish(self, gateway: Gateway) -> None:
        """Write the gateway's entry if that is due, or come back when it is."""
        wanted = gateway.wanted()
        age = self._now - gateway.last_write
        delay = seconds_until_write(gateway.published, wanted, age, RENEW_SECONDS)
        if delay is None:
            gateway.due = -1.0
            return
        if delay > 1e-6:
            due = self._now + delay
            if gateway.due < self._now or due < gateway.due:
                gateway.due = due
                self._at(due, lambda: self._publish(gateway) if gateway.due == due else None)
            return
        gateway.published, gateway.last_write, gateway.due = wanted, self._now, -1.0
        gateway.entry = _entry(gateway, self._now) if wanted else None
        self._look_at(self._now + LATENCY_SECONDS)
        self._publish(gateway)

    # The engine.

    def _forward(self, request: Request) -> None:
        request.forwarded = self._now
        if len(self._running) < self._concurrency:
            self._start(request)
        else:
            self._queued.append(request)

    def _start(self, request: Request) -> None:
        self._running[id(request)] = request
        self._at(self._now + request.arrival.service_seconds, lambda: self._finish(request))

    def _finish(self, request: Request) -> None:
        if self._running.pop(id(request), None) is None:
            return
        self._finished += 1
        if self._queued:
            self._start(self._queued.popleft())

    # The operator.

    def _look_at(self, when: float) -> None:
        """Have the operator look then, unless it does so earlier."""
        if self._next_turn < self._now or when < self._next_turn:
            self._next_turn = when
            self._at(when, lambda: self._look() if self._next_turn == when else None)

    def _look(self) -> None:
        self._next_turn = -1.0
        if self._current is not None:
            return
        self.record.decisions += 1
        decision = self._discipline(self._facts())
        match decision:
            case SwapTo(model) if model is not None:
                self.record.causes.append(decision.cause)
                self._begin(model)
            case Stay(look_again_seconds=pause):
                pause = ACTIVE_POLL_SECONDS if pause is None else pause
                self._look_at(self._now + min(pause, ACTIVE_POLL_SECONDS))

    def _facts(self) -> Facts:
        now = moment(self._now)
        activity = EngineActivity(len(self._running), len(self._queued), self._finished)
        return Facts(
            now=now,
            swap=self._swap,
            active=self._active,
            active_since=moment(self._active_since),
            unasked=self._unasked,
            activity=activity,
            idle_since=self._idle.update(str(self._pod), activity, now),
            demand=self._demand(),
            costs=self._known,
        )

    def _demand(self) -> tuple[ModelDemand, ...]:
        entries = [each.entry for each in self._gateways if each.entry is not None]
        return aggregate(entries, self.record.workload.models)

    def _begin(self, target: str) -> None:
        if target == self._active:
            raise ValueError(f"a swap of {target} to itself")
        self._current = CurrentSwap(self._active, target, self._now)
        self._at(self._now + DRAIN_POLL_SECONDS[0], self._drain)

    def _drain(self) -> None:
        swap = self._current
        assert swap is not None
        spent = self._now - swap.started
        if (self._running or self._queued) and spent < self._swap.drain_timeout_seconds:
            pause = min(max(spent / 10, DRAIN_POLL_SECONDS[0]), DRAIN_POLL_SECONDS[1])
            self._at(self._now + pause, self._drain)
            return
        self.record.cut_off += [*self._running.values(), *self._queued]
        self._running.clear()
        self._queued.clear()
        self._close_spell(self._now)
        self._active = None
        swap.drained = self._now
        jitter = self._rng.uniform(1 - self._jitter, 1 + self._jitter)
        self._at(self._now + self._cost * jitter, self._ready)

    def _ready(self) -> None:
        swap = self._current
        assert swap is not None and swap.drained is not None  # noqa: PT018
        self._current, self._active, self._active_since = None, swap.target, self._now
        self._unasked = False
        self._pod += 1
        self.record.swaps.append((self._now, swap.target))
        if swap.leaving is not None:
            sample = Sample(
                swap.leaving, swap.target, self._now - swap.drained, swap.drained - swap.started
            )
            self._costs = learn(self._costs, sample, self.record.workload.models)
            self._known = Costs({(each.from_model, each.to_model): each for each in self._costs})
        self._release(swap.target)
        self._look_at(self._now + 0.5)

    def _close_spell(self, now: float) -> None:
        if self._active is not None:
            draining = self._current.started if self._current is not None else now
            self.record.spells.append(Spell(self._active, self._active_since, draining, now))


def moment(seconds: float) -> datetime:
    """Return a moment of simulated time."""
    return START + timedelta(seconds=seconds)


def _entry(gateway: Gateway, now: float) -> RequestEntry:
    models = [
        PublishedDemand(
            name=model,
            waiting=demand.waiting,
            since=demand.since,
            priority=min(
                (each.arrival.priority for each in gateway.held[model]),
                key=HANDICAP_SECONDS.__getitem__,
            ),
        )
        for model, demand in gateway.published.items()
    ]
    return RequestEntry(requester=gateway.name, renew_time=moment(now), models=models)
