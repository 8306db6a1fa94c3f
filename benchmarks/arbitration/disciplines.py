"""What the operator's policy is compared with: functions of the same facts.

Each stands for what some system does today or for a discipline of the literature on polling.
"""

from collections.abc import Sequence
from datetime import timedelta

from benchmarks.arbitration.simulation import Discipline
from modelserving_api.names import Reason
from modelserving_operator import policy
from modelserving_operator.contention import BUSY_POLL_SECONDS, LEAST_TURN
from modelserving_operator.decision import Cause, Decision, Facts, Stay, SwapTo
from modelserving_operator.observation import ModelDemand

ours: Discipline = policy.decide


def fifo(facts: Facts) -> Decision:
    """First come, first served: whoever has waited longest is swapped in at once.

    What a proxy does that swaps on each request for another model (llama-swap without groups).
    """
    waiting = _others(facts)
    if not waiting:
        return _serve_on(None)
    if _just_came(facts):
        return _serve_on(0.1)
    return _swap(waiting[0].model)


def sticky(facts: Facts) -> Decision:
    """Swap only when the active model is idle: exhaustive service without a limit."""
    waiting = _others(facts)
    if not waiting:
        return _serve_on(None)
    if facts.idle_since is None or _is_wanted(facts):
        return _serve_on(BUSY_POLL_SECONDS)
    return _swap(waiting[0].model)


def slices(seconds: float, models: Sequence[str]) -> Discipline:
    """Give each model that is wanted a slice of fixed length, in a fixed order."""

    def decide(facts: Facts) -> Decision:
        waiting = {each.model for each in _others(facts)}
        if not waiting:
            return _serve_on(None)
        began = facts.active_since or facts.now
        left = (began + timedelta(seconds=seconds) - facts.now).total_seconds()
        if left > 0 or _just_came(facts):
            return _serve_on(max(left, 0.1))
        position = models.index(facts.active) if facts.active else 0
        order = [*models[position + 1 :], *models[:position]]
        return _swap(next(model for model in order if model in waiting))

    return decide


def _others(facts: Facts) -> list[ModelDemand]:
    others = [each for each in facts.demand if each.model != facts.active]
    return sorted(others, key=lambda each: each.since)


def _just_came(facts: Facts) -> bool:
    """Say whether what waited for the active model is still on its way into the engine."""
    began = facts.active_since
    if began is None:
        return False
    held = any(each.model == facts.active and each.since <= began for each in facts.demand)
    return held or facts.now < began + LEAST_TURN / 2


def _is_wanted(facts: Facts) -> bool:
    return any(each.model == facts.active for each in facts.demand)


def _serve_on(pause: float | None) -> Stay:
    return Stay("serves on", Cause.SERVING_ON, pause)


def _swap(model: str) -> SwapTo:
    return SwapTo(model, Reason.REQUESTED, f"{model} is next", Cause.FELL_IDLE)
