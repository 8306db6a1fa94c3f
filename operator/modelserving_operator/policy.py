"""The one place that decides which model should be on the GPU.

Pure: no I/O, no clock; the answer always carries a reason that a person reads. Oldest waiting
request first, with a minimum residency against thrashing and a hard maximum wait against
starving. In the terms of polling systems with switchover times (Takagi, "Queueing analysis of
polling models", ACM Computing Surveys 20(1), 1988) a model is served exhaustively, limited by the
maximum wait of the others, but never less than its residency.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_api.spec import IdleAction, Swap
from modelserving_operator.observation import ModelDemand

QUIET: Final = timedelta(seconds=1)
"""Within its residency a model gives way only after this long without work: a client that sends
one request after the other leaves gaps of milliseconds, and they must not end its turn."""

BUSY_POLL_SECONDS: Final = 0.5
"""How often a busy engine is asked again while others wait for it."""


@dataclass(frozen=True)
class Facts:
    """What a decision depends on."""

    now: datetime
    swap: Swap
    active: str | None = None
    active_since: datetime | None = None
    idle_since: datetime | None = None
    pin: str | None = None
    default: str | None = None
    last_working: str | None = None
    """What served before a swap failed; it comes back when nothing else is wanted."""
    at_rest: bool = False
    """Nothing is loaded on purpose: the GPU was freed after an idle time."""
    demand: tuple[ModelDemand, ...] = ()
    blocked: Mapping[str, datetime] = field(default_factory=dict)
    """Models whose last load failed, and when each may be tried again."""


@dataclass(frozen=True)
class Stay:
    """Leave things as they are."""

    message: str
    look_again_seconds: float | None = None
    dark: Reason = Reason.NO_DEMAND
    """Why nothing serves, when nothing does."""


@dataclass(frozen=True)
class SwapTo:
    """Put this model on the GPU; None frees it."""

    model: str | None
    reason: Reason
    message: str


Decision = Stay | SwapTo


def decide(facts: Facts) -> Decision:
    """Return what should happen now."""
    if facts.pin is not None and facts.pin not in facts.blocked:
        return _obey_pin(facts, facts.pin)
    if facts.active is None:
        return _fill_empty_gpu(facts)
    if facts.pin is not None:
        return Stay(
            f"{facts.pin} is pinned but failed to load; {facts.active} serves meanwhile",
            _seconds_until(facts, facts.blocked[facts.pin]),
        )
    wanted = next(iter(_loadable_demand(facts)), None)
    if wanted is None:
        return _when_nobody_else_waits(facts, facts.active)
    return _give_way(facts, facts.active, wanted)


def _obey_pin(facts: Facts, pin: str) -> Decision:
    if facts.active == pin:
        return Stay(f"{pin} is pinned by spec.activeModel")
    return SwapTo(pin, Reason.PINNED, f"{pin} is pinned by spec.activeModel")


def _fill_empty_gpu(facts: Facts) -> Decision:
    wanted = next(iter(_loadable_demand(facts)), None)
    if wanted is not None:
        return SwapTo(wanted.model, Reason.REQUESTED, _waiting_text(wanted))
    if facts.last_working is not None and facts.last_working not in facts.blocked:
        return SwapTo(
            facts.last_working,
            Reason.ROLLED_BACK,
            f"{facts.last_working} is the last model that worked",
        )
    if facts.at_rest:
        return Stay(
            "the GPU was freed after an idle time; a request will load its model",
            dark=Reason.IDLE,
        )
    if facts.default is not None and facts.default not in facts.blocked:
        return SwapTo(facts.default, Reason.DEFAULT_MODEL, f"{facts.default} is the default model")
    wanted_names = {facts.pin, facts.default, facts.last_working}
    wanted_names |= {each.model for each in facts.demand}
    retries = [retry for name, retry in facts.blocked.items() if name in wanted_names]
    if not retries:
        return Stay("no model is wanted: no request, no pin, no defaultModel")
    return Stay(
        f"every wanted model failed to load; next try at {_clock(min(retries))}",
        _seconds_until(facts, min(retries)),
        dark=Reason.LOAD_FAILED,
    )


def _when_nobody_else_waits(facts: Facts, active: str) -> Decision:
    idle = facts.swap.idle
    if idle.action is IdleAction.KEEP:
        return Stay(f"{active} serves; nobody waits for another model")
    if facts.idle_since is None:
        return Stay(f"{active} serves; nobody waits for another model", idle.after_seconds)
    due = facts.idle_since + timedelta(seconds=idle.after_seconds)
    goal = facts.default if idle.action is IdleAction.RETURN_TO_DEFAULT else None
    if goal == active or goal in facts.blocked:
        return Stay(f"{active} serves; nobody waits for another model")
    if idle.action is IdleAction.RETURN_TO_DEFAULT and goal is None:
        return Stay(f"{active} serves; there is no defaultModel to return to")
    if facts.now < due:
        return Stay(f"{active} serves; nobody waits for another model", _seconds_until(facts, due))
    return SwapTo(goal, Reason.IDLE, f"{active} had no request for {idle.after_seconds} s")


def _give_way(facts: Facts, active: str, wanted: ModelDemand) -> Decision:
    latest = wanted.since + timedelta(seconds=facts.swap.max_wait_seconds)
    if facts.active_since is not None:
        # Where a swap costs more than the maximum wait, everyone is overdue: without a turn of its
        # own a model would be swapped out before it has answered anything.
        latest = max(latest, _resident_until(facts.active_since, facts.swap))
    if facts.now >= latest:
        return SwapTo(
            wanted.model,
            Reason.REQUESTED,
            f"{_waiting_text(wanted)}, for longer than maxWaitSeconds",
        )
    free_at = _free_at(facts)
    if free_at is not None and free_at <= facts.now:
        return SwapTo(wanted.model, Reason.REQUESTED, _waiting_text(wanted))
    message = f"{wanted.model} waits until {active} is idle, at most until {_clock(latest)}"
    # A busy engine is asked again soon: when it falls idle nothing else wakes us.
    pauses = [BUSY_POLL_SECONDS, _seconds_until(facts, latest)]
    return Stay(message, min(pauses))


def _free_at(facts: Facts) -> datetime | None:
    """Return when the active model gives way by itself, or None while it is busy."""
    if facts.idle_since is None or facts.active_since is None:
        return facts.idle_since
    if any(each.model == facts.active for each in facts.demand):
        # What gateways held for it is on its way: an engine that looks idle is not done yet.
        return None
    quiet_from = max(facts.idle_since, facts.active_since) + QUIET
    return max(facts.idle_since, min(_resident_until(facts.active_since, facts.swap), quiet_from))


def _resident_until(active_since: datetime, swap: Swap) -> datetime:
    return active_since + timedelta(seconds=swap.min_residency_seconds)


def _loadable_demand(facts: Facts) -> list[ModelDemand]:
    """Return the demand for other models than the active one, oldest first."""
    return [
        each
        for each in sorted(facts.demand, key=lambda each: (each.since, each.model))
        if each.model != facts.active and each.model not in facts.blocked
    ]


def _waiting_text(demand: ModelDemand) -> str:
    requests = "1 request waits" if demand.waiting == 1 else f"{demand.waiting} requests wait"
    return f"{requests} for {demand.model}"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%SZ}"


def _seconds_until(facts: Facts, moment: datetime) -> float:
    # Never zero: a rounding to "now" would turn the loop into a spin.
    return max((moment - facts.now).total_seconds(), 0.05)
