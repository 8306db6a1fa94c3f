"""The conditions of a ModelServing: what a person reads first.

Pure: from a status and what the plan has to tell to `status.conditions`, by the Kubernetes API
conventions. A condition keeps its lastTransitionTime while its status stays the same.
"""

from dataclasses import dataclass
from datetime import datetime

from modelserving_api import ModelServing
from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import (
    Condition,
    ConditionStatus,
    ModelServingStatus,
    ModelState,
    ModelStatus,
)

_MESSAGE_LIMIT = 4096
"""Enough for the engine's last words, far below the API's own bound."""


@dataclass(frozen=True)
class Telling:
    """What a plan has to say beyond what the status holds."""

    progress: str = ""
    """What the swap that is going on waits for."""
    decision: str = ""
    """Why things stay as they are."""
    dark: Reason = Reason.NO_DEMAND
    """Why nothing serves, when nothing does."""
    trouble: Reason | None = None
    """What Ready says in place of the swap's phase, or of Serving: something is the matter."""


def with_conditions(
    status: ModelServingStatus, serving: ModelServing, telling: Telling, now: datetime
) -> ModelServingStatus:
    """Return the status with its conditions brought up to date."""
    failed = [model for model in status.models if model.state is ModelState.FAILED]
    conditions = [
        _ready(status, serving, failed, telling),
        _swapping(status),
        _degraded(failed, now),
    ]
    return _written(status, conditions, serving.generation, now)


def invalid(
    status: ModelServingStatus, problems: list[str], generation: int, now: datetime
) -> ModelServingStatus:
    """Return the status of a resource whose spec breaks the contract; nothing else changes."""
    message = "; ".join(problems) + "; nothing of this spec was applied"
    ready = (ConditionType.READY, ConditionStatus.FALSE, Reason.INVALID_SPEC, message)
    degraded = (ConditionType.DEGRADED, ConditionStatus.TRUE, Reason.INVALID_SPEC, message)
    updated = status.model_copy(update={"observed_generation": generation})
    return _written(updated, [ready, _swapping(status), degraded], generation, now)


_Verdict = tuple[ConditionType, ConditionStatus, Reason | str, str]


def _ready(
    status: ModelServingStatus,
    serving: ModelServing,
    failed: list[ModelStatus],
    telling: Telling,
) -> _Verdict:
    active, swap = status.active_model, status.current_swap
    if active is not None:
        wanted = serving.spec.active_model or active
        fallback = wanted != active and any(model.name == wanted for model in failed)
        reason = Reason.SERVING_FALLBACK if fallback else Reason.SERVING
        return (
            ConditionType.READY,
            ConditionStatus.TRUE,
            telling.trouble or reason,
            telling.decision,
        )
    if swap is not None:
        reason_of_swap = telling.trouble or swap.phase.value
        return ConditionType.READY, ConditionStatus.FALSE, reason_of_swap, telling.progress
    return ConditionType.READY, ConditionStatus.FALSE, telling.dark, telling.decision


def _swapping(status: ModelServingStatus) -> _Verdict:
    swap = status.current_swap
    if swap is None:
        return (
            ConditionType.SWAPPING,
            ConditionStatus.FALSE,
            Reason.NOT_SWAPPING,
            "no swap is going on",
        )
    arrow = f"{swap.from_model or 'nothing'} → {swap.to_model or 'nothing'}"
    message = f"{arrow} ({swap.id}): {swap.message}"
    return ConditionType.SWAPPING, ConditionStatus.TRUE, swap.reason, message


def _degraded(failed: list[ModelStatus], now: datetime) -> _Verdict:
    if not failed:
        return (
            ConditionType.DEGRADED,
            ConditionStatus.FALSE,
            Reason.AS_EXPECTED,
            "no model has failed",
        )
    message = "; ".join(
        f"{model.name}: {model.message} ({_next_try(model, now)})" for model in failed
    )
    return ConditionType.DEGRADED, ConditionStatus.TRUE, failed[0].reason or "", message


def _next_try(model: ModelStatus, now: datetime) -> str:
    retry = model.next_retry_time
    if retry is None and model.failures > 0:
        return "not tried again before its spec changes"
    if retry is None or retry <= now:
        return "tried again when it is asked for"
    return f"not tried again before {retry:%H:%M:%SZ}"


def _written(
    status: ModelServingStatus, verdicts: list[_Verdict], generation: int, now: datetime
) -> ModelServingStatus:
    conditions: list[Condition] = []
    for type_, state, reason, message in verdicts:
        before = status.condition(type_)
        unchanged = before is not None and before.status is state
        conditions.append(
            Condition(
                type=type_,
                status=state,
                reason=reason,
                message=message[:_MESSAGE_LIMIT],
                last_transition_time=(
                    before.last_transition_time if unchanged and before is not None else now
                ),
                observed_generation=generation,
            )
        )
    return status.model_copy(update={"conditions": conditions})
