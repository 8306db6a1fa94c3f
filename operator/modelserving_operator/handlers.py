"""What kopf calls: identity and time-outs, indexes, wake-ups, one daemon per ModelServing.

No policy: a handler records what it was told or asks the reconciler for a turn.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, cast

import kopf
import structlog
from aiohttp import web

from modelserving_api.names import GROUP, PLURAL, SERVING_LABEL, VERSION
from modelserving_operator import reports
from modelserving_operator.actions import Announcement
from modelserving_operator.engine_client import EngineClient
from modelserving_operator.kubernetes_api import KubernetesApi
from modelserving_operator.observation import DeploymentView, PodView, ServiceView
from modelserving_operator.reconciler import Reconciler
from modelserving_operator.settings import Settings

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 15.0
"""After a failed turn. Well below the liveness limit: failing is not stalling."""

_OURS: Final = {SERVING_LABEL: kopf.PRESENT}

Key = tuple[str, str]


@dataclass
class Operator:
    """What lives as long as the process."""

    settings: Settings
    wakeups: dict[Key, asyncio.Event] = field(default_factory=dict)
    api: KubernetesApi | None = None
    engines: EngineClient | None = None
    page: web.AppRunner | None = None
    reconciler: Reconciler | None = None

    def wakeup(self, key: Key) -> asyncio.Event:
        """Return the event that wakes a ModelServing's daemon."""
        return self.wakeups.setdefault(key, asyncio.Event())


@dataclass(frozen=True)
class IndexedViews:
    """The views of one ModelServing out of kopf's indexes."""

    key: Key
    indexed_deployments: Any
    indexed_services: Any
    indexed_pods: Any

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
    _register_daemon(registry, operator)


def _register_lifecycle(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    # Whatever keeps us from starting will not go away by itself: exit, and be restarted.
    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        operator.api = await KubernetesApi.connect()
        operator.engines = EngineClient()
        operator.reconciler = Reconciler(
            operator.api,
            operator.engines,
            _post_event,
            timedelta(seconds=operator.settings.demand_expiry_seconds),
        )
        operator.page = await reports.serve(
            operator.reconciler.reports,
            operator.settings.status_port,
            operator.settings.stale_after_seconds,
        )
        _log.info(
            "started",
            namespace=operator.settings.namespace,
            status_port=operator.settings.status_port,
        )

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        if operator.page is not None:
            await operator.page.cleanup()
        if operator.engines is not None:
            await operator.engines.close()
        if operator.api is not None:
            await operator.api.__aexit__(None, None, None)

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set kopf's identity and time-outs, all of them here."""
    settings.persistence.finalizer = f"{GROUP}/operator"
    # No handler of ours keeps progress, but kopf must not write under its author's name.
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    # Our own Events tell the story; kopf's log lines as Events would drown it.
    settings.posting.loggers = False
    settings.posting.reporting_component = "modelserving-operator"
    settings.posting.event_name_prefix = "modelserving-"
    # The resources are known, and listing CRDs and namespaces needs cluster-wide permissions.
    settings.scanning.disabled = True
    # A watch can stall without an error (kopf #585): the server ends it after five minutes, and
    # we end it a little later if the server did not.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
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

    @kopf.on.event("apps", "v1", "deployments", labels=_OURS, registry=registry)
    @kopf.on.event("", "v1", "services", labels=_OURS, registry=registry)
    @kopf.on.event("", "v1", "pods", labels=_OURS, registry=registry)
    async def engine_changed(body: kopf.Body, **_: Any) -> None:
        operator.wakeup(_key(body)).set()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def serving_changed(namespace: str | None, name: str | None, **_: Any) -> None:
        operator.wakeup((namespace or "", name or "")).set()


def _register_daemon(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    @kopf.daemon(
        GROUP, VERSION, PLURAL, id="reconcile", registry=registry, cancellation_timeout=5.0
    )
    async def reconcile(
        *,
        namespace: str | None,
        name: str,
        uid: str,
        stopped: kopf.DaemonStopped,
        **indexes: Any,
    ) -> None:
        key = (namespace or "", name)
        reconciler = operator.reconciler
        assert reconciler is not None  # noqa: S101 - kopf starts daemons after the start-up
        views = IndexedViews(key, indexes["deployments"], indexes["services"], indexes["pods"])
        wakeup = operator.wakeup(key)
        try:
            await _loop(reconciler, key, views, wakeup, stopped)
        finally:
            if operator.wakeups.get(key) is wakeup:
                del operator.wakeups[key]
            reconciler.forget(*key, uid)


async def _loop(
    reconciler: Reconciler,
    key: Key,
    views: IndexedViews,
    wakeup: asyncio.Event,
    stopped: kopf.DaemonStopped,
) -> None:
    failures = 0
    while not stopped:
        # Cleared before looking: what happens during the turn wakes the next one.
        wakeup.clear()
        try:
            pause = await reconciler.turn(*key, views)
            failures = 0
        except Exception:
            # Whatever it was, the loop must live: the next turn sees the world afresh.
            _log.exception("turn failed", modelserving="/".join(key))
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(failures, 10), _LONGEST_PAUSE_SECONDS)
            failures += 1
        await _wait(wakeup, stopped, pause)


async def _wait(wakeup: asyncio.Event, stopped: kopf.DaemonStopped, seconds: float) -> None:
    """Wait until something happened, we are told to stop, or the time is over."""
    waits = {
        asyncio.ensure_future(wakeup.wait()),
        asyncio.ensure_future(stopped.wait()),
    }
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


def _key(body: kopf.Body) -> Key:
    return body.metadata.namespace or "", body.metadata.labels.get(SERVING_LABEL, "")


def _post_event(serving: dict[str, Any], announcement: Announcement) -> None:
    kopf.event(
        kopf.Body(cast("Any", serving)),
        type=announcement.type,
        reason=announcement.reason.value,
        message=announcement.message,
    )
