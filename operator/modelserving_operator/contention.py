"""Several models want one GPU: whose turn is it, and until when does it last?

Pure, as policy, whose part it is. What queueing theory calls a polling system with switchover
times: one server, a queue for each model, and a price for going from one to another.

- Exhaustive service: the active model is served as long as it has work. Of all disciplines it
  leaves the least work undone (Levy, Sidi & Boxma, "Dominance relations in polling systems",
  Queueing Systems 6, 1990). It starves the others, so it is time-limited:
- the others' maximum wait ends it by a look ahead (lookahead.py): the first swap begins just early
  enough for everyone who waits to be ready in time, the earliest deadline first. That moment is
  reckoned twice: with drains as long as the budget allows, and as long as they were lately. Where
  a turn of each, drained for its whole budget, fits into the bound, the first one is kept to, and
  nobody waits longer whatever happens. Elsewhere it is used once the active model has had its
  residency, and until then the second: the bound holds if no drain is longer than of late.
- Gated service, where the bound cannot be kept: a turn lasts until what waited when it began has
  been let into the engine and the engine has begun it, for three times a swap's cost at most.
  Gated turns keep every queue bounded that any discipline could keep bounded, whatever swaps cost
  (Takagi, "Queueing analysis of polling models", ACM Computing Surveys 20(1), 1988).
- An idle server that pays for switching does better to wait a little (Hofri & Ross, "On the optimal
  control of two queues with server setup times", SIAM J. Computing 16(2), 1987). How long is the
  ski rental problem: who waits for as long as the swap costs never pays more than twice what one
  would have paid who knew the future (Karlin et al., "Competitive snoopy caching", Algorithmica 3,
  1988). So a model that was loaded stays for a residency, unless it has been quiet for that long.
- Between models, as within one, the earliest due date goes first, due being arrival plus the
  handicap of the priority class; but only if all others can still be ready in time after it, or
  if somebody cannot in any order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_api.priority import Priority
from modelserving_operator.decision import (
    Cause,
    Decision,
    Facts,
    Stay,
    SwapTo,
    clock,
    waiting_text,
)
from modelserving_operator.lookahead import (
    HANDOVER_SECONDS,
    TurnSeconds,
    Visit,
    latest_start,
    missed,
    round_seconds,
)
from modelserving_operator.observation import ModelDemand

QUIET: Final = timedelta(seconds=1)
"""Within its residency a model gives way only after at least this long without work: a client that
sends one request after the other leaves gaps of milliseconds, and they must not end its turn."""

PATIENCE: Final = 1.0
"""Of a swap's cost: how long an idle model is kept within its residency while one other waits.
Where several wait, each of them pays for it, so it is shared among them."""

PROPORTION: Final = 3.0
"""Of a swap's cost: the residency. At most a quarter of the GPU's time goes into swaps that no
maximum wait demands, if what is loaded has work."""

LEAST_TURN: Final = timedelta(seconds=1)
"""From being ready until what gateways have let go is in the engine's counts."""

RELEASE_LIMIT: Final = timedelta(seconds=10)
"""A gateway lets go of what it holds, and says so, within milliseconds; one that has not after this
long cannot reach the engine, and the others must not wait for that."""

BUSY_POLL_SECONDS: Final = 0.5
"""How often a busy engine is asked again while others wait for it."""

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

Waiting = list[ModelDemand]
"""Who waits for the GPU, never empty: the active model and those that must not be tried are out."""


def contend(facts: Facts, active: str, waiting: Waiting) -> Decision:
    """Decide between the active model and those that wait for it."""
    target = choose(facts, waiting)
    turn = _Turn.of(facts, active, target, waiting)
    note = f"; {turn.late_text}" if turn.late else ""
    for moment, cause, why in turn.ends(facts):
        if moment <= facts.now:
            message = f"{waiting_text(target)}{why}{note}"
            return SwapTo(target.model, Reason.REQUESTED, message, cause, turn.late)
    pauses = [facts.seconds_until(moment) for moment, _, _ in turn.ends(facts)]
    if facts.idle_since is None or _is_wanted(facts, active):
        # When a busy engine falls idle nothing else wakes us.
        pauses.append(BUSY_POLL_SECONDS)
    return Stay(
        f"{target.model} waits until {active} is idle, at most until {clock(turn.latest)}{note}",
        Cause.SERVING_ON,
        min(pauses),
        late=turn.late,
    )


def choose(facts: Facts, waiting: Waiting) -> ModelDemand:
    """Return who is next: the earliest due, if everybody else can still be ready in time.

    Where somebody cannot whoever goes first, the bound is lost, and the due dates alone decide.
    """
    overdue_first = sorted(waiting, key=lambda each: (each.since, each.model))
    urgent = min(waiting, key=lambda each: (each.due, each.model))
    if urgent is overdue_first[0]:
        return urgent
    if _late(facts, overdue_first, facts.now):
        return urgent
    others = [each for each in overdue_first if each is not urgent]
    promised = _is_promised(facts, overdue_first)
    latest = _latest(facts, [urgent, *others], budget=promised)
    return urgent if facts.now <= latest else overdue_first[0]


@dataclass(frozen=True)
class _Turn:
    """The active model's turn: what may end it, and when."""

    latest: datetime
    """It ends then, whatever the model is doing."""
    free_at: datetime | None
    """It gives way by itself then; None while it is busy."""
    urgent_at: datetime | None
    """Something urgent may end it then; None when nothing urgent waits."""
    late: Mapping[str, float]
    late_text: str

    @classmethod
    def of(cls, facts: Facts, active: str, target: ModelDemand, waiting: Waiting) -> "_Turn":
        cost = facts.costs.expected(active, target.model)
        began = facts.active_since or _LONG_AGO
        proportion = timedelta(seconds=PROPORTION * cost)
        least = timedelta(seconds=facts.swap.min_residency_seconds)
        residency = max(least, proportion) if least else least
        in_order = sorted(waiting, key=lambda each: (each.since, each.model))
        entered = _entered(facts, active, began)
        likely = _latest(facts, in_order, budget=False)
        certain = _latest(facts, in_order, budget=True)
        if likely < entered:
            latest = _begun(facts, began, proportion)
        elif _is_promised(facts, in_order):
            latest = certain
        else:
            latest = min(likely, max(certain, began + residency))
        late = _late(facts, in_order, max(entered, facts.now))
        urgent = target.priority is Priority.HIGH
        return cls(
            latest=max(entered, latest),
            free_at=_free_at(facts, active, residency, PATIENCE * cost / len(waiting)),
            urgent_at=max(entered, began + max(least, proportion)) if urgent else None,
            late=late,
            late_text=_late_text(facts, active, in_order, late) if late else "",
        )

    def ends(self, facts: Facts) -> list[tuple[datetime, Cause, str]]:
        """Return what may end the turn: when, by which rule, and how a person is told."""
        ends: list[tuple[datetime, Cause, str]] = []
        if self.free_at is not None:
            ends.append((self.free_at, Cause.FELL_IDLE, f"; {facts.active} is idle"))
        if self.urgent_at is not None:
            ends.append((self.urgent_at, Cause.PRIORITY, _URGENT_TEXT))
        return [*ends, (self.latest, Cause.MAXIMUM_WAIT, _BOUND_TEXT)]


_BOUND_TEXT: Final = ", and to wait any longer would put maxWaitSeconds at risk"
_URGENT_TEXT: Final = " with high priority"


def _latest(facts: Facts, in_order: Waiting, *, budget: bool) -> datetime:
    """Return the last moment to begin; `budget`: even if every drain takes its whole budget."""
    reserve = _drain(facts, facts.active, budget=budget) if facts.active else 0.0
    latest = latest_start(
        facts.active, _visits(facts, in_order), facts.costs, _turn_seconds(facts, budget=budget)
    )
    return latest - timedelta(seconds=reserve)


def _is_promised(facts: Facts, in_order: Waiting) -> bool:
    """Return whether the bound can be kept though every drain takes its whole budget."""
    return _round_seconds(facts, in_order, budget=True) <= facts.swap.max_wait_seconds


def _round_seconds(facts: Facts, in_order: Waiting, *, budget: bool) -> float:
    """Return how long one turn for everybody takes: what the maximum wait must not be below."""
    models = [*([facts.active] if facts.active else []), *(each.model for each in in_order)]
    return round_seconds(models, facts.costs, _turn_seconds(facts, budget=budget))


def _turn_seconds(facts: Facts, *, budget: bool) -> TurnSeconds:
    """Return how long the shortest turn of a model takes: what waited is let in, and ends."""
    return lambda model: LEAST_TURN.total_seconds() + _drain(facts, model, budget=budget)


def _drain(facts: Facts, model: str, *, budget: bool) -> float:
    most = float(facts.swap.drain_timeout_seconds)
    return most if budget else min(facts.costs.drain(model), most)


def _visits(facts: Facts, in_order: Waiting) -> list[Visit]:
    bound = timedelta(seconds=facts.swap.max_wait_seconds)
    return [Visit(each.model, each.since + bound) for each in in_order]


def _entered(facts: Facts, active: str, began: datetime) -> datetime:
    """Return when the engine holds what waited when the turn began, as far as one can tell."""
    held_back = any(each.model == active and each.since <= began for each in facts.demand)
    return began + (RELEASE_LIMIT if held_back else LEAST_TURN)


def _begun(facts: Facts, began: datetime, proportion: timedelta) -> datetime:
    """Return until when an engine that still has requests in its own queue may work them off."""
    queueing = facts.activity is not None and facts.activity.waiting > 0
    return began + proportion if queueing else began


def _free_at(facts: Facts, active: str, residency: timedelta, patience: float) -> datetime | None:
    """Return when the active model gives way by itself, or None while it is busy."""
    if facts.idle_since is None or _is_wanted(facts, active):
        # What gateways held for it is on its way: an engine that looks idle is not done yet.
        return None
    if facts.unasked or facts.active_since is None:
        # A residency is for those who asked: what was loaded for nobody gives way at once.
        return facts.idle_since
    quiet = max(QUIET, timedelta(seconds=patience))
    quiet_from = max(facts.idle_since, facts.active_since) + quiet
    return max(facts.idle_since, min(facts.active_since + residency, quiet_from))


def _is_wanted(facts: Facts, active: str) -> bool:
    return any(each.model == active for each in facts.demand)


def _late(facts: Facts, in_order: Waiting, start: datetime) -> dict[str, float]:
    """Return who misses the bound, and by how much, if the active model is drained from `start`."""
    reserve = _drain(facts, facts.active, budget=False) if facts.active else 0.0
    late = missed(
        facts.active,
        _visits(facts, in_order),
        facts.costs,
        _turn_seconds(facts, budget=False),
        start + timedelta(seconds=reserve),
    )
    # Whoever is late by less is late by the moment that a look at it takes.
    return {model: seconds for model, seconds in late.items() if seconds > HANDOVER_SECONDS}


def _late_text(facts: Facts, active: str, in_order: Waiting, late: Mapping[str, float]) -> str:
    bound = facts.swap.max_wait_seconds
    needed = _round_seconds(facts, in_order, budget=False)
    if needed > bound:
        models = ", ".join([active, *(each.model for each in in_order)])
        return (
            f"maxWaitSeconds={bound} cannot be kept: a turn for each of {models}"
            f" takes about {needed:.0f} s in all"
        )
    return f"maxWaitSeconds={bound} will be missed for {', '.join(sorted(late))}"
