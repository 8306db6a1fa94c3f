"""Busy or idle, read from vLLM's metrics."""

from datetime import timedelta

import pytest

from modelserving_operator.activity import IdleTracker, parse_activity
from modelserving_operator.observation import EngineActivity
from tests.unit.operator.world import START

# As vLLM 0.32 prints it: several engines and finish reasons are labels of one family.
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="mistral"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="mistral"} 3.0
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="mistral"} 10.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="mistral"} 1.0
"""

IDLE = EngineActivity(0, 0, 5)
BUSY = EngineActivity(1, 0, 5)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def test_vllms_metrics_are_read() -> None:
    assert parse_activity(METRICS) == EngineActivity(running=2, waiting=3, finished=11)


@pytest.mark.parametrize("text", ["", "other_metric 1\n", "<html>\n"])
def test_an_engine_of_which_nothing_is_known_does_not_pass_for_idle(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_activity(text)


def test_idle_time_begins_at_the_first_idle_look() -> None:
    tracker = IdleTracker()

    assert tracker.update("p", IDLE, START) == START
    assert tracker.update("p", IDLE, START + seconds(5)) == START


def test_work_between_two_looks_ends_the_idle_time() -> None:
    tracker = IdleTracker()
    tracker.update("p", IDLE, START)

    later = START + seconds(5)
    assert tracker.update("p", EngineActivity(0, 0, 6), later) == later


@pytest.mark.parametrize("look", [BUSY, None])
def test_a_busy_or_silent_engine_is_not_idle(look: EngineActivity | None) -> None:
    tracker = IdleTracker()
    tracker.update("p", IDLE, START)

    assert tracker.update("p", look, START + seconds(1)) is None
    assert tracker.update("p", IDLE, START + seconds(2)) == START + seconds(2)


def test_another_pod_starts_anew() -> None:
    tracker = IdleTracker()
    tracker.update("p", IDLE, START)

    assert tracker.update("q", IDLE, START + seconds(3)) == START + seconds(3)
