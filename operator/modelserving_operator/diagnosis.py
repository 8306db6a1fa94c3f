"""Why an engine is not ready yet, and whether it ever will be.

Pure: ordered checks over one Pod, each giving a reason and a message; the first that applies wins.
What becomes of an engine that has served is in losses.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_operator import words
from modelserving_operator.observation import DeploymentView, PodView

_IMAGE_FINAL: Final = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
"""ErrImagePull alone is the first try; kubelet backs off after it, and then we believe it."""

_CONFIG_FINAL: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})

_NOT_MADE: Final = frozenset({"", "ContainerCreating"})
"""Before a container is made, the Pod's Events alone tell what the kubelet is at."""

_VAGUE: Final = frozenset({Reason.SCHEDULING, Reason.LOADING, Reason.LOAD_TIMEOUT})
"""Where an earlier Pod of the same try has ended, that says more."""

_REPLICA_FAILURE_PATIENCE: Final = timedelta(seconds=60)
"""A quota may be about to be freed; the Deployment's controller keeps trying meanwhile."""

_CLAIM_PATIENCE: Final = timedelta(seconds=10)
"""A claim that is applied together with the ModelServing is there within a second or two."""

_STUCK_AFTER: Final = timedelta(seconds=60)
"""Beyond a Pod's grace. A kubelet kills at its end and reports within seconds; an old one was seen
to take a minute, now and then, to take the object away."""

_MEMORY_TRIES: Final = 3
"""Starts of an engine that finds too little GPU memory. The driver may give back what the last
process held only after that one is gone; the kubelet's pauses (none, 10 s) outlast it by far."""


@dataclass(frozen=True)
class Attempt:
    """One try to load a model."""

    started: datetime
    """When the engine was asked for: it bounds the wait for a Pod that never comes."""
    timeout: timedelta
    fresh: bool = True
    """The engine was started for this try, so that the Pod's restarts are this try's crashes."""
    fits: bool = False
    """It has loaded before as it is declared now."""
    claim: str = ""
    """The claim that holds the weights; empty when they are elsewhere."""
    former: tuple[Reason, str] | None = None
    """How the Pod before this one has ended, in this try."""

    def late(self, pod: PodView, now: datetime) -> bool:
        """Return whether the load budget is spent: this Pod's, or that of two for all of them."""
        budget, whole = now - max(pod.created, self.started), now - self.started
        return budget > self.timeout or whole > 2 * self.timeout


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter with a loading engine."""

    reason: Reason
    message: str
    fatal: bool = False
    for_good: bool = False
    """Only another spec cures it: it is not tried again."""


def diagnose(
    pod: PodView | None, deployment: DeploymentView | None, attempt: Attempt, now: datetime
) -> Diagnosis | None:
    """Return what keeps the engine from being ready, or None when it is."""
    finding = _diagnose(pod, deployment, attempt, now)
    if finding is None or attempt.former is None or finding.reason not in _VAGUE:
        return finding
    reason, told = attempt.former
    return replace(finding, reason=reason, message=f"{told}; now {finding.message}")


def _diagnose(
    pod: PodView | None, deployment: DeploymentView | None, attempt: Attempt, now: datetime
) -> Diagnosis | None:
    if pod is None:
        return _without_pod(deployment, attempt, now)
    if pod.ready:
        return None
    if pod.node_away:
        return _silent_node(pod)
    late = attempt.late(pod, now)
    if not pod.scheduled:
        return _unscheduled(pod, attempt, now, late)
    return (
        _image(pod)
        or _configuration(pod)
        or _container_not_made(pod, late)
        or _gpu_memory(pod, attempt, late)
        or _crashes(pod)
        or _loading(pod, attempt, late)
    )


def _without_pod(deployment: DeploymentView | None, attempt: Attempt, now: datetime) -> Diagnosis:
    failure = deployment.replica_failure if deployment else ""
    waited = now - attempt.started
    if failure:
        return Diagnosis(Reason.UNSCHEDULABLE, failure, fatal=waited > _REPLICA_FAILURE_PATIENCE)
    return Diagnosis(
        Reason.SCHEDULING,
        "waiting for the Deployment to make its Pod",
        fatal=waited > attempt.timeout,
    )


def _silent_node(pod: PodView) -> Diagnosis:
    """Nobody can say what became of the engine, and no other may start: there is but to wait."""
    return Diagnosis(
        Reason.NODE_NOT_READY,
        f"nothing is heard of the node {pod.node} and Pod {pod.name} does not answer; it may still"
        " hold the GPU, so its node must come back, or be deleted once it is known to be off",
    )


def _unscheduled(pod: PodView, attempt: Attempt, now: datetime, late: bool) -> Diagnosis:
    """A GPU node may still be on its way: it has the whole load budget to come."""
    told = pod.unschedulable_message
    if attempt.claim and f'persistentvolumeclaim "{attempt.claim}" not found' in told:
        waited = now - max(pod.created, attempt.started)
        return Diagnosis(Reason.WEIGHTS_MISSING, told, fatal=waited > _CLAIM_PATIENCE)
    return Diagnosis(
        Reason.UNSCHEDULABLE if told else Reason.SCHEDULING,
        told or "waiting for the scheduler",
        fatal=late,
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
    # A claim without the directory that subPath names.
    missing = 'subPath directory for volumeMount "weights"' in pod.waiting_message
    reason = Reason.WEIGHTS_MISSING if missing else Reason.CONTAINER_CONFIG_FAILED
    return Diagnosis(reason, f"{pod.waiting_reason}: {pod.waiting_message}", fatal=True)


def _container_not_made(pod: PodView, late: bool) -> Diagnosis | None:
    if not pod.trouble or pod.waiting_reason not in _NOT_MADE:
        return None
    if words.no_weights_directory(pod.trouble):
        return Diagnosis(Reason.WEIGHTS_MISSING, pod.trouble, fatal=True)
    return Diagnosis(Reason.CONTAINER_CONFIG_FAILED, pod.trouble, fatal=late)


def _gpu_memory(pod: PodView, attempt: Attempt, late: bool) -> Diagnosis | None:
    """Leave it to the kubelet to try again, as often as the last engine may be the cause."""
    if pod.exit_code is None or not words.out_of_gpu_memory(pod.exit_message):
        return None
    waiting = pod.waiting_reason == "CrashLoopBackOff"
    crashes = pod.restarts + 1 if waiting else pod.restarts
    if attempt.fresh and not attempt.fits and waiting and crashes >= _MEMORY_TRIES:
        return Diagnosis(
            Reason.OUT_OF_MEMORY,
            f"out of GPU memory {crashes} times in a row, so no earlier engine is in the way."
            " Not tried again until the spec changes: lower --gpu-memory-utilization or"
            " --max-model-len, or take a smaller quantization" + words.last(pod.exit_message),
            fatal=True,
            for_good=True,
        )
    if late or (waiting and (crashes >= _MEMORY_TRIES or not attempt.fresh)):
        told = "out of GPU memory"
        if attempt.fits:
            told += ", though it has loaded before as it is: something else may hold the GPU"
        return Diagnosis(Reason.OUT_OF_MEMORY, told + words.last(pod.exit_message), fatal=True)
    tries = f", try {crashes + 1} of {_MEMORY_TRIES}" if attempt.fresh else ""
    return Diagnosis(
        Reason.OUT_OF_MEMORY,
        f"out of GPU memory{tries}: the last engine may still be letting go"
        + words.last(pod.exit_message),
    )


def _crashes(pod: PodView) -> Diagnosis | None:
    # The first crash gets the kubelet's immediate restart; the back-off says it was not the last.
    # The count of restarts would say nothing: it goes back to the Pod's first day.
    if pod.waiting_reason != "CrashLoopBackOff":
        return None
    if pod.exit_reason == "OOMKilled":
        return Diagnosis(
            Reason.HOST_OUT_OF_MEMORY,
            "the engine was killed for exceeding its memory limit (not the GPU's): raise"
            " resources.limits.memory" + words.last(pod.exit_message),
            fatal=True,
        )
    missing = words.weights_missing(pod.exit_message)
    reason = Reason.WEIGHTS_MISSING if missing else Reason.CRASH_LOOP
    message = f"the engine exited with code {pod.exit_code}" + words.last(pod.exit_message)
    return Diagnosis(reason, message, fatal=True)


def _loading(pod: PodView, attempt: Attempt, late: bool) -> Diagnosis:
    last = words.last(pod.exit_message)
    if late:
        budget = f"{attempt.timeout.total_seconds():.0f} s"
        message = f"not ready within loadTimeoutSeconds ({budget})"
        return Diagnosis(Reason.LOAD_TIMEOUT, message + last, fatal=True)
    return Diagnosis(Reason.LOADING, "the engine loads the model" + last)


def why_not_gone(
    pods: Iterable[PodView], since: datetime, now: datetime
) -> tuple[str, Reason | None]:
    """Return what is waited for while Pods may still hold the GPU, and a reason if that is odd.

    `since` is when they were to go.
    """
    waiting = sorted(pods, key=lambda pod: pod.name)
    stuck = [pod for pod in waiting if pod.must_end_by and now - pod.must_end_by > _STUCK_AFTER]
    silent = [pod for pod in waiting if pod.node_away]
    unowned = [pod for pod in waiting if not pod.terminating and now - since > _STUCK_AFTER]
    if stuck:
        return _stuck(stuck[0]), Reason.POD_STUCK_TERMINATING
    if silent:
        return _silent_node(silent[0]).message, Reason.NODE_NOT_READY
    if unowned:
        return _unowned(unowned[0]), Reason.POD_IN_THE_WAY
    return f"waiting for {', '.join(pod.name for pod in waiting)} to end", None


def _unowned(pod: PodView) -> str:
    return (
        f"Pod {pod.name} has the label of this ModelServing and runs, and nobody deletes it: no"
        " Deployment of this ModelServing owns it any more (its labels were changed, or it comes"
        " from a copy or an orphaned Deployment), or the cluster's controllers are away. It may"
        " hold the GPU: delete it, and its Deployment if it has one"
    )


def _stuck(pod: PodView) -> str:
    held = f" and at its finalizers ({', '.join(pod.finalizers)})" if pod.finalizers else ""
    return (
        f"Pod {pod.name} should have ended by {pod.must_end_by:%H:%M:%SZ} and has not: look at its"
        f" node {pod.node}{held}. Do not force its deletion while its process may live, which"
        " would put two engines on one GPU; the swap goes on by itself when it is gone"
    )
