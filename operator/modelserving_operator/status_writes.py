"""When a status is written: at once if it tells something new, else a little later.

Pure. Each count that a gateway writes makes a new generation, and the status says which generation
was observed. In a crowd that would be a write of ours for each write of theirs.
"""

from typing import Final

from modelserving_api.status import ModelServingStatus, ModelState, ModelStatus

_PAUSE_SECONDS: Final = 5.0
"""Between two writes of which the second tells nothing but its generation. Nobody reads that more
often, and where a swap goes on, its next step mostly comes first and tells it."""


def may_wait_seconds(
    before: ModelServingStatus, after: ModelServingStatus, since_last_write: float
) -> float:
    """Return for how many seconds a new status may still be kept back; 0: write it, if it is new.

    Never one with a model that has failed for good: a gateway holds requests for it until it knows
    whether the new spec has repaired it.
    """
    if _without_generation(before) != _without_generation(after) or before == after:
        return 0.0
    if any(_failed_for_good(model) for model in after.models):
        return 0.0
    return max(_PAUSE_SECONDS - since_last_write, 0.0)


def _failed_for_good(model: ModelStatus) -> bool:
    return model.state is ModelState.FAILED and model.next_retry_time is None


def _without_generation(status: ModelServingStatus) -> ModelServingStatus:
    conditions = [each.model_copy(update={"observed_generation": 0}) for each in status.conditions]
    return status.model_copy(update={"observed_generation": 0, "conditions": conditions})
