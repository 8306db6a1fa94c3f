"""One turn of the loop for one ModelServing: observe, plan, act.

No policy here: what to do is planning's, how to talk to the world is kubernetes_api's and
engine_client's. What this module remembers between turns may be lost at any moment.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog

from modelserving_api import InvalidSpecError, ModelServing
from modelserving_api.resource import parse_status
from modelserving_api.status import ModelServingStatus, SwapPhase
from modelserving_operator import conditions, execution, metrics
from modelserving_operator.actions import RESYNC_SECONDS, Announcement, Plan
from modelserving_operator.cached_serving import CachedServing
from modelserving_operator.demand import DemandLedger, aggregate
from modelserving_operator.execution import Execution
from modelserving_operator.explanations import Explanations
from modelserving_operator.memory import Memory
from modelserving_operator.observation import EngineActivity, Observation
from modelserving_operator.phases import ended_phase
from modelserving_operator.planning import engine_to_watch, plan
from modelserving_operator.sight import Objects, Views
from modelserving_operator.standing import edited_objects, endpoint_of
from modelserving_operator.status_writes import may_wait_seconds

_log = structlog.get_logger(__name__)

KubernetesObject = dict[str, Any]


class Api(execution.Api, Protocol):
    """What the reconciler needs of the Kubernetes API."""

    async def serving(self, namespace: str, name: str) -> KubernetesObject | None: ...
    async def events_of(self, namespace: str, uid: str) -> list[KubernetesObject]: ...
    async def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> str: ...
    async def write_status(
        self, namespace: str, name: str, uid: str, status: KubernetesObject
    ) -> KubernetesObject | None: ...


class Engines(execution.Engines, Protocol):
    """What the reconciler needs of the engines."""

    async def activity(self, endpoint: str) -> EngineActivity | None: ...


Announce = Callable[[KubernetesObject, Announcement], None]


@dataclass
class Report:
    """What the last turn saw and decided, for the status page."""

    namespace: str
    name: str
    finished: float
    """By the monotonic clock: it tells a stalled loop."""
    status: ModelServingStatus = field(default_factory=ModelServingStatus)
    demand: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None


def _bind_swap(status: ModelServingStatus) -> None:
    """Put the swap that is going on into every line that is logged from here on."""
    if status.current_swap is not None:
        structlog.contextvars.bind_contextvars(swap=status.current_swap.id)
    else:
        structlog.contextvars.unbind_contextvars("swap")


class Reconciler:
    """Reconciles ModelServings, one turn at a time."""

    def __init__(
        self, api: Api, engines: Engines, announce: Announce, demand_expiry: timedelta
    ) -> None:
        self._api = api
        self._engines = engines
        self._announce = announce
        self._execution = Execution(api, engines)
        self._demand_expiry = demand_expiry
        self._memories: dict[tuple[str, str], Memory] = {}
        self.reports: dict[tuple[str, str], Report] = {}

    async def turn(self, namespace: str, name: str, views: Views) -> float | None:
        """Do one turn and return after how many seconds the next is due, if nothing happens.

        Returns None when there is no such ModelServing any more.
        """
        report = Report(namespace, name, time.monotonic())
        started = time.perf_counter()
        try:
            return await self._turn(namespace, name, views, report)
        except Exception as error:
            report.error = str(error)
            if (memory := self._memories.get((namespace, name))) is not None:
                memory.cached.doubt()
            metrics.RECONCILE_ERRORS.labels(namespace, name).inc()
            raise
        finally:
            report.finished = time.monotonic()
            self.reports[namespace, name] = report
            seconds = time.perf_counter() - started
            metrics.RECONCILE_SECONDS.labels(namespace, name).observe(seconds)

    def forget(self, namespace: str, name: str) -> None:
        """Let go of a ModelServing that is gone, or that this operator stops serving."""
        self._memories.pop((namespace, name), None)
        self.reports.pop((namespace, name), None)
        metrics.forget(namespace, name)

    def out_of_sight(self, after_seconds: float) -> list[tuple[str, str]]:
        """Return the ModelServings whose watch has not told for so long what reads have shown."""
        return [
            key
            for key, memory in self._memories.items()
            if memory.cached.watch_behind_seconds > after_seconds
        ]

    def knows(self, namespace: str, name: str, version: str | None) -> bool:
        """Return whether a version of a ModelServing is one that was read or written here."""
        memory = self._memories.get((namespace, name))
        return memory is not None and memory.cached.knows(version)

    async def _turn(self, namespace: str, name: str, views: Views, report: Report) -> float | None:
        memory = await self._read(namespace, name, views.version())
        if memory is None:
            return None
        body, now = memory.cached.body, datetime.now(UTC)
        if "deletionTimestamp" in body["metadata"]:
            # Somebody else's finalizer holds it. What belongs to it goes with it, not before.
            report.status = parse_status(body.get("status"))
            return RESYNC_SECONDS
        try:
            serving = ModelServing.parse(body)
        except InvalidSpecError as error:
            return await self._refuse(body, error, now, report)
        _bind_swap(serving.status)
        seen = await self._observe(serving, views, now)
        report.demand = [
            {
                "model": each.model,
                "waiting": each.waiting,
                "since": each.since.isoformat(),
                "priority": each.priority,
            }
            for each in seen.demand
        ]
        decided = plan(seen)
        report.status = decided.status
        waiting = {each.model: each.waiting for each in seen.demand}
        metrics.show(namespace, name, decided.status, waiting)
        oldest = {each.model: (now - each.since).total_seconds() for each in seen.demand}
        declared_models = [model.name for model in serving.spec.models]
        metrics.show_arbitration(namespace, name, declared_models, oldest, decided.decision)
        return await self._carry_out(body, seen, decided)

    async def _read(self, namespace: str, name: str, told: str | None) -> Memory | None:
        """Read the ModelServing, unless what is held is still true as far as one can tell.

        Most turns are about its engines, or follow on a status of our own, which the API server
        has answered with the whole object.
        """
        key = (namespace, name)
        memory = self._memories.get(key)
        read_at = time.monotonic()
        if (
            memory is not None
            and memory.cached.believable(told, read_at)
            and not memory.ledger.lapsing(datetime.now(UTC))
        ):
            return memory
        body = await self._api.serving(namespace, name)
        if body is None:
            return None
        if memory is None or memory.cached.uid != body["metadata"]["uid"]:
            ledger, explanations = DemandLedger(self._demand_expiry), Explanations(self._api)
            memory = Memory(CachedServing(body, read_at), ledger, explanations)
            self._memories[key] = memory
        memory.cached.hold_read(body, read_at, told)
        return memory

    def _memory(self, serving: ModelServing) -> Memory:
        return self._memories[serving.namespace, serving.name]

    async def _observe(self, serving: ModelServing, views: Views, now: datetime) -> Observation:
        memory = self._memory(serving)
        live, expired = memory.ledger.split(serving.spec.requests, now)
        swap = serving.status.current_swap
        if swap is None or swap.phase is not SwapPhase.PROBING:
            # A result is good for the load that it was asked for, not for the Pod's whole life.
            memory.probe = None
        if swap is not None and swap.phase is SwapPhase.DRAINING:
            # Each swap tries anew what was refused before: a quota may have been raised.
            memory.refused = {
                key: message for key, message in memory.refused.items() if key[0] != swap.to_model
            }
        where = (self._api, serving.namespace, serving.name, views)
        seen = Observation(
            serving=serving,
            now=now,
            demand=aggregate(live, (model.name for model in serving.spec.models)),
            expired_requesters=tuple(expired),
            probe=memory.probe,
            refused={model: message for (model, _), message in memory.refused.items()},
        )
        seen = await self._with_objects(seen, await memory.sight.look(*where, swap))
        seen = replace(
            seen,
            just_done=memory.recent.unseen(seen),
            conceded=memory.fights.judge(edited_objects(seen), now),
        )
        pod = engine_to_watch(seen)
        if pod is None:
            return seen
        activity = await self._engines.activity(endpoint_of(pod))
        idle_since = memory.idle.update(pod.uid, activity, now)
        silent_since = memory.silence.update(pod.uid, activity, now)
        if activity is None:
            # It may be gone without a word from the watch.
            seen = await self._with_objects(seen, await memory.sight.ask(*where))
        return replace(seen, activity=activity, idle_since=idle_since, silent_since=silent_since)

    async def _with_objects(self, seen: Observation, objects: Objects) -> Observation:
        uid = seen.serving.uid
        explanations = self._memory(seen.serving).explanations
        return replace(
            seen,
            deployments={each.model: each for each in objects.deployments if each.owner == uid},
            services={each.model: each for each in objects.services if each.owner == uid},
            pods=await explanations.explained(seen.serving.namespace, objects.pods, seen.now),
        )

    async def _refuse(
        self, body: KubernetesObject, error: InvalidSpecError, now: datetime, report: Report
    ) -> float:
        """Say what is wrong with the spec and touch nothing."""
        metadata = body["metadata"]
        before = parse_status(body.get("status"))
        report.status = after = conditions.invalid(
            before, error.problems, metadata.get("generation", 0), now
        )
        await self._write_status(body, before, after)
        return RESYNC_SECONDS

    async def _carry_out(self, body: KubernetesObject, seen: Observation, decided: Plan) -> float:
        """Write the status first: an intent that is acted on must outlive us (R3)."""
        pause, memory = decided.look_again_seconds, self._memory(seen.serving)
        before, after = seen.serving.status, decided.status
        since_last_write = time.monotonic() - memory.status_written_at
        if (wait := may_wait_seconds(before, after, since_last_write)) > 0:
            pause = min(pause, wait)
        elif not await self._write_status(body, before, after):
            return 0.0
        if (ended := ended_phase(before, after, seen.now)) is not None:
            _log.info(
                "phase ended",
                phase=ended.phase.value,
                seconds=ended.seconds,
                next_phase=ended.next_phase.value if ended.next_phase else None,
            )
        _bind_swap(after)
        for announcement in decided.announcements:
            tell = _log.warning if announcement.type == "Warning" else _log.info
            tell(announcement.message, reason=announcement.reason.value)
            self._announce(body, announcement)
        for action in decided.actions:
            pause = min(pause, await self._execution.carry_out(seen, action, memory))
        return pause

    async def _write_status(
        self, body: KubernetesObject, before: ModelServingStatus, after: ModelServingStatus
    ) -> bool:
        """Return whether there is still a ModelServing to act for."""
        if after == before:
            return True
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        memory, written_at = self._memories[namespace, name], time.monotonic()
        memory.cached.doubt()
        written = await self._api.write_status(
            namespace,
            name,
            memory.cached.uid,
            after.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
        if written is None:
            return False
        memory.cached.hold_written(written, written_at)
        memory.status_written_at = written_at
        metrics.STATUS_WRITES.labels(namespace, name).inc()
        metrics.record(namespace, name, before, after)
        return True
