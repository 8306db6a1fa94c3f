"""What every request counts, as plain numbers that become Prometheus' metrics when scraped.

On the path of each request: prometheus_client's own instruments lock and check at every step, which
costs ten times as much. Lives in one thread, the event loop's.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_HELD_BUCKETS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
"""Seconds: a swap takes 10 s for a tiny model, minutes for one from a cold network disk."""

_FIRST_BYTE_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
"""Seconds: a prefill takes tens of milliseconds, a whole completion without streaming minutes."""


class Durations:
    """A histogram of seconds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        """Add what was counted; nothing where nothing was."""
        cumulated = list(accumulate(self._counts))
        if not cumulated[-1]:
            return
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, cumulated, strict=True)), self._sum)


class ModelRequests:
    """The requests of one model."""

    __slots__ = ("by_status", "first_byte_seconds", "held_seconds", "in_flight")

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.in_flight = 0
        self.held_seconds = Durations(_HELD_BUCKETS)
        self.first_byte_seconds = Durations(_FIRST_BYTE_BUCKETS)

    def answered(self, status: int) -> None:
        """Count a request by its status."""
        self.by_status[status] = self.by_status.get(status, 0) + 1


class RequestMetrics(Collector):
    """All requests, by model."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._models: dict[str, ModelRequests] = {}

    def of(self, model: str) -> ModelRequests:
        """Return what is counted of a model."""
        if (found := self._models.get(model)) is None:
            found = self._models[model] = ModelRequests()
        return found

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        requests = CounterMetricFamily(
            f"{self._prefix}requests",
            "Answered requests; 499 is a client that left.",
            labels=["model", "status"],
        )
        in_flight = GaugeMetricFamily(
            f"{self._prefix}requests_in_flight",
            "Requests that an engine works on.",
            labels=["model"],
        )
        held = HistogramMetricFamily(
            f"{self._prefix}held_seconds",
            "How long held requests waited for their model.",
            labels=["model"],
        )
        first_byte = HistogramMetricFamily(
            f"{self._prefix}time_to_first_byte_seconds",
            "From forwarding a request to the first byte of the body of its answer.",
            labels=["model"],
        )
        for model, counted in self._models.items():
            for status, count in counted.by_status.items():
                requests.add_metric([model, str(status)], count)
            in_flight.add_metric([model], counted.in_flight)
            counted.held_seconds.add_to(held, [model])
            counted.first_byte_seconds.add_to(first_byte, [model])
        return [requests, in_flight, held, first_byte]
