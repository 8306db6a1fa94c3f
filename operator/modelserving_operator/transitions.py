"""How a swap begins and how it ends: the transactions on the status.

Pure: each takes an observation and returns a turn, which is a plan in the making.
"""

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from modelserving_api.names import Reason
from modelserving_api.status import (
    CurrentSwap,
    LastSwap,
    ModelServingStatus,
    ModelState,
    ModelStatus,
    SwapCost,
    SwapOutcome,
    SwapParts,
    SwapPhase,
)
from modelserving_operator import manifests, policy
from modelserving_operator.actions import RESYNC_SECONDS, Action, Announcement
from modelserving_operator.conditions import Telling
from modelserving_operator.costs import Costs, Sample, learn
from modelserving_operator.diagnosis import Diagnosis
from modelserving_operator.losses import LOSSES
from modelserving_operator.observation import Observation, PodView
from modelserving_operator.standing import (
    blocked,
    declared,
    endpoint_of,
    has_failed,
    is_declared,
    load_hash,
    with_status,
)
from modelserving_operator.upkeep import put_back

_FIRST_RETRY: Final = timedelta(seconds=10)
_LONGEST_RETRY: Final = timedelta(minutes=10)

_DARK_RETRY: Final = timedelta(seconds=30)
"""The longest pause while nothing serves that a try could disturb."""

_CURED_OUTSIDE: Final = frozenset(
    {
        Reason.SCHEDULING,
        Reason.UNSCHEDULABLE,
        Reason.NODE_NOT_READY,
        Reason.IMAGE_PULL_FAILED,
        Reason.WEIGHTS_MISSING,
    }
)
"""Failures that end without a change of the spec, which nobody would tell us of."""

_OUGHT_TO_SERVE: Final = LOSSES | {Reason.SPEC_CHANGED, Reason.EDITED_BY_HAND, Reason.ROLLED_BACK}
"""Reasons of swaps that nobody waits for, and whose target should serve nevertheless."""

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Turn:
    """A plan in the making; `telling` is what the conditions will say."""

    status: ModelServingStatus
    actions: tuple[Action, ...] = ()
    announcements: tuple[Announcement, ...] = ()
    look_again_seconds: float = RESYNC_SECONDS
    telling: Telling = field(default_factory=Telling)
    decision: policy.Decision | None = None


def begin(
    seen: Observation, leaving: str | None, target: str | None, reason: Reason, message: str
) -> Turn:
    """Record the intent first: gateways stop sending before anything is stopped (R3)."""
    swap = CurrentSwap(
        id=manifests.digest([seen.serving.uid, seen.now.isoformat(), target])[:8],
        from_model=leaving,
        to_model=target,
        reason=reason,
        message=message,
        phase=SwapPhase.DRAINING,
        started_time=seen.now,
    )
    status = seen.serving.status.model_copy(
        update={
            "active_model": None,
            "active_since": None,
            "endpoint": None,
            "target_model": target,
            "current_swap": swap,
        }
    )
    announcement = Announcement(
        "Normal", Reason.SWAP_STARTED, f"{_arrow(swap)} ({swap.id}): {message}"
    )
    return Turn(
        status=status,
        announcements=(announcement,),
        look_again_seconds=0.0,
        telling=Telling(progress=drain_message(seen, swap)),
    )


def leave(seen: Observation, leaving: str | None, why: str) -> Turn:
    """Swap away from a model that must go, to whatever is wanted next, or to nothing."""
    decision = policy.decide(facts(seen, None))
    if isinstance(decision, policy.SwapTo):
        return begin(seen, leaving, decision.model, decision.reason, f"{why}; {decision.message}")
    return begin(seen, leaving, None, Reason.SPEC_CHANGED, why)


def supersede(
    seen: Observation, swap: CurrentSwap, target: str | None, reason: Reason, why: str
) -> Turn:
    ended = _ended(seen, swap, SwapOutcome.SUPERSEDED, why)
    seen = with_status(seen, last_swap=ended)
    if target is None:
        turn = leave(seen, swap.from_model, why)
    else:
        turn = begin(seen, swap.from_model, target, reason, why)
    told = Announcement("Normal", Reason.SWAP_SUPERSEDED, f"{_arrow(swap)} ({swap.id}): {why}")
    return replace(turn, announcements=(told, *turn.announcements))


def finish(seen: Observation, swap: CurrentSwap, pod: PodView | None) -> Turn:
    ended = _ended(seen, swap, SwapOutcome.SUCCEEDED, swap.message)
    status = seen.serving.status
    changes: dict[str, Any] = {
        "current_swap": None,
        "target_model": None,
        "last_swap": ended,
        "swaps_succeeded": status.swaps_succeeded + 1,
    }
    if pod is not None and swap.to_model is not None and swap.stopped_time is not None:
        changes |= {
            "active_model": swap.to_model,
            "active_since": seen.now,
            "endpoint": endpoint_of(pod),
            "models": _with_model(
                status, _loaded(seen, swap.to_model, _seconds(swap.stopped_time, seen.now))
            ),
            "swap_costs": _learned(seen, swap),
        }
    announcement = Announcement(
        "Normal",
        Reason.SWAP_FINISHED,
        f"{_arrow(swap)} ({swap.id}) took {ended.seconds:.1f} s{_parts(ended.parts)}",
    )
    return Turn(
        status=status.model_copy(update=changes),
        announcements=(announcement,),
        look_again_seconds=policy.BUSY_POLL_SECONDS,
        telling=Telling(
            decision=f"{swap.to_model} serves" if swap.to_model else "the GPU has been freed"
        ),
    )


def _loaded(seen: Observation, name: str, seconds: float) -> ModelStatus:
    model = declared(seen, name)
    return ModelStatus(
        name=name,
        state=ModelState.READY,
        load_seconds=seconds,
        loaded_time=seen.now,
        loaded_spec_hash=load_hash(seen, model) if model is not None else None,
    )


def fail(seen: Observation, swap: CurrentSwap, target: str, finding: Diagnosis) -> Turn:
    """Say so, remember when to try again, and go to a model that works."""
    status = seen.serving.status
    model = declared(seen, target)
    assert model is not None  # noqa: S101 - as in _load
    failures = status.model(target).failures + 1 if has_failed(seen, model) else 1
    pause = retry_pause(failures, seen.now - swap.started_time)
    failed = status.model(target).model_copy(
        update={
            "state": ModelState.FAILED,
            "reason": finding.reason,
            "message": finding.message,
            "failures": failures,
            "failed_time": seen.now,
            "next_retry_time": None if finding.for_good else seen.now + pause,
            "failed_spec_hash": load_hash(seen, model),
        }
    )
    told = Announcement(
        "Warning",
        Reason.SWAP_FAILED,
        f"{_arrow(swap)} ({swap.id}): {finding.reason}: {finding.message}",
    )
    seen = with_status(
        seen,
        models=_with_model(status, failed),
        last_swap=_ended(seen, swap, SwapOutcome.FAILED, f"{finding.reason}: {finding.message}"),
        swaps_failed=status.swaps_failed + 1,
        current_swap=None,
        target_model=None,
    )
    seen, decision = decide_for_free_gpu(seen)
    if isinstance(decision, policy.SwapTo):
        turn = begin(seen, target, decision.model, decision.reason, decision.message)
        return replace(turn, announcements=(told, *turn.announcements))
    return Turn(
        status=seen.serving.status,
        # Told as the failure that it is, not as somebody's hand.
        actions=put_back(seen, None).actions,
        announcements=(told,),
        look_again_seconds=decision.look_again_seconds or RESYNC_SECONDS,
        telling=Telling(decision=decision.message, dark=decision.dark),
    )


def retry_pause(failures: int, cost: timedelta) -> timedelta:
    """Return how long a model rests after its n-th failed load in a row: doubling, bounded.

    At least thrice what the failed try has cost: going back costs about as much again, and what
    works must get more of the GPU than what does not.
    """
    doublings = min(max(failures - 1, 0), 16)
    return max(min(_FIRST_RETRY * float(2**doublings), _LONGEST_RETRY), 3 * cost)


def decide_for_free_gpu(seen: Observation) -> tuple[Observation, policy.Decision]:
    """Decide what is loaded while nothing is, and return how failures stand after that.

    Growing pauses protect what serves. Where nothing can, tries wait no longer than they must for
    what is cured outside the spec: a node, a registry, a disk.
    """
    decision = policy.decide(facts(seen, None))
    if isinstance(decision, policy.SwapTo):
        return seen, decision
    seen = with_status(seen, models=[_tried_soon(each) for each in seen.serving.status.models])
    return seen, policy.decide(facts(seen, None))


def _tried_soon(model: ModelStatus) -> ModelStatus:
    retry, failed = model.next_retry_time, model.failed_time
    if model.reason not in _CURED_OUTSIDE or retry is None or failed is None:
        return model
    return model.model_copy(update={"next_retry_time": min(retry, failed + _DARK_RETRY)})


def facts(seen: Observation, active: str | None) -> policy.Facts:
    """Gather what the policy decides from; `active` is None while the GPU is free."""
    spec, status = seen.serving.spec, seen.serving.status
    last = status.last_swap
    return policy.Facts(
        now=seen.now,
        swap=spec.swap,
        active=active,
        active_since=status.active_since,
        unasked=last is not None and last.reason != Reason.REQUESTED,
        activity=seen.activity,
        idle_since=seen.idle_since,
        pin=spec.active_model,
        default=spec.default_model,
        last_working=_last_working(seen),
        at_rest=(
            last is not None
            and last.to_model is None
            and last.outcome is SwapOutcome.SUCCEEDED
            and last.reason == Reason.IDLE
        ),
        demand=seen.demand,
        blocked=blocked(seen),
        failed=frozenset(model.name for model in spec.models if has_failed(seen, model)),
        proven=_proven(seen),
        costs=Costs.of(status),
    )


def _last_working(seen: Observation) -> str | None:
    """Return what should serve again since the last swap failed, though nobody asks for it."""
    last = seen.serving.status.last_swap
    if last is None or last.outcome is not SwapOutcome.FAILED:
        return None
    name = last.to_model if last.reason in _OUGHT_TO_SERVE else last.from_model
    return name if is_declared(seen, name) else None


def _proven(seen: Observation) -> tuple[str, ...]:
    """Return the declared models that have loaded before, the latest first."""
    known = [seen.serving.status.model(model.name) for model in seen.serving.spec.models]
    loaded = [each for each in known if each.load_seconds is not None]
    latest = sorted(loaded, key=lambda each: each.loaded_time or _LONG_AGO, reverse=True)
    return tuple(each.name for each in latest)


def _learned(seen: Observation, swap: CurrentSwap) -> list[SwapCost]:
    """Return the costs with this swap in them. What began or ended with nothing has no pair."""
    known = seen.serving.status.swap_costs
    leaving, target, drained = swap.from_model, swap.to_model, swap.drained_time
    if leaving is None or target is None or leaving == target or drained is None:
        return known
    sample = Sample(
        leaving, target, _seconds(drained, seen.now), _seconds(swap.started_time, drained)
    )
    return learn(known, sample, {model.name for model in seen.serving.spec.models})


def drain_message(seen: Observation, swap: CurrentSwap) -> str:
    budget = seen.serving.spec.swap.drain_timeout_seconds
    return f"{swap.from_model or 'nothing'} finishes what it is running, for at most {budget} s"


def _ended(seen: Observation, swap: CurrentSwap, outcome: SwapOutcome, message: str) -> LastSwap:
    marks = (
        swap.started_time,
        swap.drained_time,
        swap.stopped_time,
        swap.scheduled_time,
        swap.loaded_time,
        seen.now if swap.loaded_time else None,
    )
    drain, stop, schedule, load, probe = (
        _seconds(begin, end) if begin is not None and end is not None else None
        for begin, end in itertools.pairwise(marks)
    )
    return LastSwap(
        id=swap.id,
        from_model=swap.from_model,
        to_model=swap.to_model,
        reason=swap.reason,
        message=message,
        outcome=outcome,
        started_time=swap.started_time,
        finished_time=seen.now,
        seconds=_seconds(swap.started_time, seen.now),
        waited_seconds=_waited(seen, swap) if outcome is SwapOutcome.SUCCEEDED else None,
        parts=SwapParts(
            drain_seconds=drain,
            stop_seconds=stop,
            schedule_seconds=schedule,
            load_seconds=load,
            probe_seconds=probe,
        ),
    )


def _waited(seen: Observation, swap: CurrentSwap) -> float | None:
    return next(
        (_seconds(each.since, seen.now) for each in seen.demand if each.model == swap.to_model),
        None,
    )


def _with_model(status: ModelServingStatus, model: ModelStatus) -> list[ModelStatus]:
    return [*(each for each in status.models if each.name != model.name), model]


def _arrow(swap: CurrentSwap) -> str:
    return f"{swap.from_model or 'nothing'} → {swap.to_model or 'nothing'}"


def _parts(parts: SwapParts) -> str:
    """Return where the time went, as people read it; parts of no time are left out."""
    shown = [
        f"{name.removesuffix('_seconds')} {seconds:.1f}"
        for name, seconds in parts.model_dump(exclude_none=True).items()
        if seconds >= 0.05
    ]
    return f": {', '.join(shown)}" if shown else ""


def _seconds(begin: datetime, end: datetime) -> float:
    return round(max((end - begin).total_seconds(), 0.0), 3)
