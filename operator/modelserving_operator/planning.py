"""From what is seen to what is done next, level by level.

Pure: `plan` looks at one observation and returns the new status, the actions and the events. It
never remembers anything: progress is in the status, so a restarted operator goes on where the last
one stopped, and planning the same observation twice gives the same plan.
"""

from dataclasses import replace
from typing import Final

from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import ModelServingStatus, SwapPhase
from modelserving_operator import policy
from modelserving_operator.actions import (
    ACTIVE_POLL_SECONDS,
    RESYNC_SECONDS,
    Announcement,
    Plan,
)
from modelserving_operator.conditions import Telling, with_conditions
from modelserving_operator.decision import Cause
from modelserving_operator.losses import why_lost
from modelserving_operator.model_states import model_states
from modelserving_operator.observation import DeploymentView, Observation, PodView
from modelserving_operator.standing import declared, edited, up_to_date
from modelserving_operator.steps import go_on
from modelserving_operator.transitions import Turn, begin, decide_for_free_gpu, facts, leave
from modelserving_operator.upkeep import edited_message, put_back, upkeep

_WARNED: Final = frozenset(
    {
        Reason.NODE_NOT_READY,
        Reason.EVICTED,
        Reason.OUT_OF_MEMORY,
        Reason.POD_IN_THE_WAY,
        Reason.POD_STUCK_TERMINATING,
        Reason.SERVING_NODE_NOT_READY,
        Reason.WEIGHTS_MISSING,
    }
)
"""Troubles that get an Event when they begin: they may last, and nothing has failed of them yet."""


def plan(seen: Observation) -> Plan:
    """Return what to do about this observation."""
    swap = seen.serving.status.current_swap
    turn = _rest(seen) if swap is None else go_on(seen, swap)
    kept = upkeep(seen, turn.actions)
    status = turn.status.model_copy(
        update={
            "observed_generation": seen.serving.generation,
            "models": model_states(seen, turn.status),
        }
    )
    status = with_conditions(status, seen.serving, turn.telling, seen.now)
    return Plan(
        status=status,
        # The step of the swap first: upkeep of other models must not hold it up.
        actions=(*turn.actions, *kept.actions),
        announcements=(
            *turn.announcements,
            *kept.announcements,
            *_warnings(seen, status, turn),
        ),
        look_again_seconds=turn.look_again_seconds,
        decision=turn.decision,
    )


def engine_to_watch(seen: Observation) -> PodView | None:
    """Return the Pod whose activity the next plan depends on: the active or the draining one.

    Or one that was ready when its node was last heard of: it alone can say that it is alive.
    """
    model = seen.serving.status.active_model
    swap = seen.serving.status.current_swap
    if swap is not None:
        model = swap.from_model if swap.phase is SwapPhase.DRAINING else swap.to_model
    pod = seen.engine_pod(model) if model is not None else None
    if pod is None or not (pod.ready or pod.node_away):
        return None
    loading = swap is not None and swap.phase is not SwapPhase.DRAINING
    return None if loading and pod.ready else pod


def scale_up_is_safe(model: str, deployments: list[DeploymentView], pods: list[PodView]) -> bool:
    """Judge a fresh list right before a scale-up (R1, R4): nobody else may hold the GPU."""
    others_down = all(
        each.replicas == 0 and each.settled for each in deployments if each.model != model
    )
    return others_down and not any(pod.holds_gpu for pod in pods)


def _rest(seen: Observation) -> Turn:
    """No swap is going on: is the active engine well, and should another one take its place?"""
    status = seen.serving.status
    active = status.active_model
    if active is not None and declared(seen, active) is None:
        return leave(seen, active, f"{active} is no longer declared")
    if active is not None and (paths := edited(seen, active)):
        # Its Deployment has ended the Pod already, if it was the template.
        message = edited_message(f"Deployment {seen.deployments[active].name}", paths)
        return begin(seen, active, active, Reason.EDITED_BY_HAND, message)
    if active is not None and (loss := why_lost(seen, active)) is not None:
        turn = begin(seen, active, active, loss.reason, loss.message)
        if loss.reason is Reason.DELETED_BY_HAND:
            return turn  # upkeep, which makes it anew, tells of it
        warning = Announcement("Warning", loss.reason, loss.message)
        return replace(turn, announcements=(warning, *turn.announcements))
    if active is not None and _on_silent_node(seen, active):
        return _serve_on(seen, active)
    if active is not None and not up_to_date(seen, active):
        return begin(seen, active, active, Reason.SPEC_CHANGED, f"the spec of {active} changed")
    if active is None and (found := _found_running(seen)) is not None:
        return begin(seen, None, found, Reason.ENGINE_LOST, f"{found} was found running")
    if active is None:
        seen, decision = decide_for_free_gpu(seen)
    else:
        decision = policy.decide(facts(seen, active))
    if isinstance(decision, policy.SwapTo):
        turn = begin(seen, active, decision.model, decision.reason, decision.message)
        return replace(turn, decision=decision)
    idle_look = ACTIVE_POLL_SECONDS if active else RESYNC_SECONDS
    undone = put_back(seen, active)
    return Turn(
        status=seen.serving.status,
        actions=undone.actions,
        announcements=undone.announcements,
        look_again_seconds=min(decision.look_again_seconds or idle_look, idle_look),
        telling=Telling(decision=decision.message, dark=decision.dark),
        decision=decision,
    )


def _on_silent_node(seen: Observation, active: str) -> bool:
    pod = seen.engine_pod(active)
    return pod is not None and pod.node_away


def _serve_on(seen: Observation, active: str) -> Turn:
    """Leave an engine alone that answers although nothing is heard of its node.

    No Pod can be stopped or started there, so any swap would only end what works.
    """
    pod = seen.engine_pod(active)
    node = pod.node if pod is not None else ""
    decision = policy.Stay(
        f"{active} serves, but nothing is heard of its node {node}: nothing can be swapped there"
        " until its kubelet is back",
        Cause.NODE_NOT_READY,
    )
    undone = put_back(seen, active)
    return Turn(
        status=seen.serving.status,
        actions=undone.actions,
        announcements=undone.announcements,
        look_again_seconds=ACTIVE_POLL_SECONDS,
        telling=Telling(decision=decision.message, trouble=Reason.SERVING_NODE_NOT_READY),
        decision=decision,
    )


def _warnings(
    seen: Observation, status: ModelServingStatus, turn: Turn
) -> tuple[Announcement, ...]:
    """Return an Event for a trouble that has just become the reason of Ready."""
    before = seen.serving.status.condition(ConditionType.READY)
    now = status.condition(ConditionType.READY)
    trouble, swap = turn.telling.trouble, status.current_swap
    if trouble not in _WARNED or now is None or (before and before.reason == now.reason):
        return ()
    if swap is not None and swap.reason == trouble:
        return ()  # told when the swap began
    return (Announcement("Warning", trouble, now.message),)


def _found_running(seen: Observation) -> str | None:
    """Return the one engine that runs although no status was ever written, or it was lost."""
    if seen.serving.status.observed_generation > 0:
        return None
    up = [view.model for view in seen.deployments.values() if view.replicas > 0]
    pod = seen.engine_pod(up[0]) if len(up) == 1 else None
    return up[0] if pod is not None and pod.ready and up_to_date(seen, up[0]) else None
