"""The steps of a swap that goes on: drain, stop, schedule, load, probe.

Pure: each step looks at one observation and returns a turn. Whether a swap begins is planning's,
how it begins and ends is transitions'.
"""

from datetime import datetime, timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_api.spec import Model
from modelserving_api.status import CurrentSwap, SwapPhase
from modelserving_operator.actions import ACTIVE_POLL_SECONDS, Action, Probe, ScaleDown, ScaleUp
from modelserving_operator.conditions import Telling
from modelserving_operator.diagnosis import Attempt, Diagnosis, diagnose, why_not_gone
from modelserving_operator.losses import LOSSES, how_it_ended
from modelserving_operator.observation import DeploymentView, Observation, PodView
from modelserving_operator.standing import (
    declared,
    endpoint_of,
    has_failed,
    load_hash,
    replicas,
    up_to_date,
)
from modelserving_operator.transitions import Turn, drain_message, fail, finish, supersede
from modelserving_operator.upkeep import put_back

_SHORTEST_DRAIN_POLL_SECONDS: Final = 0.1
_LONGEST_DRAIN_POLL_SECONDS: Final = 1.0
"""How often a draining engine is asked whether it is done: nothing else wakes us then. A tenth of
what it has taken so far adds little to any drain."""

_GATEWAYS_NOTICE: Final = timedelta(seconds=0.1)
"""Until every gateway's watch has told it that the old model drains. What was sent just before is
in the engine's counts by then; vLLM refuses what reaches it after SIGTERM."""

_ONE_SECOND: Final = timedelta(seconds=1)


def go_on(seen: Observation, swap: CurrentSwap) -> Turn:
    """A swap is going on: is its goal still wanted, and what is its next step?"""
    target = swap.to_model
    if target is not None and declared(seen, target) is None:
        return supersede(seen, swap, None, Reason.SPEC_CHANGED, f"{target} is no longer declared")
    pin = seen.serving.spec.active_model
    if pin is not None and pin != target and not _broken(seen, pin):
        return supersede(
            seen, swap, pin, Reason.PINNED, f"{pin} was pinned while {target} was being loaded"
        )
    if swap.phase is SwapPhase.DRAINING and not _drained(seen, swap):
        undone = put_back(seen, swap.from_model)
        return Turn(
            status=seen.serving.status,
            actions=undone.actions,
            announcements=undone.announcements,
            look_again_seconds=_drain_pause(seen, swap),
            telling=Telling(progress=drain_message(seen, swap)),
        )
    return _stop(seen, swap)


def _stop(seen: Observation, swap: CurrentSwap) -> Turn:
    """Scale down whatever must not run, and wait until no Pod can hold the GPU."""
    target = swap.to_model
    swap = swap.model_copy(update={"drained_time": swap.drained_time or seen.now})
    holders = [each for each in seen.deployments.values() if _must_stop(seen, each, target)]
    if holders:
        stopping = {each.model for each in holders}
        ending = [pod for pod in seen.pods if pod.holds_gpu and pod.model in stopping]
        return _in_phase(
            seen,
            swap.model_copy(update={"stopped_time": None, "scheduled_time": None}),
            SwapPhase.STOPPING,
            *_why_not_gone(seen, ending, swap.drained_time or seen.now),
            actions=tuple(ScaleDown(each.name) for each in holders),
        )
    running = target is not None and replicas(seen, target) > 0
    goal = [pod for pod in seen.pods if running and pod.model == target and pod.is_alive]
    in_the_way = [pod for pod in seen.pods if pod.holds_gpu and pod not in goal]
    # Where the scheduler has placed the target's Pod, nothing was in its way any more: what still
    # shows is the ghost of a view, and to go back for it would undo what is true with each look.
    if in_the_way and not any(pod.scheduled for pod in goal):
        return _in_phase(
            seen,
            swap.model_copy(update={"stopped_time": None, "scheduled_time": None}),
            SwapPhase.STOPPING,
            *_why_not_gone(seen, in_the_way, swap.drained_time or swap.started_time),
        )
    swap = swap.model_copy(update={"stopped_time": swap.stopped_time or seen.now})
    if target is None:
        return finish(seen, swap, None)
    if not running:
        refusal = _refusal(seen, target, swap.stopped_time or seen.now)
        if refusal is not None:
            return fail(seen, swap, target, refusal)
        return _in_phase(
            seen,
            swap,
            SwapPhase.SCHEDULING,
            f"scaling up {target}",
            actions=(ScaleUp(target),),
        )
    return _load(seen, swap, target)


def _refusal(seen: Observation, target: str, since: datetime) -> Diagnosis | None:
    """Return why the target's Deployment does not come up, when it will not."""
    if target in seen.refused:
        message = f"the API server refused its objects: {seen.refused[target]}"
        return Diagnosis(Reason.MANIFEST_REFUSED, message, fatal=True)
    model = declared(seen, target)
    if model is not None and seen.now - since > timedelta(seconds=model.load_timeout_seconds):
        message = "its Deployment could not be scaled up within loadTimeoutSeconds"
        return Diagnosis(Reason.LOAD_TIMEOUT, message, fatal=True)
    return None


def _load(seen: Observation, swap: CurrentSwap, target: str) -> Turn:
    """The target's Deployment is up: wait for its Pod, then for one real completion."""
    pod = seen.engine_pod(target)
    model = declared(seen, target)
    assert model is not None  # noqa: S101 - go_on superseded a swap to an undeclared model
    finding = diagnose(pod, seen.deployments.get(target), _attempt(seen, swap, model), seen.now)
    if finding is not None and finding.fatal:
        return fail(seen, swap, target, finding)
    if pod is None or not pod.scheduled:
        return _in_phase(seen, swap, SwapPhase.SCHEDULING, *_told(finding))
    swap = swap.model_copy(update={"scheduled_time": swap.scheduled_time or seen.now})
    silent = pod.node_away and (seen.activity is None or _probe_failed(seen, pod))
    if finding is not None and (silent or not pod.node_away):
        return _in_phase(seen, swap, SwapPhase.LOADING, *_told(finding))
    swap = swap.model_copy(update={"loaded_time": swap.loaded_time or seen.now})
    if seen.probe is None or seen.probe.pod_uid != pod.uid:
        return _in_phase(
            seen,
            swap,
            SwapPhase.PROBING,
            f"asking {target} for a completion",
            actions=(Probe(target, pod.uid, endpoint_of(pod), model.probe),),
        )
    if not seen.probe.ok:
        return fail(
            seen, swap, target, Diagnosis(Reason.PROBE_FAILED, seen.probe.message, fatal=True)
        )
    return finish(seen, swap, pod)


def _why_not_gone(
    seen: Observation, in_the_way: list[PodView], since: datetime
) -> tuple[str, Reason | None]:
    if not in_the_way:
        return "scaling down what has no Pod", None
    told, trouble = why_not_gone(in_the_way, since, seen.now)
    refused = {seen.refused[pod.model] for pod in in_the_way if pod.model in seen.refused}
    return "; ".join([told, *sorted(refused)]), trouble


def _former(seen: Observation, target: str, started: datetime) -> tuple[Reason, str] | None:
    """Return how the last Pod of this try ended: the kubelet may have refused or evicted it."""
    ended = [
        pod
        for pod in seen.pods
        # Times of creation have no fractions.
        if pod.model == target and not pod.holds_gpu and pod.created > started - _ONE_SECOND
    ]
    if not ended:
        return None
    loss = how_it_ended(max(ended, key=lambda pod: pod.created))
    reason = Reason.UNSCHEDULABLE if loss.reason is Reason.ENGINE_LOST else loss.reason
    return reason, loss.message


def _attempt(seen: Observation, swap: CurrentSwap, model: Model) -> Attempt:
    claim = model.source.persistent_volume_claim
    loaded = seen.serving.status.model(model.name).loaded_spec_hash
    started = swap.stopped_time or swap.started_time
    return Attempt(
        started=started,
        timeout=timedelta(seconds=model.load_timeout_seconds),
        # The Pod of an engine that was lost may be old, and its restarts of long ago.
        fresh=swap.reason not in LOSSES,
        fits=loaded is not None and loaded == load_hash(seen, model),
        claim=claim.claim_name if claim is not None else "",
        former=_former(seen, model.name, started),
    )


def _told(finding: Diagnosis | None) -> tuple[str, Reason | None]:
    return (finding.message, finding.reason) if finding is not None else ("", None)


def _probe_failed(seen: Observation, pod: PodView) -> bool:
    return seen.probe is not None and seen.probe.pod_uid == pod.uid and not seen.probe.ok


def _in_phase(
    seen: Observation,
    swap: CurrentSwap,
    phase: SwapPhase,
    message: str,
    trouble: Reason | None = None,
    actions: tuple[Action, ...] = (),
) -> Turn:
    swap = swap.model_copy(update={"phase": phase})
    return Turn(
        status=seen.serving.status.model_copy(update={"current_swap": swap}),
        actions=actions,
        # Pods and Deployments wake us; this bounds the time-outs that no event announces.
        look_again_seconds=ACTIVE_POLL_SECONDS,
        telling=Telling(progress=message, trouble=trouble),
    )


def _drain_pause(seen: Observation, swap: CurrentSwap) -> float:
    taken = seen.now - swap.started_time
    if taken < _GATEWAYS_NOTICE:
        # A clock that was set back must not make this long.
        return min(_GATEWAYS_NOTICE - taken, _GATEWAYS_NOTICE).total_seconds()
    tenth = taken.total_seconds() / 10
    return min(max(tenth, _SHORTEST_DRAIN_POLL_SECONDS), _LONGEST_DRAIN_POLL_SECONDS)


def _broken(seen: Observation, name: str) -> bool:
    """Return whether a model failed as it is: trying it again must not cut off a way back."""
    model = declared(seen, name)
    return model is None or has_failed(seen, model)


def _drained(seen: Observation, swap: CurrentSwap) -> bool:
    """Return whether nothing of the old model is running any more, or its budget is spent."""
    leaving = swap.from_model
    if leaving is None or replicas(seen, leaving) == 0:
        return True
    pod = seen.engine_pod(leaving)
    if pod is None or not pod.ready:
        return True
    if leaving == swap.to_model and up_to_date(seen, leaving):
        return True
    budget = timedelta(seconds=seen.serving.spec.swap.drain_timeout_seconds)
    if seen.now - swap.started_time >= budget:
        return True
    if seen.now - swap.started_time < _GATEWAYS_NOTICE:
        return False
    # An engine that does not answer is not known to be idle: it gets its whole budget.
    return seen.activity is not None and not seen.activity.busy


def _must_stop(seen: Observation, view: DeploymentView, target: str | None) -> bool:
    if view.replicas == 0:
        return False
    return view.model != target or not up_to_date(seen, view.model)
