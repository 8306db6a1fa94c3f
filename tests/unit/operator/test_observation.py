"""What the API server sends, as plain values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelserving_operator.observation import PodView, in_trouble, last_warning

BOUND = datetime(2026, 1, 1, tzinfo=UTC)


def body(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "l4-coder-1", "uid": "p1", "creationTimestamp": BOUND.isoformat()},
        "spec": {"nodeName": "worker"},
        "status": {"phase": "Pending", **status},
    }


def conditions(**values: str) -> list[dict[str, str]]:
    return [
        {"type": name, "status": value, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for name, value in values.items()
    ]


def test_a_pod_whose_node_is_silent_is_told_from_an_engine_that_is_not_ready() -> None:
    silent = body(conditions=conditions(Ready="False", ContainersReady="True"))
    unready = body(conditions=conditions(Ready="False", ContainersReady="False"))
    given_up = body(reason="NodeLost", message="Node worker was unresponsive")

    assert PodView.parse(silent).node_away
    assert PodView.parse(given_up).node_away
    assert not PodView.parse(unready).node_away
    assert PodView.parse(silent).node == "worker"


def test_a_restarted_container_tells_of_its_end_and_of_its_new_life() -> None:
    container = {
        "name": "engine",
        "containerID": "c2",
        "started": False,
        "restartCount": 2,
        "state": {"running": {"startedAt": "2026-01-01T00:01:00Z"}},
        "lastState": {"terminated": {"exitCode": 139, "reason": "Error", "message": "boom"}},
    }
    sidecar = {"name": "daprd", "containerID": "c0", "restartCount": 9, "state": {"running": {}}}
    pod = PodView.parse(body(containerStatuses=[sidecar, container]))

    assert (pod.exit_code, pod.exit_message, pod.restarts) == (139, "boom", 2)
    assert pod.running_since == BOUND + timedelta(minutes=1)
    assert not pod.started


def test_an_eviction_and_a_deletion_are_read() -> None:
    evicted = PodView.parse(body(phase="Failed", reason="Evicted", message="exceeds the limit"))
    ending = body()
    ending["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:30Z", "finalizers": ["a/b"]}

    assert (evicted.status_reason, evicted.status_message) == ("Evicted", "exceeds the limit")
    assert PodView.parse(ending).must_end_by == BOUND + timedelta(seconds=30)
    assert PodView.parse(ending).finalizers == ("a/b",)


@pytest.mark.parametrize(
    ("status", "after", "expected"),
    [
        ({"conditions": conditions(PodScheduled="True")}, 11, True),
        ({"conditions": conditions(PodScheduled="True")}, 9, False),
        ({"conditions": conditions(PodScheduled="False")}, 60, False),
        (
            {
                "conditions": conditions(PodScheduled="True"),
                "containerStatuses": [
                    {"name": "engine", "containerID": "c1", "state": {"waiting": {}}}
                ],
            },
            60,
            False,
        ),
        (
            {
                "conditions": conditions(PodScheduled="True"),
                "containerStatuses": [
                    {"name": "engine", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ],
            },
            60,
            True,
        ),
    ],
)
def test_events_are_worth_a_look_only_where_a_container_is_long_in_the_making(
    status: dict[str, Any], after: float, expected: bool
) -> None:
    pod = PodView.parse(body(**status))

    assert in_trouble(pod, BOUND + timedelta(seconds=after)) is expected


def test_the_latest_warning_is_what_is_the_matter() -> None:
    events: list[dict[str, Any]] = [
        {"type": "Normal", "reason": "Scheduled", "lastTimestamp": "2026-01-01T00:00:09Z"},
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": "late",
            "lastTimestamp": "2026-01-01T00:00:08Z",
            "source": {"component": "kubelet"},
        },
        {"type": "Warning", "reason": "Old", "reportingComponent": "kubelet"},
        {
            "type": "Warning",
            "reason": "FailedScheduling",
            "lastTimestamp": "2026-01-01T00:00:09Z",
            "source": {"component": "default-scheduler"},
        },
    ]

    assert last_warning(events) == "FailedMount: late"
    assert last_warning([]) == ""
