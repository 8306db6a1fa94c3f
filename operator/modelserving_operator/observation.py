"""What is seen of one ModelServing at one moment, as plain values.

Parsing of what the API server sent, no judgement of it: that is in diagnosis, policy and planning.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from modelserving_api import ModelServing
from modelserving_api.names import GROUP, KIND, MODEL_LABEL
from modelserving_api.priority import HANDICAP_SECONDS, Priority
from modelserving_operator.departures import ownership

SPEC_HASH_ANNOTATION: Final = f"{GROUP}/spec-hash"
"""On Deployments, their Pods and Services: which version of the manifest they were made from."""

_TERMINAL_PHASES: Final = frozenset({"Succeeded", "Failed"})

ENGINE_CONTAINER: Final = "engine"
"""The name of the engine's container in its Pod."""

_NODE_LOST: Final = "NodeLost"
"""Of a Pod's status, when its node was given up."""

_TROUBLE_AFTER: Final = timedelta(seconds=10)
"""A container is made within a second or two, its image being there; what takes longer has a reason
that only the Pod's Events tell, and nobody should list them for nothing."""


@dataclass(frozen=True)
class DeploymentView:
    """A Deployment of one model."""

    name: str
    model: str
    replicas: int
    spec_hash: str
    owner: str
    """The uid of the ModelServing that it belongs to; empty for someone else's."""
    settled: bool
    """Its controller has seen the last change and counts no Pods beyond what is wanted."""
    replica_failure: str = ""
    ownership: str = ""
    """Its spec, and who owns which field of it, for departures."""
    uid: str = ""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "DeploymentView":
        """Read a Deployment as the API server sends it."""
        metadata, spec = body["metadata"], body.get("spec", {})
        status = body.get("status", {})
        replicas = spec.get("replicas", 1)
        observed = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
        failure = next(
            (
                condition.get("message", "")
                for condition in status.get("conditions", [])
                if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
            ),
            "",
        )
        return cls(
            name=metadata["name"],
            model=metadata.get("labels", {}).get(MODEL_LABEL, ""),
            replicas=replicas,
            spec_hash=metadata.get("annotations", {}).get(SPEC_HASH_ANNOTATION, ""),
            owner=owner_of(metadata),
            settled=observed and status.get("replicas", 0) <= replicas,
            replica_failure=failure,
            ownership=ownership(body),
            uid=metadata.get("uid", ""),
        )


@dataclass(frozen=True)
class ServiceView:
    """A Service of one model."""

    name: str
    model: str
    spec_hash: str
    owner: str
    """As of a Deployment."""
    ownership: str = ""
    uid: str = ""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "ServiceView":
        """Read a Service as the API server sends it."""
        metadata = body["metadata"]
        return cls(
            name=metadata["name"],
            model=metadata.get("labels", {}).get(MODEL_LABEL, ""),
            spec_hash=metadata.get("annotations", {}).get(SPEC_HASH_ANNOTATION, ""),
            owner=owner_of(metadata),
            ownership=ownership(body),
            uid=metadata.get("uid", ""),
        )


@dataclass(frozen=True)
class PodView:
    """A Pod that runs, or ran, an engine."""

    name: str
    uid: str
    model: str
    spec_hash: str
    phase: str
    created: datetime
    ip: str = ""
    ready: bool = False
    terminating: bool = False
    scheduled: bool = False
    unschedulable_message: str = ""
    waiting_reason: str = ""
    waiting_message: str = ""
    exit_code: int | None = None
    exit_reason: str = ""
    exit_message: str = ""
    ended: bool = False
    """Its container has ended and has not been started again, nor is it waiting for that."""
    containers_ready: bool = False
    """What its kubelet said last; the node controller takes back `ready` alone."""
    container_created: bool = False
    """Whether its container has been made at all: until then the kubelet prepares the volumes."""
    running_since: datetime | None = None
    """Since when the engine's process runs; None: it does not run now."""
    started: bool = False
    """Whether the process that runs has answered its startup probe."""
    restarts: int = 0
    """How often the kubelet has started the container again."""
    bound: datetime | None = None
    """When the scheduler gave it to its node."""
    node: str = ""
    must_end_by: datetime | None = None
    """When its grace is over, once it is being deleted."""
    finalizers: tuple[str, ...] = ()
    status_reason: str = ""
    """Why the Pod as a whole has failed, as Evicted or NodeLost."""
    status_message: str = ""
    trouble: str = ""
    """The last warning of its kubelet while no container has been made."""

    @property
    def holds_gpu(self) -> bool:
        """A Pod that is not terminal may have a process with GPU memory, Terminating included."""
        return self.phase not in _TERMINAL_PHASES

    @property
    def ends(self) -> int:
        """How often its container has ended, which tells one end from the next."""
        return self.restarts + (0 if self.running_since is not None else 1)

    @property
    def is_alive(self) -> bool:
        """Whether it serves or loads, and is meant to go on."""
        return self.holds_gpu and not self.terminating

    @property
    def node_away(self) -> bool:
        """Whether nothing is heard of its node any more; the engine may well be alive.

        The node controller marks such Pods unready and leaves the word of their containers as
        their kubelet gave it last. A kubelet that is there never says the two apart.
        """
        return self.status_reason == _NODE_LOST or (self.containers_ready and not self.ready)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "PodView":
        """Read a Pod as the API server sends it."""
        metadata, status = body["metadata"], body.get("status", {})
        conditions = {each.get("type"): each for each in status.get("conditions", [])}
        scheduled = conditions.get("PodScheduled", {})
        is_scheduled = scheduled.get("status") == "True"
        # Others may have been injected beside it, and the API server sorts them by name.
        container: Mapping[str, Any] = next(
            (
                each
                for each in status.get("containerStatuses", [])
                if each.get("name") == ENGINE_CONTAINER
            ),
            {},
        )
        state = container.get("state", {})
        waiting, running = state.get("waiting") or {}, state.get("running") or {}
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            model=metadata.get("labels", {}).get(MODEL_LABEL, ""),
            spec_hash=metadata.get("annotations", {}).get(SPEC_HASH_ANNOTATION, ""),
            phase=status.get("phase", "Pending"),
            created=datetime.fromisoformat(metadata["creationTimestamp"]),
            ip=status.get("podIP", ""),
            ready=conditions.get("Ready", {}).get("status") == "True",
            terminating="deletionTimestamp" in metadata,
            scheduled=is_scheduled,
            unschedulable_message=(
                scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else ""
            ),
            waiting_reason=waiting.get("reason", ""),
            waiting_message=waiting.get("message", ""),
            exit_code=ended.get("exitCode"),
            exit_reason=ended.get("reason", ""),
            exit_message=ended.get("message", ""),
            ended=bool(state.get("terminated")),
            containers_ready=conditions.get("ContainersReady", {}).get("status") == "True",
            container_created=bool(container.get("containerID")) or bool(running or ended),
            running_since=_moment(running.get("startedAt")),
            started=container.get("started") is True,
            restarts=container.get("restartCount", 0),
            bound=_moment(scheduled.get("lastTransitionTime")) if is_scheduled else None,
            node=body.get("spec", {}).get("nodeName", ""),
            must_end_by=_moment(metadata.get("deletionTimestamp")),
            finalizers=tuple(metadata.get("finalizers", [])),
            status_reason=status.get("reason", ""),
            status_message=status.get("message", ""),
        )


@dataclass(frozen=True)
class EngineActivity:
    """What an engine says it is doing, from vLLM's own metrics."""

    running: int
    waiting: int
    finished: float
    """Requests finished since the engine started; it tells work between two looks."""

    @property
    def busy(self) -> bool:
        """Whether a request is in the engine now."""
        return self.running + self.waiting > 0


@dataclass(frozen=True)
class ProbeResult:
    """What became of one real completion."""

    pod_uid: str
    ok: bool
    message: str = ""


@dataclass(frozen=True)
class ModelDemand:
    """Requests that wait for one model, over all live gateways."""

    model: str
    waiting: int
    since: datetime
    priority: Priority = Priority.NORMAL
    """The class of what is due first."""
    due_since: datetime | None = None
    """Since when what is due first has waited, where that is not the oldest."""

    @property
    def due(self) -> datetime:
        """When it is due by its class; only the order of these moments matters."""
        handicap = timedelta(seconds=HANDICAP_SECONDS[self.priority])
        return (self.due_since or self.since) + handicap


@dataclass(frozen=True)
class Observation:
    """Everything a plan is made from."""

    serving: ModelServing
    now: datetime
    deployments: Mapping[str, DeploymentView] = field(default_factory=dict)
    services: Mapping[str, ServiceView] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    demand: tuple[ModelDemand, ...] = ()
    expired_requesters: tuple[str, ...] = ()
    activity: EngineActivity | None = None
    idle_since: datetime | None = None
    """Since when the active engine is known to have had nothing to do; None: busy or unknown."""
    silent_since: datetime | None = None
    """Since when the engine that is watched has not answered; None: it has, or none is."""
    probe: ProbeResult | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    """Models whose manifests the API server refused, and what it said."""
    conceded: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """Kinds and names of objects that somebody keeps changing, and since when they are left so."""
    just_done: frozenset[object] = frozenset()
    """Actions that were carried out a moment ago: the watches may still tell of what they changed,
    and planning them again is no news."""

    def engine_pod(self, model: str) -> PodView | None:
        """Return the Pod that serves or loads a model: one that answers goes before a newer one."""
        candidates = [pod for pod in self.pods if pod.model == model and pod.is_alive]
        return max(candidates, key=lambda pod: (pod.ready, pod.created), default=None)


def in_trouble(pod: PodView, now: datetime) -> bool:
    """Return whether only the Pod's Events can tell why its container has not been made."""
    if pod.container_created or pod.terminating or not pod.holds_gpu or pod.bound is None:
        return False
    return now - pod.bound > _TROUBLE_AFTER


def last_warning(events: Iterable[Mapping[str, Any]]) -> str:
    """Return the latest warning of a Pod's kubelet, with its reason; empty: none.

    What the scheduler said before it found a place is over.
    """
    warnings = [each for each in events if each.get("type") == "Warning" and _is_kubelets(each)]
    if not warnings:
        return ""
    latest = max(warnings, key=lambda each: each.get("lastTimestamp") or "")
    return f"{latest.get('reason', '')}: {latest.get('message', '').strip()}"


def _is_kubelets(event: Mapping[str, Any]) -> bool:
    component = event.get("source", {}).get("component") or event.get("reportingComponent")
    return component == "kubelet"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def owner_of(metadata: Mapping[str, Any]) -> str:
    """Return the uid of the ModelServing that owns an object, or an empty string."""
    return next(
        (
            owner.get("uid", "")
            for owner in metadata.get("ownerReferences", [])
            if owner.get("kind") == KIND
        ),
        "",
    )
