"""Why an engine is not ready: each way of failing has its own reason."""

from datetime import timedelta
from typing import Any

import pytest

from modelserving_api.names import Reason
from modelserving_operator.diagnosis import diagnose
from modelserving_operator.observation import DeploymentView, PodView
from tests.unit.operator.world import START

BUDGET = timedelta(seconds=300)


def pod(**fields: Any) -> PodView:
    defaults: dict[str, Any] = {
        "name": "l4-coder-1",
        "uid": "p1",
        "model": "coder",
        "spec_hash": "h",
        "phase": "Running",
        "created": START,
        "scheduled": True,
    }
    return PodView(**{**defaults, **fields})


CRASHED = {"waiting_reason": "CrashLoopBackOff", "exit_code": 1}


@pytest.mark.parametrize(
    ("seen", "after", "reason", "fatal"),
    [
        (pod(phase="Pending", scheduled=False), 1, Reason.SCHEDULING, False),
        (
            pod(scheduled=False, unschedulable_message="Insufficient nvidia.com/gpu"),
            1,
            Reason.UNSCHEDULABLE,
            False,
        ),
        (
            pod(scheduled=False, unschedulable_message="Insufficient nvidia.com/gpu"),
            301,
            Reason.UNSCHEDULABLE,
            True,
        ),
        (pod(waiting_reason="ErrImagePull"), 1, Reason.LOADING, False),
        (pod(waiting_reason="ImagePullBackOff"), 1, Reason.IMAGE_PULL_FAILED, True),
        (
            pod(waiting_reason="CreateContainerConfigError"),
            1,
            Reason.CONTAINER_CONFIG_FAILED,
            True,
        ),
        (pod(exit_code=1, exit_message="first crash"), 1, Reason.LOADING, False),
        (pod(**CRASHED, exit_message="ValueError: bad flag"), 1, Reason.CRASH_LOOP, True),
        (pod(**CRASHED, exit_message="CUDA out of memory"), 1, Reason.OUT_OF_MEMORY, True),
        (pod(**CRASHED, exit_reason="OOMKilled"), 1, Reason.OUT_OF_MEMORY, True),
        (pod(), 299, Reason.LOADING, False),
        (pod(), 301, Reason.LOAD_TIMEOUT, True),
        (None, 1, Reason.SCHEDULING, False),
        (None, 301, Reason.SCHEDULING, True),
    ],
)
def test_each_trouble_has_its_reason(
    seen: PodView | None, after: float, reason: Reason, fatal: bool
) -> None:
    found = diagnose(seen, None, BUDGET, START, START + timedelta(seconds=after))

    assert found is not None
    assert (found.reason, found.fatal) == (reason, fatal)


def test_a_ready_engine_has_no_diagnosis_whatever_it_went_through() -> None:
    recovered = pod(ready=True, exit_code=1, exit_message="crashed once")

    assert diagnose(recovered, None, BUDGET, START, START + timedelta(hours=1)) is None


def test_the_last_words_of_the_engine_are_told_and_bounded() -> None:
    words = "x" * 5000 + "RuntimeError: the end"
    found = diagnose(pod(**CRASHED, exit_message=words), None, BUDGET, START, START)

    assert found is not None
    assert found.message.endswith("RuntimeError: the end")
    assert len(found.message) < 2000


def test_a_pod_that_cannot_be_made_tells_what_its_deployment_says() -> None:
    quota = DeploymentView(
        name="l4-coder",
        model="coder",
        replicas=1,
        spec_hash="h",
        owner="u1",
        settled=True,
        replica_failure="exceeded quota: gpu",
    )
    found = diagnose(None, quota, BUDGET, START, START + timedelta(seconds=61))

    assert found is not None
    assert (found.message, found.fatal) == ("exceeded quota: gpu", True)
