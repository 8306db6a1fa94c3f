"""One operator with a hundred ModelServings of ten models each, beside one with a single one.

Installed by the chart in a namespace of its own on the harness's cluster. Nothing is loaded: there
is no default model, and no node fits, so what is measured is the operator and not an engine.

- first start: from the wish for a Pod until every ModelServing has been reconciled, with a
  Deployment and a Service made for each model
- restart: the same when all of that is there already, and Kubernetes is done with it
- memory: of the process and of its container, after that
- at rest: its CPU time, its reads and its writes in a minute in which nothing happens
- reaction: from a pin (spec.activeModel) on one ModelServing until a watch tells of its swap
"""

import json
import random
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from tests.harness import cluster as clusters
from tests.harness import deploy
from tests.harness.kubectl_server import KubectlServer
from tests.harness.progress import step

OPERATOR: Final = "modelserving-operator"
MODELS: Final = tuple(f"model-{number}" for number in range(10))

REST_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 900.0
"""For a thousand Deployments on two busy cores; a tenth of that on idle ones."""

WRITE_VERBS: Final = frozenset({"create", "patch", "apply", "delete"})

_SERVINGS: Final = "/apis/modelserving.dev/v1alpha1/namespaces/{}/modelservings"
_DEPLOYMENTS: Final = "/apis/apps/v1/namespaces/{}/deployments"
_REPLICASETS: Final = "/apis/apps/v1/namespaces/{}/replicasets"
_PODS: Final = "/api/v1/namespaces/{}/pods"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}


@dataclass(frozen=True)
class Row:
    """What one operator with so many ModelServings does."""

    modelservings: int
    models: int
    first_start_s: float
    restart_s: float
    process_memory_mib: float
    container_memory_mib: float
    cpu_at_rest_cores: float
    reads_at_rest_per_s: float
    writes_at_rest: int
    reaction_p50_s: float
    reaction_p95_s: float
    reaction_max_s: float
    reactions: int


class Bench:
    """One namespace with an operator, seen through the API server."""

    def __init__(self, cluster: clusters.Cluster, namespace: str, http: httpx.Client) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._http = http

    def make(self, names: list[str]) -> None:
        """Create ModelServings, several at a time."""

        def create(name: str) -> None:
            answer = self._http.post(_SERVINGS.format(self._namespace), json=manifest(name))
            answer.raise_for_status()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(create, names))

    def start(self) -> None:
        """Ask for the operator's Pod."""
        self._scale(1)

    def stop(self) -> None:
        """End the operator and wait until it is gone."""
        self._scale(0)
        self._until(lambda: not self._pods(), "the operator has ended")

    def reconciled(self, count: int) -> None:
        """Wait until the operator says that it has reconciled so many, each without an error."""

        def done() -> bool:
            try:
                page = self.page("status").json()["modelservings"]
            except (httpx.HTTPError, LookupError, ValueError):
                return False
            return sum(each["error"] is None for each in page) >= count

        self._until(done, f"{count} ModelServings are reconciled")

    def made(self, deployments: int) -> None:
        """Wait until there are so many Deployments."""
        self._until_there(_DEPLOYMENTS, deployments)

    def digested(self, deployments: int) -> None:
        """Wait until Kubernetes' own controllers have made what they make of so many Deployments.

        Until then the operator's own Deployment waits behind all of them for its Pod.
        """
        self._until_there(_REPLICASETS, deployments)

    def _until_there(self, path: str, count: int) -> None:
        def done() -> bool:
            listed = self._http.get(
                path.format(self._namespace),
                params={"labelSelector": "modelserving.dev/serving"},
                headers={"Accept": _METADATA_ONLY},
            )
            return len(listed.json()["items"]) >= count

        self._until(done, f"there are {count} {path.rpartition('/')[2]}", pause=1.0)

    def page(self, path: str) -> httpx.Response:
        """Ask the operator's own page, through the API server."""
        (pod,) = self._pods()
        where = f"{_PODS.format(self._namespace)}/{pod['metadata']['name']}:8888/proxy/{path}"
        return self._http.get(where).raise_for_status()

    def metrics(self) -> "Metrics":
        """Return the operator's metrics."""
        return Metrics(self.page("metrics").text)

    def container_memory(self) -> float:
        """Return the bytes that the kubelet counts for the operator's container."""
        summary = self._http.get(f"/api/v1/nodes/{self._cluster.worker}/proxy/stats/summary")
        for pod in summary.raise_for_status().json()["pods"]:
            reference = pod["podRef"]
            if reference["namespace"] == self._namespace and OPERATOR in reference["name"]:
                return float(pod["containers"][0]["memory"]["workingSetBytes"])
        return float("nan")

    def pin(self, name: str, model: str) -> None:
        """Let a person want a model."""
        self._http.patch(
            f"{_SERVINGS.format(self._namespace)}/{name}",
            content=json.dumps({"spec": {"activeModel": model}}),
            headers=_MERGE,
        ).raise_for_status()

    @contextmanager
    def watching(self) -> Iterator["SwapWatch"]:
        """Watch the ModelServings for swaps that begin."""
        watch = SwapWatch(str(self._http.base_url), _SERVINGS.format(self._namespace))
        try:
            yield watch
        finally:
            watch.close()

    def _scale(self, replicas: int) -> None:
        self._http.patch(
            f"{_DEPLOYMENTS.format(self._namespace)}/{OPERATOR}",
            content=json.dumps({"spec": {"replicas": replicas}}),
            headers=_MERGE,
        ).raise_for_status()

    def _pods(self) -> list[dict[str, Any]]:
        listed = self._http.get(
            _PODS.format(self._namespace),
            params={"labelSelector": "app.kubernetes.io/component=operator"},
        )
        return list(listed.raise_for_status().json()["items"])

    def _until(self, condition: Callable[[], bool], what: str, pause: float = 0.1) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_SECONDS:g} s: {what}")
            time.sleep(pause)


class Metrics:
    """Numbers out of the Prometheus text format."""

    def __init__(self, text: str) -> None:
        self._lines = [line for line in text.splitlines() if not line.startswith("#")]

    def value(self, name: str) -> float:
        """Return a metric without labels."""
        return next(float(line.split()[1]) for line in self._lines if line.startswith(f"{name} "))

    def requests(self, verbs: Callable[[str], bool]) -> int:
        """Return how many requests of ours the operator has made with such a verb."""
        total = 0.0
        for line in self._lines:
            verb = re.search(r'verb="(\w+)"', line)
            if line.startswith("modelserving_api_requests_total") and verb and verbs(verb[1]):
                total += float(line.split()[-1])
        return int(total)


class SwapWatch:
    """When each ModelServing's swap to a model was first told, by this machine's clock."""

    def __init__(self, url: str, path: str) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._changed = threading.Condition()
        self._client = httpx.Client(base_url=url, timeout=3600)
        self._version = self._client.get(path).json()["metadata"]["resourceVersion"]
        self._path = path
        threading.Thread(target=self._follow, daemon=True).start()

    def told(self, name: str, model: str) -> float:
        """Wait until the swap is told and return when that was."""
        with self._changed:
            if not self._changed.wait_for(lambda: (name, model) in self._told, timeout=60):
                raise TimeoutError(f"no swap of {name} to {model} within a minute")
            return self._told[name, model]

    def close(self) -> None:
        """End the watch."""
        self._client.close()

    def _follow(self) -> None:
        query = {"watch": "true", "resourceVersion": self._version}
        try:
            with self._client.stream("GET", self._path, params=query) as response:
                for line in response.iter_lines():
                    self._note(json.loads(line)["object"])
        except (httpx.HTTPError, RuntimeError, OSError):
            return  # closed

    def _note(self, serving: dict[str, Any]) -> None:
        swap = serving.get("status", {}).get("currentSwap")
        if swap is not None:
            with self._changed:
                key = (serving["metadata"]["name"], swap.get("to", ""))
                self._told.setdefault(key, time.monotonic())
                self._changed.notify_all()


def manifest(name: str) -> dict[str, Any]:
    """Return a ModelServing of ten models that no node can run."""
    return {
        "apiVersion": "modelserving.dev/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": name},
        "spec": {
            "node": {"nodeSelector": {"bench": "nobody-has-this"}, "gpuMemory": "24Gi"},
            "engine": {"image": "engine.invalid/none"},
            "models": [
                {"name": model, "source": {"hub": {"id": f"bench/{model}"}}, "gpuMemory": "7Gi"}
                for model in MODELS
            ],
        },
    }


def measure(
    cluster: clusters.Cluster,
    count: int,
    reactions: int,
    rest: float,
    done: Callable[[Row], None],
) -> None:
    """Measure an operator with so many ModelServings, in a namespace of its own.

    `done` gets the figures before the namespace is removed, which takes its time.
    """
    namespace = f"bench-operator-{count}"
    names = [f"serving-{number}" for number in range(count)]
    deploy.install(cluster, namespace, values={"gateway": {"replicas": 1}})
    try:
        with (
            KubectlServer(cluster, "proxy", "--port=0") as proxy,
            httpx.Client(base_url=proxy.url, timeout=60) as http,
        ):
            bench = Bench(cluster, namespace, http)
            bench.stop()
            with step(f"Make {count} ModelServings"):
                bench.make(names)
            with step("First start"):
                first = _seconds(bench.start, lambda: _all_made(bench, count))
            with step("Wait for Kubernetes' own controllers"):
                bench.digested(count * len(MODELS))
            bench.stop()
            with step("Restart"):
                again = _seconds(bench.start, lambda: bench.reconciled(count))
            with step(f"At rest for {rest:g} s"):
                rest_figures = _at_rest(bench, rest)
            with step(f"React {reactions} times"):
                seconds = sorted(_reactions(bench, names, reactions))
            done(
                Row(
                    modelservings=count,
                    models=count * len(MODELS),
                    first_start_s=round(first, 2),
                    restart_s=round(again, 2),
                    **rest_figures,
                    reaction_p50_s=round(statistics.median(seconds), 3),
                    reaction_p95_s=round(seconds[int(0.95 * (len(seconds) - 1))], 3),
                    reaction_max_s=round(seconds[-1], 3),
                    reactions=len(seconds),
                )
            )
    finally:
        deploy.remove_namespaces(cluster, [namespace], wait=False)


def _all_made(bench: Bench, count: int) -> None:
    bench.reconciled(count)
    bench.made(count * len(MODELS))


def _seconds(begin: Callable[[], None], end: Callable[[], None]) -> float:
    began = time.monotonic()
    begin()
    end()
    return time.monotonic() - began


def _at_rest(bench: Bench, seconds: float) -> dict[str, Any]:
    time.sleep(15)  # the kubelet counts a container's memory every ten seconds
    before, began = bench.metrics(), time.monotonic()
    time.sleep(seconds)
    after, lasted = bench.metrics(), time.monotonic() - began

    def requests(verbs: Callable[[str], bool]) -> int:
        return after.requests(verbs) - before.requests(verbs)

    cpu = after.value("process_cpu_seconds_total") - before.value("process_cpu_seconds_total")
    memory = after.value("process_resident_memory_bytes")
    return {
        "process_memory_mib": round(memory / 2**20, 1),
        "container_memory_mib": round(bench.container_memory() / 2**20, 1),
        "cpu_at_rest_cores": round(cpu / lasted, 4),
        "reads_at_rest_per_s": round(requests(lambda verb: verb not in WRITE_VERBS) / lasted, 2),
        "writes_at_rest": requests(lambda verb: verb in WRITE_VERBS),
    }


def _reactions(bench: Bench, names: list[str], count: int) -> Iterator[float]:
    """Pin one ModelServing after the other; one that swaps already swaps to another model then."""
    chosen = random.Random(7)
    order = [chosen.sample(names, len(names)) for _ in range(-(-count // len(names)))]
    turns = [name for each in order for name in each][:count]
    model = dict.fromkeys(names, 0)
    with bench.watching() as watch:
        for name in turns:
            wanted = MODELS[model[name] % len(MODELS)]
            model[name] += 1
            began = time.monotonic()
            bench.pin(name, wanted)
            yield watch.told(name, wanted) - began
            # One at a time: what is measured is a wish, not a queue of wishes.
            time.sleep(0.5)


def show(rows: list[Row]) -> None:
    """Print the figures, a column for each operator."""
    table = Table(title="One operator")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row.modelservings} × {len(MODELS)} models", justify="right")
    for name in asdict(rows[0]):
        if name not in ("modelservings", "models"):
            table.add_row(name, *(f"{asdict(row)[name]:g}" for row in rows))
    Console().print(table)


def main(
    modelservings: Annotated[int, typer.Option(help="How many beside the single one.")] = 100,
    reactions: Annotated[int, typer.Option(help="How many pins are timed.")] = 50,
    rest_seconds: Annotated[float, typer.Option(help="How long nothing happens.")] = REST_SECONDS,
) -> None:
    """Measure one operator with a single ModelServing, then one with many."""
    cluster = clusters.find()
    rows: list[Row] = []

    def done(row: Row) -> None:
        rows.append(row)
        results.write("operator", {"rows": [asdict(each) for each in rows]})

    measure(cluster, 1, min(reactions, len(MODELS)), rest_seconds, done)
    measure(cluster, modelservings, reactions, rest_seconds, done)
    show(rows)


if __name__ == "__main__":
    typer.run(main)
