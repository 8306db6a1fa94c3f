"""The state of every declared model, as the status tells it.

Pure: derived from the swap that is going on, the active model and what has failed.
"""

from typing import Any, Final

from modelserving_api.names import Reason
from modelserving_api.status import ModelServingStatus, ModelState, ModelStatus, SwapPhase
from modelserving_operator.observation import Observation
from modelserving_operator.standing import has_failed, with_status

_HANDING_OVER: Final = (SwapPhase.DRAINING, SwapPhase.STOPPING)


def model_states(seen: Observation, status: ModelServingStatus) -> list[ModelStatus]:
    """Return the status of every declared model, in the order of the spec."""
    return [
        status.model(model.name).model_copy(
            update=_state_of(
                status,
                model.name,
                refusal=seen.refused.get(model.name),
                failed=has_failed(with_status(seen, models=status.models), model),
            )
        )
        for model in seen.serving.spec.models
    ]


def _state_of(
    status: ModelServingStatus, name: str, *, refusal: str | None, failed: bool
) -> dict[str, Any]:
    swap = status.current_swap
    if status.active_model == name:
        return {"state": ModelState.READY, "reason": Reason.SERVING, "message": None}
    if swap is not None and name in (swap.from_model, swap.to_model):
        handing_over = swap.phase in _HANDING_OVER
        if name == swap.from_model and handing_over and not failed:
            return {"state": ModelState.DRAINING, "reason": swap.phase.value, "message": None}
        if name == swap.to_model:
            return {"state": ModelState.STARTING, "reason": swap.phase.value, "message": None}
    if refusal is not None:
        return {
            "state": ModelState.FAILED,
            "reason": Reason.MANIFEST_REFUSED,
            "message": f"the API server refused its objects: {refusal}",
        }
    if failed:
        # Until a load succeeds or the spec changes, not until time passes.
        return {"state": ModelState.FAILED}
    return {"state": ModelState.STOPPED, "reason": None, "message": None}
