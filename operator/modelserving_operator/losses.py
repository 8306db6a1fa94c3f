"""Why the engine that served is no longer there.

Pure: ordered checks over what is seen of the active model, each giving a reason and a message.
What keeps an engine from being ready in the first place is in diagnosis.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from modelserving_api.names import Reason
from modelserving_operator import words
from modelserving_operator.observation import Observation, PodView
from modelserving_operator.standing import endpoint_of

LOSSES: Final = frozenset(
    {
        Reason.ENGINE_DIED,
        Reason.EVICTED,
        Reason.NODE_NOT_READY,
        Reason.SCALED_BY_HAND,
        Reason.DELETED_BY_HAND,
        Reason.ENGINE_LOST,
    }
)
"""Reasons of swaps that bring an engine back that was lost."""

_SILENCE: Final = timedelta(seconds=30)
"""Of an engine whose node is not heard of either. A busy one misses a look now and then; half of
what its liveness probe would give it."""


@dataclass(frozen=True)
class Loss:
    """What became of an engine that served."""

    reason: Reason
    message: str


def why_lost(seen: Observation, active: str) -> Loss | None:
    """Return what became of the active engine, or None while it serves."""
    deployment = seen.deployments.get(active)
    if deployment is None:
        return Loss(Reason.DELETED_BY_HAND, f"the Deployment of {active} is gone")
    if deployment.replicas == 0:
        message = f"{deployment.name} was scaled to 0 though {active} is active"
        return Loss(Reason.SCALED_BY_HAND, message)
    pod = _that_served(seen, active)
    if pod is None:
        return _gone(seen, active)
    if pod.ready:
        return None
    if pod.node_away:
        return _silent_node(seen, active, pod)
    return _unready(active, pod)


def _silent_node(seen: Observation, active: str, pod: PodView) -> Loss | None:
    silent_since = seen.silent_since if seen.activity is None else None
    if silent_since is None or seen.now - silent_since < _SILENCE:
        # Only its kubelet is away: what serves goes on serving.
        return None
    message = f"nothing is heard of the node {pod.node}, and the engine of {active} is silent"
    return Loss(Reason.NODE_NOT_READY, message)


def _unready(active: str, pod: PodView) -> Loss:
    if pod.exit_code is not None and not (pod.running_since and pod.started):
        message = f"the engine of {active} exited with code {pod.exit_code}"
        if pod.exit_reason == "OOMKilled":
            message += ", killed for exceeding its memory limit"
        return Loss(Reason.ENGINE_DIED, message + words.last(pod.exit_message))
    return Loss(Reason.ENGINE_LOST, f"the engine of {active} no longer answers its health check")


def _that_served(seen: Observation, active: str) -> PodView | None:
    """Return the Pod that was probed and published: another one must be probed first."""
    alive = (pod for pod in seen.pods if pod.model == active and pod.is_alive)
    return next((pod for pod in alive if endpoint_of(pod) == seen.serving.status.endpoint), None)


def _gone(seen: Observation, active: str) -> Loss:
    """The Pod that served is gone, or is going; another one may have been made already."""
    former = [pod for pod in seen.pods if pod.model == active and not pod.is_alive]
    pod = max(former, key=lambda each: each.created, default=None)
    if pod is None:
        return Loss(Reason.ENGINE_LOST, f"the Pod of {active} is gone")
    return how_it_ended(pod)


def how_it_ended(pod: PodView) -> Loss:
    """Return what became of a Pod that has ended, or is ending."""
    if pod.status_reason == "Evicted":
        message = f"{pod.name} was evicted from {pod.node}: {pod.status_message}"
        return Loss(Reason.EVICTED, message)
    if pod.node_away:
        message = f"{pod.name} was given up by its node {pod.node}, of which nothing is heard"
        return Loss(Reason.NODE_NOT_READY, message)
    if pod.terminating:
        return Loss(Reason.ENGINE_LOST, f"{pod.name} is being deleted")
    told = f"{pod.status_reason or pod.phase}: {pod.status_message}".rstrip(": ")
    return Loss(Reason.ENGINE_LOST, f"{pod.name} has ended: {told}")
