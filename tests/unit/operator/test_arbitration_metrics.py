"""What Prometheus is told about who waits and why it was decided so."""

from datetime import timedelta

from prometheus_client import REGISTRY

from modelserving_api.names import Reason
from modelserving_api.status import LastSwap, ModelServingStatus, ModelStatus, SwapOutcome
from modelserving_operator import metrics
from modelserving_operator.decision import Cause, Stay
from tests.unit.operator.world import START

MODELS = ("mistral", "coder")


def value(name: str, serving: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(
        name, {"namespace": "default", "modelserving": serving, **labels}
    )


def stay(**late: float) -> Stay:
    return Stay("coder waits", Cause.SERVING_ON, late=late)


def test_one_cause_is_set_and_the_one_before_is_not() -> None:
    metrics.show_arbitration("default", "a", MODELS, {}, Stay("nobody waits", Cause.NOBODY_WAITS))
    metrics.show_arbitration("default", "a", MODELS, {}, stay())

    assert value("modelserving_decision", "a", cause="ServingOn") == 1
    assert value("modelserving_decision", "a", cause="NobodyWaits") == 0


def test_waits_and_missed_bounds_are_told_and_taken_back() -> None:
    metrics.show_arbitration("default", "b", MODELS, {"coder": 12.5}, stay(coder=3.0))
    assert value("modelserving_oldest_wait_seconds", "b", model="coder") == 12.5
    assert value("modelserving_wait_beyond_bound_seconds", "b", model="coder") == 3

    metrics.show_arbitration("default", "b", MODELS, {}, stay())
    assert value("modelserving_oldest_wait_seconds", "b", model="coder") == 0
    assert value("modelserving_wait_beyond_bound_seconds", "b", model="coder") == 0


def test_while_a_swap_goes_on_the_last_decision_stands() -> None:
    metrics.show_arbitration("default", "c", MODELS, {}, stay(coder=3.0))
    metrics.show_arbitration("default", "c", MODELS, {"coder": 1.0}, None)

    assert value("modelserving_decision", "c", cause="ServingOn") == 1
    assert value("modelserving_wait_beyond_bound_seconds", "c", model="coder") == 3


def test_how_long_somebody_waited_for_a_swap_is_counted_with_its_end() -> None:
    ended = LastSwap(
        id="1",
        from_model="mistral",
        to_model="coder",
        reason=Reason.REQUESTED,
        message="1 request waits for coder",
        outcome=SwapOutcome.SUCCEEDED,
        started_time=START,
        finished_time=START + timedelta(seconds=9),
        seconds=9,
        waited_seconds=42,
    )
    metrics.record("default", "d", ModelServingStatus(), ModelServingStatus(last_swap=ended))

    assert value("modelserving_waited_seconds_sum", "d", model="coder") == 42


def test_nothing_is_left_of_a_model_or_a_model_serving_that_is_gone() -> None:
    metrics.show_arbitration("default", "e", MODELS, {"coder": 12.5}, stay(coder=3.0))
    before = ModelServingStatus(models=[ModelStatus(name=name) for name in MODELS])
    metrics.record("default", "e", before, ModelServingStatus(models=before.models[:1]))
    assert value("modelserving_oldest_wait_seconds", "e", model="coder") is None
    assert value("modelserving_oldest_wait_seconds", "e", model="mistral") == 0

    metrics.forget("default", "e")
    assert value("modelserving_oldest_wait_seconds", "e", model="mistral") is None
    assert value("modelserving_decision", "e", cause="ServingOn") is None
