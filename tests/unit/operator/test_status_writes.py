"""How long a new status may be kept back: not at all, but for one that is new by its number."""

from datetime import datetime

import pytest

from modelserving_api.status import ModelServingStatus, ModelState, ModelStatus
from modelserving_operator.conditions import Telling, with_conditions
from modelserving_operator.status_writes import may_wait_seconds
from tests.unit.operator.world import START, serving, spec


def status(
    generation: int,
    *,
    state: ModelState = ModelState.READY,
    retry: datetime | None = None,
    told: str = "serves",
) -> ModelServingStatus:
    model = ModelStatus(name="mistral", state=state, next_retry_time=retry)
    bare = ModelServingStatus(observed_generation=generation, models=[model])
    seen = serving(spec()).model_copy(update={"generation": generation})
    return with_conditions(bare, seen, Telling(decision=told), START)


@pytest.mark.parametrize(
    ("after", "since_last_write", "seconds"),
    [
        pytest.param(status(2), 1.0, 4.0, id="only the generation is new"),
        pytest.param(status(2), 5.0, 0.0, id="it has been kept back for long enough"),
        pytest.param(status(2), float("inf"), 0.0, id="nothing was written in this life"),
        pytest.param(status(1), 1.0, 0.0, id="nothing is new"),
        pytest.param(status(2, told="something else"), 1.0, 0.0, id="a condition is new"),
        pytest.param(status(2, state=ModelState.DRAINING), 1.0, 0.0, id="a model's state is new"),
    ],
)
def test_a_status_may_wait(
    after: ModelServingStatus, since_last_write: float, seconds: float
) -> None:
    assert may_wait_seconds(status(1), after, since_last_write) == seconds


@pytest.mark.parametrize(("retry", "seconds"), [(None, 0.0), (START, 4.0)])
def test_gateways_hear_at_once_whether_a_new_spec_repaired_what_had_failed_for_good(
    retry: datetime | None, seconds: float
) -> None:
    before, after = (status(each, state=ModelState.FAILED, retry=retry) for each in (1, 2))

    assert may_wait_seconds(before, after, since_last_write=1.0) == seconds
