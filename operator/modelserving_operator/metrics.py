"""The operator's Prometheus metrics, and how a change of status moves them.

Every number a person may alert on is made here; nothing else of the operator knows Prometheus.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from modelserving_api.names import ConditionType
from modelserving_api.status import ConditionStatus, LastSwap, ModelServingStatus, ModelState
from modelserving_operator.decision import Cause, Decision

_SERVING: Final = ("namespace", "modelserving")

_SWAP_BUCKETS: Final = (0.1, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 120, 300, 600)
"""From a Pod on a warm node (seconds) to a first load of a large model (minutes)."""

READY: Final = Gauge(
    "modelserving_ready", "1 while the ModelServing has a model that answers.", _SERVING
)
MODEL_STATE: Final = Gauge(
    "modelserving_model_state",
    "1 for the state that a model is in, 0 for the others.",
    (*_SERVING, "model", "state"),
)
WAITING: Final = Gauge(
    "modelserving_requests_waiting",
    "Requests that live gateways hold for a model.",
    (*_SERVING, "model"),
)
SWAPS: Final = Counter(
    "modelserving_swaps",
    "Swaps that have ended.",
    (*_SERVING, "from_model", "to_model", "outcome", "reason"),
)
SWAP_SECONDS: Final = Histogram(
    "modelserving_swap_seconds",
    "Duration of the parts of successful swaps; the part `total` is the whole.",
    (*_SERVING, "to_model", "part"),
    buckets=_SWAP_BUCKETS,
)
OLDEST_WAIT: Final = Gauge(
    "modelserving_oldest_wait_seconds",
    "How long the oldest request that live gateways hold for a model has waited.",
    (*_SERVING, "model"),
)
WAITED: Final = Histogram(
    "modelserving_waited_seconds",
    "How long the oldest request for a model had waited when a swap had made it ready.",
    (*_SERVING, "model"),
    buckets=_SWAP_BUCKETS,
)
DECISION: Final = Gauge(
    "modelserving_decision",
    "1 for the rule by which the policy has decided last, 0 for the others.",
    (*_SERVING, "cause"),
)
LATE: Final = Gauge(
    "modelserving_wait_beyond_bound_seconds",
    "By how much a model that is waited for will be ready later than maxWaitSeconds allows.",
    (*_SERVING, "model"),
)
LOAD_FAILURES: Final = Counter(
    "modelserving_load_failures", "Failed loads.", (*_SERVING, "model", "reason")
)
RECONCILE_SECONDS: Final = Histogram(
    "modelserving_reconcile_seconds",
    "Duration of one reconciliation.",
    _SERVING,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
RECONCILE_ERRORS: Final = Counter(
    "modelserving_reconcile_errors", "Reconciliations that failed and were tried again.", _SERVING
)
RECONCILE_LATENCY: Final = Histogram(
    "modelserving_reconcile_latency_seconds",
    "From the first event that woke a reconciliation to its end.",
    _SERVING,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
API_REQUESTS: Final = Counter(
    "modelserving_api_requests",
    "Requests to the API server, but for watches. The code is 0 where there was no answer.",
    ("verb", "resource", "code"),
)
RESTARTS: Final = Counter(
    "modelserving_watch_restarts",
    "Times that all watches were begun anew, since one of them could not go on.",
)
EVENTS: Final = Counter(
    "modelserving_events",
    "What was told by Events: swaps, engines lost, and what was put back after somebody's hand.",
    (*_SERVING, "type", "reason"),
)
EVENTS_LOST: Final = Counter(
    "modelserving_events_lost", "Events that could not be posted: the log has them."
)
STATUS_WRITES: Final = Counter(
    "modelserving_status_writes", "Writes of a ModelServing's status.", _SERVING
)


def show(namespace: str, name: str, status: ModelServingStatus, waiting: Mapping[str, int]) -> None:
    """Set the gauges to how things stand; `waiting` counts held requests by model."""
    ready = status.condition(ConditionType.READY)
    READY.labels(namespace, name).set(ready is not None and ready.status is ConditionStatus.TRUE)
    for model in status.models:
        for state in ModelState:
            MODEL_STATE.labels(namespace, name, model.name, state.value).set(model.state is state)
        WAITING.labels(namespace, name, model.name).set(waiting.get(model.name, 0))


def show_arbitration(
    namespace: str,
    name: str,
    models: Iterable[str],
    oldest: Mapping[str, float],
    decision: Decision | None,
) -> None:
    """Set the gauges of who waits, since when, and what was decided; None: a swap goes on."""
    for model in models:
        OLDEST_WAIT.labels(namespace, name, model).set(oldest.get(model, 0.0))
        if decision is not None:
            LATE.labels(namespace, name, model).set(decision.late.get(model, 0.0))
    if decision is not None:
        for cause in Cause:
            DECISION.labels(namespace, name, cause.value).set(cause is decision.cause)


def record(
    namespace: str, name: str, before: ModelServingStatus, after: ModelServingStatus
) -> None:
    """Move the counters by what changed between two statuses."""
    for model in after.models:
        if model.failures > before.model(model.name).failures:
            LOAD_FAILURES.labels(namespace, name, model.name, model.reason or "").inc()
    for gone in {each.name for each in before.models} - {each.name for each in after.models}:
        for gauge in (MODEL_STATE, WAITING, OLDEST_WAIT, LATE):
            gauge.remove_by_labels({"namespace": namespace, "modelserving": name, "model": gone})
    ended = after.last_swap
    if ended is not None and (before.last_swap is None or before.last_swap.id != ended.id):
        _record_swap(namespace, name, ended)


def count_api_request(verb: str, resource: str, code: int) -> None:
    """Count a request to the API server; `verb` is Kubernetes' word, `code` 0 for no answer."""
    API_REQUESTS.labels(verb, resource, str(code)).inc()


def count_event(namespace: str, name: str, type_: str, reason: str) -> None:
    """Count something that was told by an Event, posted or not."""
    EVENTS.labels(namespace, name, type_, reason).inc()


def forget(namespace: str, name: str) -> None:
    """Drop the gauges of a ModelServing that is gone; counters stay, as counters do."""
    for gauge in (READY, MODEL_STATE, WAITING, OLDEST_WAIT, LATE, DECISION):
        gauge.remove_by_labels({"namespace": namespace, "modelserving": name})


def _record_swap(namespace: str, name: str, ended: LastSwap) -> None:
    to_model = ended.to_model or ""
    SWAPS.labels(
        namespace, name, ended.from_model or "", to_model, ended.outcome.value, ended.reason
    ).inc()
    if ended.outcome.value != "Succeeded":
        return
    SWAP_SECONDS.labels(namespace, name, to_model, "total").observe(ended.seconds)
    if ended.waited_seconds is not None:
        WAITED.labels(namespace, name, to_model).observe(ended.waited_seconds)
    for part, seconds in ended.parts.model_dump(exclude_none=True).items():
        SWAP_SECONDS.labels(namespace, name, to_model, part.removesuffix("_seconds")).observe(
            seconds
        )
