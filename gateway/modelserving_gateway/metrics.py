"""The gateway's Prometheus metrics: names, labels and buckets.

Only instruments; nothing is decided here. A label never holds what a client wrote: `model` is the
name of a declared model, or empty.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelserving_gateway.queueing import Waiting

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "modelserving_gateway_"

_HELD_BUCKETS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
"""Seconds: a swap takes 10 s for a tiny model, minutes for one from a cold network disk."""

_FIRST_BYTE_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
"""Seconds: a prefill takes tens of milliseconds, a whole completion without streaming minutes."""


class Metrics:
    """All instruments, in a registry of their own."""

    def __init__(self, waiting: Callable[[], Mapping[str, Waiting]]) -> None:
        self.registry = CollectorRegistry()
        self._of_model: dict[str, ModelMetrics] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(_Queues(waiting))
        self.requests = self._counter(
            "requests_total", "Answered requests; 499 is a client that left.", ["model", "status"]
        )
        self.held_seconds = self._histogram(
            "held_seconds", "How long held requests waited for their model.", _HELD_BUCKETS
        )
        self.first_byte_seconds = self._histogram(
            "time_to_first_byte_seconds",
            "From forwarding a request to the first byte of the body of its answer.",
            _FIRST_BYTE_BUCKETS,
        )
        self.in_flight = Gauge(
            f"{_PREFIX}requests_in_flight",
            "Requests that an engine works on.",
            ["model"],
            registry=self.registry,
        )
        self.limit = Gauge(
            f"{_PREFIX}limit",
            "What bounds this gateway, to be seen beside what it bounds.",
            ["bound"],
            registry=self.registry,
        )
        tasks = Gauge(
            f"{_PREFIX}tasks", "Tasks; it grows where one is leaked.", registry=self.registry
        )
        tasks.set_function(lambda: len(asyncio.all_tasks()))
        self.body_bytes = Gauge(
            f"{_PREFIX}body_bytes",
            "Bytes of request bodies in memory: being read, held or forwarded.",
            registry=self.registry,
        )
        self.demand_writes = self._counter(
            "demand_writes_total",
            "Writes of this gateway's entry in spec.requests.",
            ["modelserving", "outcome"],
        )
        self.swap_requests = self._counter(
            "swap_requests_total",
            "Times that demand for a model was published anew.",
            ["modelserving", "model"],
        )
        self.retries = self._counter(
            "retries_total", "Requests put back because their engine was lost.", ["model"]
        )
        self.fallbacks = self._counter(
            "fallbacks_total",
            "Requests answered by another model, since theirs was not active.",
            ["model", "answered_by"],
        )
        self.keys_invalid = Gauge(
            f"{_PREFIX}keys_invalid",
            "1 while the file of API keys cannot be read; the last good ones stay in force.",
            registry=self.registry,
        )
        self.upstream_failures = self._counter(
            "upstream_failures_total", "Failures of engines, by kind.", ["model", "kind"]
        )
        self.rejected = self._counter(
            "rejected_total", "Requests answered with an error of the gateway.", ["reason"]
        )
        self.watch_failures = self._counter(
            "watch_failures_total", "Times that reading the ModelServings failed.", []
        )

    def of_model(self, model: str) -> "ModelMetrics":
        """Return the instruments of a model; asking prometheus_client each time costs more."""
        if (found := self._of_model.get(model)) is None:
            found = self._of_model[model] = ModelMetrics(self, model)
        return found

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, labels: list[str]) -> Counter:
        return Counter(_PREFIX + name, documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            _PREFIX + name, documentation, ["model"], buckets=buckets, registry=self.registry
        )


class ModelMetrics:
    """What every request of one model counts."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._by_status: dict[int, Counter] = {}

    @cached_property
    def in_flight(self) -> Gauge:
        """Requests that an engine works on."""
        return self._metrics.in_flight.labels(self._model)

    @cached_property
    def held_seconds(self) -> Histogram:
        """How long held requests waited."""
        return self._metrics.held_seconds.labels(self._model)

    @cached_property
    def first_byte_seconds(self) -> Histogram:
        """From forwarding to the first byte of the answer's body."""
        return self._metrics.first_byte_seconds.labels(self._model)

    def answered(self, status: int) -> None:
        """Count a request by its status."""
        if (counter := self._by_status.get(status)) is None:
            counter = self._metrics.requests.labels(self._model, str(status))
            self._by_status[status] = counter
        counter.inc()


class _Queues(Collector):
    """Reads the queues when scraped, so that the gauges cannot drift from them."""

    def __init__(self, waiting: Callable[[], Mapping[str, Waiting]]) -> None:
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        length = GaugeMetricFamily(f"{_PREFIX}queue_length", "Held requests.", labels=["model"])
        size = GaugeMetricFamily(f"{_PREFIX}queue_bytes", "Bytes of held bodies.", labels=["model"])
        for model, queue in self._waiting().items():
            length.add_metric([model], queue.count)
            size.add_metric([model], queue.size)
        return [length, size]
