"""A small world for the pure core: Deployments, Pods and a clock that do as they are told.

It executes plans the way the reconciler and a cluster would, and checks R1 at every step. Views can
lag behind the truth, as watches do; a scale-up is judged by the truth, as R4 demands.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from modelserving_api import ModelServing
from modelserving_api.status import ModelServingStatus, SwapPhase
from modelserving_operator import manifests
from modelserving_operator.actions import (
    Action,
    Announcement,
    ApplyDeployment,
    ApplyService,
    Delete,
    Plan,
    Probe,
    RemoveRequest,
    ScaleDown,
    ScaleUp,
)
from modelserving_operator.activity import IdleTracker, SilenceTracker
from modelserving_operator.demand import DemandLedger, aggregate
from modelserving_operator.fights import Fights
from modelserving_operator.observation import (
    DeploymentView,
    EngineActivity,
    Observation,
    PodView,
    ProbeResult,
    ServiceView,
)
from modelserving_operator.planning import engine_to_watch, plan, scale_up_is_safe
from modelserving_operator.standing import declared, edited_objects
from modelserving_operator.upkeep import undoes

START = datetime(2026, 1, 1, tzinfo=UTC)
TERMINATION = timedelta(seconds=7)
LOAD = timedelta(seconds=3)
BACK_OFF = timedelta(seconds=10)
"""The kubelet's pause before the third start of a container, and here before each later one."""
NODE_GRACE = timedelta(seconds=40)
"""How long nothing is heard of a node until its Pods are called unready."""

NO_MEMORY = "torch.OutOfMemoryError: CUDA out of memory"
NO_DIRECTORY = 'FailedMount: for volume "weights" : hostPath type check failed: not a directory'


def model(name: str, gpu_memory: str = "7Gi", **fields: Any) -> dict[str, Any]:
    """Return a model of the spec."""
    source = {"hostPath": {"path": f"/mnt/models/{name}"}}
    return {"name": name, "gpuMemory": gpu_memory, "source": source, **fields}


def spec(**fields: Any) -> dict[str, Any]:
    """Return a spec with three models, changed by `fields`."""
    return {
        "node": {"gpuMemory": "24Gi"},
        "engine": {"image": "vllm:test"},
        "models": [model("mistral"), model("coder", "11Gi"), model("llava", "20Gi")],
        **fields,
    }


def serving(raw_spec: dict[str, Any], **fields: Any) -> ModelServing:
    """Return a parsed ModelServing."""
    metadata = {"name": "l4", "namespace": "default", "uid": "u1", "generation": 1}
    return ModelServing.parse({"metadata": metadata, "spec": raw_spec}).model_copy(update=fields)


@dataclass
class World:
    """Everything outside the pure core."""

    raw_spec: dict[str, Any] = field(default_factory=spec)
    now: datetime = START
    status: ModelServingStatus = field(default_factory=ModelServingStatus)
    deployments: dict[str, DeploymentView] = field(default_factory=dict)
    services: dict[str, ServiceView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    ends: dict[str, datetime] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    greedy: dict[str, int] = field(default_factory=dict)
    """How often the engine of a model runs out of GPU memory in each of its Pods."""
    wrong: set[str] = field(default_factory=set)
    hanging: set[str] = field(default_factory=set)
    unplaced: set[str] = field(default_factory=set)
    """Models for whose Pods there is no node."""
    weightless: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    """Names of Pods that a finalizer keeps."""
    silent_since: datetime | None = None
    """Since when the node's kubelet is away."""
    mute: bool = False
    """Engines answer nothing."""
    running: int = 0
    finished: int = 0
    lag: int = 0
    probe: ProbeResult | None = None
    refused: dict[str, str] = field(default_factory=dict)
    idle: IdleTracker = field(default_factory=IdleTracker)
    fights: Fights = field(default_factory=Fights)
    silence: SilenceTracker = field(default_factory=SilenceTracker)
    ledger: DemandLedger = field(default_factory=lambda: DemandLedger(timedelta(seconds=30)))
    told: list[Announcement] = field(default_factory=list)
    status_writes: int = 0
    acted: list[Action] = field(default_factory=list)
    _past: list[tuple[dict[str, DeploymentView], dict[str, PodView]]] = field(default_factory=list)
    _made: int = 0

    def demand(self, requester: str, **waiting: int) -> None:
        """Let a gateway ask: waiting requests by model; none withdraws its entry."""
        entries = [
            each for each in self.raw_spec.get("requests", []) if each["requester"] != requester
        ]
        if waiting:
            moment = self.now.isoformat()
            models = [
                {"name": name, "waiting": count, "since": moment} for name, count in waiting.items()
            ]
            entries.append({"requester": requester, "renewTime": moment, "models": models})
        self.raw_spec = {**self.raw_spec, "requests": entries}

    def renew(self) -> None:
        """Let every gateway renew its entry."""
        entries = [
            {**entry, "renewTime": self.now.isoformat()}
            for entry in self.raw_spec.get("requests", [])
        ]
        self.raw_spec = {**self.raw_spec, "requests": entries}

    def edit(self, name: str) -> None:
        """Change a model's Deployment and Service, as `kubectl edit` would."""
        _edit(self.deployments, name, "strategy", {"type": "RollingUpdate"})
        _edit(self.services, name, "ports", [])

    def forget(self) -> None:
        """Kill the operator: whatever it kept in memory is gone."""
        self.probe = None
        self.idle = IdleTracker()
        self.silence = SilenceTracker()
        self.ledger = DemandLedger(timedelta(seconds=30))

    def observe(self) -> Observation:
        """Return what an operator would see now, through views that may lag."""
        parsed = serving(self.raw_spec, status=self.status)
        deployments, pods = self._past[-self.lag - 1] if len(self._past) > self.lag else ({}, {})
        swap = self.status.current_swap
        if swap is None or swap.phase is not SwapPhase.PROBING:
            self.probe = None
        live, expired = self.ledger.split(parsed.spec.requests, self.now)
        seen = Observation(
            serving=parsed,
            now=self.now,
            deployments=deployments,
            services=dict(self.services),
            pods=tuple(pods.values()),
            demand=aggregate(live, (each.name for each in parsed.spec.models)),
            expired_requesters=tuple(expired),
            probe=self.probe,
            refused=dict(self.refused),
        )
        seen = replace(seen, conceded=self.fights.judge(edited_objects(seen), self.now))
        pod = engine_to_watch(seen)
        if pod is None:
            return seen
        activity = None if self.mute else EngineActivity(self.running, 0, self.finished)
        idle_since = self.idle.update(pod.uid, activity, self.now)
        silent_since = self.silence.update(pod.uid, activity, self.now)
        return replace(seen, activity=activity, idle_since=idle_since, silent_since=silent_since)

    def turn(self) -> Plan:
        """Do one turn of the operator, then let the cluster react."""
        self._settle()
        seen = self.observe()
        decided = plan(seen)
        if decided.status != self.status:
            self.status_writes += 1
            self.status = decided.status
        self.told.extend(decided.announcements)
        for action in decided.actions:
            self._act(seen, action)
            self._check_r1()
        self._settle()
        return decided

    def run(
        self,
        seconds: float = 120,
        until: Callable[["World"], bool] | None = None,
        tick: float = 0.5,
    ) -> None:
        """Let time pass in ticks until something holds, or fail when it never does."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.turn()
            if until is not None and until(self):
                return
            self.now += timedelta(seconds=tick)
        assert until is None, f"never happened within {seconds} s: {self.status}"

    def active(self, name: str | None) -> Callable[["World"], bool]:
        """Return a condition: this model is active and no swap goes on."""
        return lambda world: world.status.active_model == name and world.status.current_swap is None

    def evict(self) -> None:
        """Let the kubelet evict whatever runs."""
        for uid, pod in self.pods.items():
            if pod.is_alive and pod.scheduled and self.silent_since is None:
                told: dict[str, Any] = {
                    "status_reason": "Evicted",
                    "status_message": "The node was low on disk.",
                }
                ended = replace(pod, phase="Failed", ready=False, containers_ready=False)
                self.pods[uid] = replace(ended, **told)

    def delete_pods(self) -> None:
        """Let somebody delete every Pod."""
        for uid, pod in self.pods.items():
            if not pod.terminating:
                self._end(uid, pod)

    def _act(self, seen: Observation, action: Action) -> None:
        self.acted.append(action)
        if put_back := undoes(seen, action):
            self.fights.note(put_back, self.now)
        match action:
            case ApplyDeployment(name):
                self._apply(seen, name, 0)
            case ScaleUp(name):
                if scale_up_is_safe(
                    name, list(self.deployments.values()), list(self.pods.values())
                ):
                    self._apply(seen, name, 1)
            case ScaleDown(deployment, replicas):
                for name, view in self.deployments.items():
                    if view.name == deployment:
                        self.deployments[name] = replace(view, replicas=replicas)
            case ApplyService(name):
                declared_model = declared(seen, name)
                assert declared_model is not None
                body = manifests.service(seen.serving, declared_model)
                self.services[name] = _owned(ServiceView.parse(body), body)
            case Delete(kind, deleted):
                objects: dict[str, Any] = (
                    self.deployments if kind == "Deployment" else self.services
                )
                for name in [key for key, view in objects.items() if view.name == deleted]:
                    del objects[name]
            case RemoveRequest(requester):
                self.demand(requester)
            case Probe(name, pod_uid, _):
                self.probe = ProbeResult(pod_uid, ok=name not in self.wrong, message="wrong")

    def _apply(self, seen: Observation, name: str, replicas: int) -> None:
        declared_model = declared(seen, name)
        assert declared_model is not None
        if name in self.refused:
            return
        body = manifests.deployment(seen.serving, declared_model, replicas)
        view = replace(DeploymentView.parse(body), settled=True)
        self.deployments[name] = _owned(view, body)

    def _settle(self) -> None:
        """Do what controllers and kubelet do: make Pods, end them, load models."""
        for uid, pod in list(self.pods.items()):
            view = self.deployments.get(pod.model)
            wanted = view is not None and view.replicas > 0 and view.spec_hash == pod.spec_hash
            if not wanted and not pod.terminating:
                self._end(uid, pod)
            elif self.silent_since is not None and pod.scheduled:
                away = self.now - self.silent_since >= NODE_GRACE
                self.pods[uid] = replace(pod, ready=pod.ready and not away)
            elif pod.terminating and self.now >= self.ends[uid] and pod.name not in self.held:
                del self.pods[uid]
            elif pod.is_alive:
                self.pods[uid] = self._age(pod)
        for name, view in self.deployments.items():
            alive = any(pod.model == name and pod.is_alive for pod in self.pods.values())
            if view.replicas > 0 and not alive:
                self._made += 1
                uid = f"pod-{self._made}"
                self.pods[uid] = PodView(
                    name=f"{name}-{self._made}",
                    uid=uid,
                    model=name,
                    spec_hash=view.spec_hash,
                    phase="Pending",
                    created=self.now,
                )
        self._past.append((dict(self.deployments), dict(self.pods)))

    def _end(self, uid: str, pod: PodView) -> None:
        """Begin to delete a Pod. Its kubelet takes it away later, unless it never had one."""
        self.ends[uid] = self.now + (TERMINATION if pod.scheduled else timedelta(0))
        ending = replace(pod, terminating=True, ready=False, must_end_by=self.ends[uid])
        heard = self.silent_since is None
        self.pods[uid] = replace(ending, containers_ready=pod.containers_ready and not heard)

    def _age(self, pod: PodView) -> PodView:
        # The anti-affinity: no Pod is placed while another may hold the GPU.
        others = any(
            each.holds_gpu and each.scheduled for each in self.pods.values() if each is not pod
        )
        unplaced = pod.model in self.unplaced or self.silent_since is not None
        if not pod.scheduled and (unplaced or others):
            return replace(pod, unschedulable_message="0/1 nodes are available")
        bound = pod.bound or self.now
        pod = replace(pod, scheduled=True, unschedulable_message="", bound=bound, node="worker")
        if pod.model in self.weightless:
            late = self.now - bound > timedelta(seconds=10)
            return replace(pod, trouble=NO_DIRECTORY if late else "")
        pod = replace(pod, phase="Running", ip="10.0.0.1", container_created=True)
        if pod.model in self.broken:
            return replace(
                pod,
                ready=False,
                containers_ready=False,
                waiting_reason="CrashLoopBackOff",
                exit_code=1,
                exit_message="RuntimeError: an unknown flag",
            )
        if pod.model in self.greedy:
            return self._starve(pod, bound, self.greedy[pod.model])
        loaded = self.now >= bound + LOAD and pod.model not in self.hanging
        return replace(pod, ready=loaded, containers_ready=loaded)

    def _starve(self, pod: PodView, bound: datetime, times: int) -> PodView:
        """Run out of GPU memory so many times, started again as the kubelet does, then load."""
        crash = bound
        for restarts in range(times):
            crash = crash + LOAD + (BACK_OFF if restarts > 1 else timedelta(0))
            again = crash + (BACK_OFF if restarts > 0 else timedelta(0))
            if self.now < crash:
                break
            words: dict[str, Any] = {"exit_code": 1, "exit_message": NO_MEMORY}
            waiting = "CrashLoopBackOff" if self.now < again else ""
            started = restarts + (0 if waiting else 1)
            pod = replace(pod, restarts=started, waiting_reason=waiting, **words)
        loaded = pod.restarts >= times and self.now >= crash + BACK_OFF + LOAD
        return replace(pod, ready=loaded, containers_ready=loaded)

    def _check_r1(self) -> None:
        up = [name for name, view in self.deployments.items() if view.replicas > 0]
        assert len(up) <= 1, f"R1: more than one Deployment is up: {up}"
        processes = [
            pod.name
            for pod in self.pods.values()
            if pod.holds_gpu and (pod.terminating or pod.scheduled)
        ]
        models = {name.rsplit("-", 1)[0] for name in processes}
        assert len(models) <= 1, f"R1: engines of several models are alive: {processes}"


View = TypeVar("View", DeploymentView, ServiceView)


def _owned(view: View, body: dict[str, Any]) -> View:
    """Return the view of an object of which our apply owns every field."""
    owned: dict[str, Any] = {f"f:{name}": {} for name in body["spec"]}
    return replace(view, ownership=json.dumps([body["spec"], owned]))


def _edit(views: dict[str, View], name: str, field: str, value: Any) -> None:
    observed, ours = json.loads(views[name].ownership)
    ours.pop(f"f:{field}", None)
    ownership = json.dumps([{**observed, field: value}, ours])
    views[name] = replace(views[name], ownership=ownership)
