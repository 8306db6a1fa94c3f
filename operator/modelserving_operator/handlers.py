"""What kopf calls: identity and time-outs, indexes, wake-ups. The loops they wake are in loops.

No policy: a handler records what it was told, or wakes a loop.
"""

import asyncio
import random
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import kopf
import structlog
from aiohttp import web

from modelserving_api.names import GROUP, PLURAL, SERVING_LABEL, VERSION
from modelserving_operator import reports, watchdog
from modelserving_operator.engine_client import EngineClient
from modelserving_operator.events import EventPoster
from modelserving_operator.kubernetes_api import KubernetesApi
from modelserving_operator.logins import Logins
from modelserving_operator.loops import Key, Loops
from modelserving_operator.observation import DeploymentView, PodView, ServiceView
from modelserving_operator.reconciler import Reconciler
from modelserving_operator.settings import Settings

_log = structlog.get_logger(__name__)

_OURS: Final = {SERVING_LABEL: kopf.PRESENT}


@dataclass
class Operator:
    """What lives as long as kopf does: from its start-up to its clean-up."""

    settings: Settings
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends kopf in order."""
    failure: BaseException | None = None
    """Why it was stopped, when that was not asked for."""
    told_to_end: bool = False
    """By a signal. Kopf takes those, too, but keeps it to itself."""
    sighted: dict[Key, float] = field(default_factory=dict)
    """When each ModelServing was first heard of, by the monotonic clock."""
    api: KubernetesApi | None = None
    engines: EngineClient | None = None
    events: EventPoster | None = None
    page: web.AppRunner | None = None
    reconciler: Reconciler | None = None
    loops: Loops | None = None
    watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open all that needs an event loop."""
        settings = self.settings
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, self.end)
        self.api = await KubernetesApi.connect(settings.api_timeout_seconds)
        self.engines = EngineClient()
        self.events = EventPoster(self.api.post_event)
        self.reconciler = Reconciler(
            self.api,
            self.engines,
            self.events.post,
            timedelta(seconds=settings.demand_expiry_seconds),
        )
        self.loops = Loops(self.reconciler, self.gone, self.fail)
        self.page = await reports.serve(self.reconciler.reports, self.stalled, settings.status_port)
        self.watch = asyncio.create_task(
            watchdog.watch(
                self.stalled, self.fail, blocked_after_seconds=settings.blocked_after_seconds
            )
        )

    async def close(self) -> None:
        """Close what start has opened, as far as it came."""
        # Kopf waits five seconds for tasks that are left, and one of its own waits for this.
        self.stop.set()
        if self.watch is not None:
            self.watch.cancel()
            await asyncio.wait([self.watch])  # it sees to it that we end
        if self.loops is not None:
            await self.loops.close()
        if self.page is not None:
            await self.page.cleanup()
        if self.events is not None:
            await self.events.close()
        if self.engines is not None:
            await self.engines.close()
        if self.api is not None:
            await self.api.__aexit__(None, None, None)

    def end(self) -> None:
        """End kopf, and let nothing follow it."""
        self.told_to_end = True
        self.stop.set()

    def fail(self, error: BaseException) -> None:
        """End the operator: something died that must not, and a restart is the cure."""
        _log.error("the operator ends, to be started again", error=str(error), exc_info=error)
        self.failure = self.failure or error
        self.stop.set()

    def gone(self, key: Key) -> None:
        """Forget a ModelServing that is no more."""
        self.sighted.pop(key, None)
        if self.reconciler is not None:
            self.reconciler.forget(*key)

    def stalled(self) -> list[str]:
        """Return the ModelServings that are heard of and not reconciled in time, or not watched."""
        assert self.reconciler is not None  # noqa: S101 - set before anybody can ask
        stale = reports.stale(
            self.sighted,
            self.reconciler.reports,
            time.monotonic(),
            self.settings.stale_after_seconds,
        )
        unwatched = self.reconciler.out_of_sight(self.settings.watch_lost_seconds)
        return [
            *(f"{name} (not reconciled in time)" for name in stale),
            *(f"{'/'.join(key)} (its watch is dead)" for key in sorted(unwatched)),
        ]

    def begin(self, key: Key, views: "IndexedViews") -> None:
        """Begin the loop of a ModelServing, or wake the one there is, unless we wrote this."""
        # Kopf tells of events after the start-up.
        assert self.loops is not None  # noqa: S101
        assert self.reconciler is not None  # noqa: S101
        self.sighted.setdefault(key, time.monotonic())
        if not self.reconciler.knows(*key, views.version()):
            self.loops.begin(key, views)

    def wake(self, key: Key) -> None:
        """Let a ModelServing be looked at now."""
        if self.loops is not None:
            self.loops.wake(key)


@dataclass(frozen=True)
class IndexedViews:
    """The views of one ModelServing out of kopf's indexes."""

    key: Key
    indexed_servings: Any
    indexed_deployments: Any
    indexed_services: Any
    indexed_pods: Any

    def version(self) -> str | None:
        """Return its resourceVersion; None if it was deleted, or a predecessor still shows."""
        versions = list(self.indexed_servings.get(self.key, ()))
        return versions[0] if len(versions) == 1 else None

    def deployments(self) -> Iterable[DeploymentView]:
        """Return its Deployments."""
        return list(self.indexed_deployments.get(self.key, ()))

    def services(self) -> Iterable[ServiceView]:
        """Return its Services."""
        return list(self.indexed_services.get(self.key, ()))

    def pods(self) -> Iterable[PodView]:
        """Return its Pods."""
        return list(self.indexed_pods.get(self.key, ()))


def register(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    """Register every handler; nothing is registered by importing this module."""
    _register_lifecycle(registry, operator)
    _register_watches(registry, operator)


def _register_lifecycle(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    # Whatever keeps us from starting will not go away by itself: exit, and be restarted.
    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings, operator.settings)
        await operator.start()
        _log.info(
            "started",
            namespace=operator.settings.namespace,
            status_port=operator.settings.status_port,
        )

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await operator.close()

    kopf.on.login(registry=registry)(Logins().login)


class Backoffs:
    """The pauses between tries of one request of kopf's: growing, jittered, three minutes in all.

    Made anew for each request, so that watches that failed together do not come back together.
    """

    _SECONDS: Final = (0.5, 1, 2, 3, 5, 8, *(13 for _ in range(12)))

    def __iter__(self) -> Iterator[float]:
        """Yield the pauses in seconds."""
        return (random.uniform(0.5, 1.0) * pause for pause in self._SECONDS)  # noqa: S311


def configure(settings: kopf.OperatorSettings, ours: Settings) -> None:
    """Set kopf's identity and time-outs, all of them here."""
    # No handler of ours needs a finalizer. Kopf takes this one off objects that still carry it from
    # an older operator.
    settings.persistence.finalizer = f"{GROUP}/operator"
    # No handler of ours keeps progress, but kopf must not write under its author's name.
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    # Events are ours alone (events.py).
    settings.posting.enabled = False
    # The resources are known, and listing CRDs and namespaces needs cluster-wide permissions.
    settings.scanning.disabled = True
    # A watch can stall without an error (kopf #585): the server ends it in time, we end it when it
    # is silent for too long, and a little later than the server in any case.
    settings.watching.server_timeout = ours.watch_seconds
    settings.watching.client_timeout = ours.watch_seconds * 1.1
    settings.watching.inactivity_timeout = ours.watch_silence_seconds
    settings.watching.connect_timeout = ours.api_timeout_seconds
    settings.networking.request_timeout = ours.api_timeout_seconds * 3
    settings.networking.error_backoffs = Backoffs()
    # Every engine object carries our label, other Pods of the namespace are none of our business.
    for resource in ("pods", "deployments", "services"):
        settings.watching.label_selectors[resource] = SERVING_LABEL


def _register_watches(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    @kopf.index("apps", "v1", "deployments", id="deployments", labels=_OURS, registry=registry)
    async def deployments(body: kopf.Body, **_: Any) -> dict[Key, DeploymentView]:
        return {_key(body): DeploymentView.parse(body)}

    @kopf.index("", "v1", "services", id="services", labels=_OURS, registry=registry)
    async def services(body: kopf.Body, **_: Any) -> dict[Key, ServiceView]:
        return {_key(body): ServiceView.parse(body)}

    @kopf.index("", "v1", "pods", id="pods", labels=_OURS, registry=registry)
    async def pods(body: kopf.Body, **_: Any) -> dict[Key, PodView]:
        return {_key(body): PodView.parse(body)}

    # Kopf indexes before it tells of events, and tells of none before all indexes are filled: so
    # this hears of a ModelServing even if its loop never begins, and liveness can count on it.
    @kopf.index(GROUP, VERSION, PLURAL, id="modelservings", registry=registry)
    async def sighted(body: kopf.Body, **_: Any) -> dict[Key, str]:
        metadata = body.metadata
        key = (metadata.namespace or "", metadata.name or "")
        operator.sighted.setdefault(key, time.monotonic())
        return {key: metadata.get("resourceVersion", "")}

    @kopf.on.event("apps", "v1", "deployments", labels=_OURS, registry=registry)
    @kopf.on.event("", "v1", "services", labels=_OURS, registry=registry)
    @kopf.on.event("", "v1", "pods", labels=_OURS, registry=registry)
    async def engine_changed(body: kopf.Body, **_: Any) -> None:
        operator.wake(_key(body))

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def serving_changed(
        type: str | None, namespace: str | None, name: str | None, **indexes: Any
    ) -> None:
        key = (namespace or "", name or "")
        if type == "DELETED":
            # The loop asks whether that is so: one of the same name may have been made already.
            operator.sighted.pop(key, None)
            operator.wake(key)
            return
        kinds = ("modelservings", "deployments", "services", "pods")
        views = IndexedViews(key, *(indexes[each] for each in kinds))
        operator.begin(key, views)


def _key(body: kopf.Body) -> Key:
    return body.metadata.namespace or "", body.metadata.labels.get(SERVING_LABEL, "")
