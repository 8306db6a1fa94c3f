"""vLLM's metrics that an operator reads, under vLLM's names and labels. No HTTP here.

Names: https://docs.vllm.ai/en/latest/usage/metrics/
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LABELS = ("model_name", "engine")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one engine."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self.running = self._gauge("num_requests_running", "Requests in execution")
        self.waiting = self._gauge("num_requests_waiting", "Requests waiting for a slot")
        self.kv_cache_usage = self._gauge("kv_cache_usage_perc", "KV cache usage, 1 is full")
        self.prompt_tokens = self._counter("prompt_tokens", "Prefill tokens processed")
        self.generation_tokens = self._counter("generation_tokens", "Generation tokens processed")
        self.first_token_seconds = self._histogram("time_to_first_token_seconds", "First token")
        self.request_seconds = self._histogram("e2e_request_latency_seconds", "Whole request")
        self._finished = Counter(
            "vllm:request_success",
            "Requests that ended",
            ("model_name", "engine", "finished_reason"),
            registry=self._registry,
        )
        for reason in ("stop", "length", "abort"):
            self._finished.labels(*self._labels, reason)

    def finished(self, reason: str) -> None:
        self._finished.labels(*self._labels, reason).inc()

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry)
        return gauge.labels(*self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, _LABELS, registry=self._registry)
        return counter.labels(*self._labels)

    def _histogram(self, name: str, text: str) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", text, _LABELS, registry=self._registry, buckets=_SECONDS
        )
        return histogram.labels(*self._labels)
