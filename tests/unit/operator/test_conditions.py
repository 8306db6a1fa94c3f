"""What a person reads first."""

from datetime import timedelta

from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import ConditionStatus, ModelServingStatus
from modelserving_operator.conditions import Telling, invalid, with_conditions
from tests.unit.operator.world import START, serving, spec


def test_a_transition_time_stays_while_the_status_stays() -> None:
    status = ModelServingStatus(active_model="mistral")
    first = with_conditions(status, serving(spec()), Telling(decision="one"), START)
    later = with_conditions(
        first, serving(spec()), Telling(decision="two"), START + timedelta(hours=1)
    )

    ready = later.condition(ConditionType.READY)
    assert ready is not None
    assert ready.message == "two"
    assert ready.last_transition_time == START


def test_a_transition_time_moves_with_the_status() -> None:
    first = with_conditions(
        ModelServingStatus(active_model="mistral"), serving(spec()), Telling(), START
    )
    dark = first.model_copy(update={"active_model": None})
    later = with_conditions(dark, serving(spec()), Telling(), START + timedelta(hours=1))

    ready = later.condition(ConditionType.READY)
    assert ready is not None
    assert ready.status is ConditionStatus.FALSE
    assert ready.last_transition_time == START + timedelta(hours=1)


def test_an_invalid_spec_is_told_and_what_serves_stays() -> None:
    before = ModelServingStatus(active_model="mistral", endpoint="http://10.0.0.1:8000")
    after = invalid(before, ["spec.defaultModel: must be one of models"], 7, START)

    ready = after.condition(ConditionType.READY)
    assert ready is not None
    assert (ready.status, ready.reason) == (ConditionStatus.FALSE, Reason.INVALID_SPEC)
    assert "spec.defaultModel" in ready.message
    assert after.active_model == "mistral"
    assert after.observed_generation == 7


def test_every_condition_is_always_there() -> None:
    status = with_conditions(ModelServingStatus(), serving(spec()), Telling(), START)

    assert {each.type for each in status.conditions} == set(ConditionType)
