"""The gateway's Prometheus metrics: names, labels and buckets.

Only instruments; nothing is decided here. A label never holds what a client wrote: `model` is the
name of a declared model, or empty.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelserving_gateway.request_metrics import RequestMetrics

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_PREFIX: Final = "modelserving_gateway_"


class Queue(Protocol):
    """What is told of the queue of one model."""

    @property
    def count(self) -> int:
        """Requests that wait."""
        ...

    @property
    def size(self) -> int:
        """Bytes of their bodies."""
        ...


class Metrics:
    """All instruments, in a registry of their own."""

    def __init__(self, waiting: Callable[[], Mapping[str, Queue]]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Queues(waiting))
        self.requests = RequestMetrics(_PREFIX)
        self.registry.register(self.requests)
        self.limit = Gauge(
            f"{_PREFIX}limit",
            "What bounds this gateway, to be seen beside what it bounds.",
            ["bound"],
            registry=self.registry,
        )
        self.connections = Gauge(
            f"{_PREFIX}connections", "Connections of clients.", registry=self.registry
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
        self.answer_bytes = Gauge(
            f"{_PREFIX}answer_bytes",
            "Bytes of plain answers that are being collected before they are passed on.",
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

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, documentation: str, labels: list[str]) -> Counter:
        return Counter(_PREFIX + name, documentation, labels, registry=self.registry)


class _Queues(Collector):
    """Reads the queues when scraped, so that the gauges cannot drift from them."""

    def __init__(self, waiting: Callable[[], Mapping[str, Queue]]) -> None:
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        length = GaugeMetricFamily(f"{_PREFIX}queue_length", "Held requests.", labels=["model"])
        size = GaugeMetricFamily(f"{_PREFIX}queue_bytes", "Bytes of held bodies.", labels=["model"])
        for model, queue in self._waiting().items():
            length.add_metric([model], queue.count)
            size.add_metric([model], queue.size)
        return [length, size]
