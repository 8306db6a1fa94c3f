"""Why an engine is not ready yet, and whether it ever will be.

Pure: ordered checks over one Pod, each giving a reason and a message; the first that applies wins.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_operator.observation import DeploymentView, PodView

_IMAGE_FINAL: Final = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
"""ErrImagePull alone is the first try; kubelet backs off after it, and then we believe it."""

_CONFIG_FINAL: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})

_REPLICA_FAILURE_PATIENCE: Final = timedelta(seconds=60)
"""A quota may be about to be freed; the Deployment's controller keeps trying meanwhile."""

_LOG_TAIL: Final = 1500
"""Characters of the engine's last words that fit into a condition a person still reads."""

_OUT_OF_MEMORY_SIGNS: Final = ("outofmemoryerror", "out of memory", "no available memory")


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter with a loading engine."""

    reason: Reason
    message: str
    fatal: bool = False


def diagnose(
    pod: PodView | None,
    deployment: DeploymentView | None,
    load_timeout: timedelta,
    started: datetime,
    now: datetime,
) -> Diagnosis | None:
    """Return what keeps the engine from being ready, or None when it is.

    `started` is when the engine was asked for: it bounds the wait for a Pod that never comes.
    """
    if pod is None:
        return _without_pod(deployment, load_timeout, started, now)
    for check in (_image, _configuration, _crashes):
        finding = check(pod)
        if finding is not None:
            return finding
    if pod.ready:
        return None
    late = now - max(pod.created, started) > load_timeout
    if not pod.scheduled:
        return _unscheduled(pod, late)
    if late:
        return Diagnosis(
            Reason.LOAD_TIMEOUT,
            f"not ready within loadTimeoutSeconds ({load_timeout.total_seconds():.0f} s)"
            + _last_words(pod),
            fatal=True,
        )
    return Diagnosis(Reason.LOADING, "the engine loads the model" + _last_words(pod))


def _without_pod(
    deployment: DeploymentView | None,
    load_timeout: timedelta,
    started: datetime,
    now: datetime,
) -> Diagnosis:
    failure = deployment.replica_failure if deployment else ""
    if failure:
        return Diagnosis(
            Reason.UNSCHEDULABLE, failure, fatal=now - started > _REPLICA_FAILURE_PATIENCE
        )
    return Diagnosis(
        Reason.SCHEDULING,
        "waiting for the Deployment to make its Pod",
        fatal=now - started > load_timeout,
    )


def _image(pod: PodView) -> Diagnosis | None:
    if pod.waiting_reason not in _IMAGE_FINAL:
        return None
    return Diagnosis(
        Reason.IMAGE_PULL_FAILED, f"{pod.waiting_reason}: {pod.waiting_message}", fatal=True
    )


def _configuration(pod: PodView) -> Diagnosis | None:
    if pod.waiting_reason not in _CONFIG_FINAL:
        return None
    return Diagnosis(
        Reason.CONTAINER_CONFIG_FAILED, f"{pod.waiting_reason}: {pod.waiting_message}", fatal=True
    )


def _crashes(pod: PodView) -> Diagnosis | None:
    # The first crash gets the kubelet's immediate restart; the back-off says it was not the last.
    # The count of restarts would say nothing: it goes back to the Pod's first day.
    if pod.waiting_reason != "CrashLoopBackOff":
        return None
    words = pod.exit_message.lower()
    out_of_memory = pod.exit_reason == "OOMKilled" or any(
        sign in words for sign in _OUT_OF_MEMORY_SIGNS
    )
    reason = Reason.OUT_OF_MEMORY if out_of_memory else Reason.CRASH_LOOP
    return Diagnosis(
        reason, f"the engine exited with code {pod.exit_code}" + _last_words(pod), fatal=True
    )


def _unscheduled(pod: PodView, late: bool) -> Diagnosis:
    """A GPU node may still be on its way: it has the whole load budget to come."""
    return Diagnosis(
        Reason.UNSCHEDULABLE if pod.unschedulable_message else Reason.SCHEDULING,
        pod.unschedulable_message or "waiting for the scheduler",
        fatal=late,
    )


def _last_words(pod: PodView) -> str:
    words = pod.exit_message.strip()
    if not words:
        return ""
    return f"; its last words: {words[-_LOG_TAIL:]}"
