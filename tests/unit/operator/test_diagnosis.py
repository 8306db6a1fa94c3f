"""Why an engine is not ready: each way of failing has its own reason."""

from datetime import timedelta
from typing import Any

import pytest

from modelserving_api.names import Reason
from modelserving_operator.diagnosis import Attempt, Diagnosis, diagnose, why_not_gone
from modelserving_operator.observation import DeploymentView, PodView
from tests.unit.operator.world import START

LOAD = Attempt(START, timedelta(seconds=300), claim="weights-of-coder")


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
CONFIG = Reason.CONTAINER_CONFIG_FAILED
NO_CONFIG = "ValueError: Invalid repository ID or local directory specified: '/mnt/models/coder'."
NO_DIRECTORY = (
    'FailedMount: MountVolume.SetUp failed for volume "weights" : hostPath type check failed:'
    " /mnt/models/coder is not a directory"
)
NO_CLAIM = '0/2 nodes are available: persistentvolumeclaim "weights-of-coder" not found.'
NO_MEMORY = (
    "ValueError: Free memory on device cuda:0 (2.02/21.96 GiB) on startup is less than desired GPU"
    " memory utilization (0.92, 20.2 GiB)."
)


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
        (pod(**CRASHED, exit_reason="OOMKilled"), 1, Reason.HOST_OUT_OF_MEMORY, True),
        (pod(**CRASHED, exit_message=NO_CONFIG), 1, Reason.WEIGHTS_MISSING, True),
        (pod(trouble=NO_DIRECTORY), 1, Reason.WEIGHTS_MISSING, True),
        (pod(trouble='FailedMount: secret "token" not found'), 1, CONFIG, False),
        (pod(trouble='FailedMount: secret "token" not found'), 301, CONFIG, True),
        (pod(trouble="Failed: pulling", waiting_reason="ErrImagePull"), 1, Reason.LOADING, False),
        (pod(scheduled=False, unschedulable_message=NO_CLAIM), 1, Reason.WEIGHTS_MISSING, False),
        (pod(scheduled=False, unschedulable_message=NO_CLAIM), 11, Reason.WEIGHTS_MISSING, True),
        (
            pod(scheduled=False, unschedulable_message=NO_CLAIM.replace("weights", "cache")),
            11,
            Reason.UNSCHEDULABLE,
            False,
        ),
        (
            pod(
                waiting_reason="CreateContainerConfigError",
                waiting_message='failed to create subPath directory for volumeMount "weights"',
            ),
            1,
            Reason.WEIGHTS_MISSING,
            True,
        ),
        (pod(containers_ready=True, node="worker"), 301, Reason.NODE_NOT_READY, False),
        (pod(), 299, Reason.LOADING, False),
        (pod(), 301, Reason.LOAD_TIMEOUT, True),
        (None, 1, Reason.SCHEDULING, False),
        (None, 301, Reason.SCHEDULING, True),
    ],
)
def test_each_trouble_has_its_reason(
    seen: PodView | None, after: float, reason: Reason, fatal: bool
) -> None:
    found = diagnose(seen, None, LOAD, START + timedelta(seconds=after))

    assert found is not None
    assert (found.reason, found.fatal) == (reason, fatal)


def test_a_ready_engine_has_no_diagnosis_whatever_it_went_through() -> None:
    recovered = pod(ready=True, exit_code=1, exit_message="crashed once")

    assert diagnose(recovered, None, LOAD, START + timedelta(hours=1)) is None


def test_the_last_words_of_the_engine_are_told_and_bounded() -> None:
    words = "x" * 5000 + "RuntimeError: the end"
    found = diagnose(pod(**CRASHED, exit_message=words), None, LOAD, START)

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
    found = diagnose(None, quota, LOAD, START + timedelta(seconds=61))

    assert found is not None
    assert (found.message, found.fatal) == ("exceeded quota: gpu", True)


def found(seen: PodView, attempt: Attempt = LOAD, after: float = 1) -> Diagnosis:
    """Return a diagnosis that must be there."""
    diagnosis = diagnose(seen, None, attempt, START + timedelta(seconds=after))
    assert diagnosis is not None
    return diagnosis


@pytest.mark.parametrize(
    ("restarts", "waiting", "fatal", "told"),
    [
        (1, "", False, "try 2 of 3"),
        (1, "CrashLoopBackOff", False, "try 3 of 3"),
        (2, "", False, "try 3 of 3"),
        (2, "CrashLoopBackOff", True, "3 times in a row"),
    ],
)
def test_gpu_memory_may_still_be_on_its_way_back_for_three_starts(
    restarts: int, waiting: str, fatal: bool, told: str
) -> None:
    seen = pod(restarts=restarts, waiting_reason=waiting, exit_code=1, exit_message=NO_MEMORY)
    diagnosis = found(seen)

    assert diagnosis.reason is Reason.OUT_OF_MEMORY
    assert (diagnosis.fatal, diagnosis.for_good) == (fatal, fatal)
    assert told in diagnosis.message
    assert "Free memory on device" in diagnosis.message


def test_what_a_model_must_change_to_fit_is_said_when_it_is_not_tried_again() -> None:
    message = found(pod(**CRASHED, restarts=2, exit_message=NO_MEMORY)).message

    assert "--gpu-memory-utilization" in message
    assert "--max-model-len" in message


def test_restarts_of_an_engine_that_has_served_prove_nothing_about_its_memory() -> None:
    old = Attempt(START, timedelta(seconds=300), fresh=False)
    diagnosis = found(pod(**CRASHED, restarts=7, exit_message=NO_MEMORY), old)

    assert (diagnosis.reason, diagnosis.fatal) == (Reason.OUT_OF_MEMORY, True)
    assert not diagnosis.for_good
    running = found(pod(restarts=7, exit_code=1, exit_message=NO_MEMORY), old)
    assert not running.fatal
    assert "of 3" not in running.message


def test_what_has_loaded_before_as_it_is_does_fit_and_is_tried_again() -> None:
    proven = Attempt(START, timedelta(seconds=300), fits=True)
    diagnosis = found(pod(**CRASHED, restarts=2, exit_message=NO_MEMORY), proven)

    assert (diagnosis.reason, diagnosis.fatal) == (Reason.OUT_OF_MEMORY, True)
    assert not diagnosis.for_good
    assert "something else may hold the GPU" in diagnosis.message


def test_a_load_budget_that_ends_amid_tries_for_memory_proves_nothing_either() -> None:
    diagnosis = found(pod(restarts=1, exit_code=1, exit_message=NO_MEMORY), after=301)

    assert (diagnosis.reason, diagnosis.fatal) == (Reason.OUT_OF_MEMORY, True)
    assert not diagnosis.for_good


@pytest.mark.parametrize("spared", [60, 61])
def test_a_pod_is_stuck_a_minute_after_its_grace(spared: float) -> None:
    ending = pod(
        terminating=True, must_end_by=START, node="worker", finalizers=("example.com/hold",)
    )
    told, reason = why_not_gone([ending], START, START + timedelta(seconds=spared))

    assert (reason is Reason.POD_STUCK_TERMINATING) == (spared > 60)
    assert "l4-coder-1" in told
    if reason:
        assert "00:00:00Z" in told
        assert "node worker" in told
        assert "example.com/hold" in told
        assert "Do not force" in told


def test_a_pod_on_a_silent_node_is_waited_for_by_that_name() -> None:
    silent = pod(terminating=True, must_end_by=START, node="worker", containers_ready=True)
    told, reason = why_not_gone([silent], START, START)

    assert reason is Reason.NODE_NOT_READY
    assert "worker" in told


def test_a_pod_that_nobody_deletes_is_told_with_what_to_do() -> None:
    stray = pod(ready=True, containers_ready=True)
    told, reason = why_not_gone([stray], START, START + timedelta(seconds=60))
    assert (told, reason) == ("waiting for l4-coder-1 to end", None)
    told, reason = why_not_gone([stray], START, START + timedelta(seconds=61))

    assert reason is Reason.POD_IN_THE_WAY
    assert "l4-coder-1" in told
    assert "delete it" in told


def test_pods_that_are_replaced_again_and_again_get_two_budgets_and_no_more() -> None:
    replaced = pod(created=START + timedelta(seconds=500))
    assert found(replaced, after=599).reason is Reason.LOADING
    diagnosis = found(replaced, after=601)

    assert (diagnosis.reason, diagnosis.fatal) == (Reason.LOAD_TIMEOUT, True)


def test_how_the_pod_before_ended_says_more_than_that_the_next_one_loads() -> None:
    refused = (Reason.UNSCHEDULABLE, "l4-coder-1 has ended: UnexpectedAdmissionError: no devices")
    again = Attempt(START, timedelta(seconds=300), former=refused)
    waiting = diagnose(None, None, again, START + timedelta(seconds=5))

    assert waiting is not None
    assert (waiting.reason, waiting.fatal) == (Reason.UNSCHEDULABLE, False)
    assert "no devices" in waiting.message
    assert "waiting for the Deployment" in waiting.message
    crashed = found(pod(**CRASHED, exit_message="boom"), again)
    assert crashed.reason is Reason.CRASH_LOOP
