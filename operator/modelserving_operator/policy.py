"""The one place that decides which model should be on the GPU.

Pure: no I/O, no clock; the answer always carries a reason that a person reads. A pin decides alone;
a free GPU goes to whoever waits; an idle one may go back to the default model or be freed. Where
several models want it, contention decides.
"""

from datetime import timedelta

from modelserving_api.names import Reason
from modelserving_api.spec import IdleAction
from modelserving_operator.contention import BUSY_POLL_SECONDS, Waiting, choose, contend
from modelserving_operator.decision import (
    Cause,
    Decision,
    Facts,
    Stay,
    SwapTo,
    clock,
    waiting_text,
)

__all__ = ["BUSY_POLL_SECONDS", "Cause", "Decision", "Facts", "Stay", "SwapTo", "decide"]


def decide(facts: Facts) -> Decision:
    """Return what should happen now."""
    if facts.pin is not None and facts.pin not in facts.blocked:
        return _obey_pin(facts, facts.pin)
    if facts.active is None:
        return _fill_empty_gpu(facts)
    if facts.pin is not None:
        return Stay(
            f"{facts.pin} is pinned but failed to load; {facts.active} serves meanwhile",
            Cause.PINNED,
            facts.seconds_until_try([facts.pin]),
        )
    waiting = _waiting(facts)
    if not waiting:
        return _when_nobody_else_waits(facts, facts.active)
    return contend(facts, facts.active, waiting)


def _obey_pin(facts: Facts, pin: str) -> Decision:
    if facts.active == pin:
        return Stay(f"{pin} is pinned by spec.activeModel", Cause.PINNED)
    return SwapTo(pin, Reason.PINNED, f"{pin} is pinned by spec.activeModel", Cause.PINNED)


def _fill_empty_gpu(facts: Facts) -> Decision:
    waiting = _waiting(facts)
    if waiting:
        wanted = choose(facts, waiting)
        return SwapTo(wanted.model, Reason.REQUESTED, waiting_text(wanted), Cause.FREE_GPU)
    if facts.last_working is not None and facts.last_working not in facts.blocked:
        return _back_to(facts.last_working)
    if facts.at_rest:
        return Stay(
            "the GPU was freed after an idle time; a request will load its model",
            Cause.AT_REST,
            dark=Reason.IDLE,
        )
    if facts.default is not None and facts.default not in facts.blocked:
        message = f"{facts.default} is the default model"
        return SwapTo(facts.default, Reason.DEFAULT_MODEL, message, Cause.FREE_GPU)
    # Something ought to serve although nobody asks: then better another model than none.
    ought = {facts.pin, facts.default, facts.last_working} - {None}
    fallback = next((name for name in facts.proven if name not in facts.blocked), None)
    if ought and fallback is not None:
        return _back_to(fallback)
    return _stay_dark(facts)


def _back_to(model: str) -> SwapTo:
    message = f"{model} is the last model that worked"
    return SwapTo(model, Reason.ROLLED_BACK, message, Cause.FREE_GPU)


def _stay_dark(facts: Facts) -> Stay:
    wanted = {facts.pin, facts.default, facts.last_working, *(each.model for each in facts.demand)}
    failed = sorted(name for name in facts.blocked if name in wanted)
    if not failed:
        message = "no model is wanted: no request, no pin, no defaultModel"
        return Stay(message, Cause.NOTHING_WANTED)
    retry = facts.next_try(failed)
    when = f"next try at {clock(retry)}" if retry else "none is tried before its spec changes"
    return Stay(
        f"every wanted model failed to load ({', '.join(failed)}); {when}",
        Cause.ALL_FAILED,
        facts.seconds_until_try(failed),
        dark=Reason.LOAD_FAILED,
    )


def _when_nobody_else_waits(facts: Facts, active: str) -> Decision:
    default = facts.default
    if default is not None and _may_take_over(facts, active, default):
        message = f"{default} is the default model and is tried again: nobody uses {active}"
        return SwapTo(default, Reason.DEFAULT_MODEL, message, Cause.FELL_IDLE)
    idle, goal = facts.swap.idle, None
    serves = f"{active} serves; nobody waits for another model"
    if idle.action is IdleAction.KEEP:
        return Stay(serves, Cause.NOBODY_WAITS)
    if idle.action is IdleAction.RETURN_TO_DEFAULT:
        goal = facts.default
        if goal is None:
            message = f"{active} serves; there is no defaultModel to return to"
            return Stay(message, Cause.NOBODY_WAITS)
    if goal == active or goal in facts.blocked:
        return Stay(serves, Cause.NOBODY_WAITS)
    if facts.idle_since is None or facts.demand:
        # Demand for the active model is on its way to it: it is not idle, whatever it says.
        return Stay(serves, Cause.NOBODY_WAITS, idle.after_seconds)
    due = facts.idle_since + timedelta(seconds=idle.after_seconds)
    if facts.now < due:
        return Stay(serves, Cause.NOBODY_WAITS, facts.seconds_until(due))
    message = f"{active} had no request for {idle.after_seconds} s"
    return SwapTo(goal, Reason.IDLE, message, Cause.LONG_IDLE)


def _may_take_over(facts: Facts, active: str, default: str) -> bool:
    """Return whether the default model, which failed, may be tried in place of its stand-in.

    A stand-in that was lost and came back is still one: nobody has asked for it.
    """
    if default == active or default not in facts.failed or default in facts.blocked:
        return False
    return facts.unasked and facts.idle_since is not None and not facts.demand


def _waiting(facts: Facts) -> Waiting:
    """Return the demand for other models than the active one, as far as they may be loaded."""
    return [
        each
        for each in facts.demand
        if each.model != facts.active and each.model not in facts.blocked
    ]
