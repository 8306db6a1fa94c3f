"""A swap of ours against the same two Deployments scaled by hand, in turns on one cluster.

The floor is what anyone pays who swaps on this cluster: scale one Deployment to 0, wait until its
Pod is gone, scale the other to 1, wait until its Pod is Ready. Ours is what a client waits: one
chat completion through the gateway for the model that is not loaded, from sending the request to
having the answer, with demand, drain and probe in it. The operator is stopped during the floor's
turns: both scale the very same Deployments.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import typer
from kubernetes import client, config, watch
from rich.console import Console
from rich.table import Table

from benchmarks import results
from tests.harness import cluster as clusters
from tests.harness import deploy
from tests.harness.engines import gpu_lock
from tests.harness.engines.engine_images import build_sim
from tests.harness.kubectl_server import KubectlServer
from tests.harness.progress import step
from tests.harness.servings import sim_modelserving

NAMESPACE: Final = "bench-swap"
SERVING: Final = "l4"
PAIR: Final = ("mistral", "coder")
OPERATOR: Final = "modelserving-operator"

_PATIENCE_SECONDS: Final = 120
"""For one swap, which takes about 9 s: whatever takes longer than this is broken, not slow."""


class Bench:
    """The cluster as the floor uses it: Deployments scaled and Pods watched, nothing else."""

    def __init__(self, cluster: clusters.Cluster) -> None:
        api = config.new_client_from_config(
            config_file=str(cluster.kubeconfig), context=cluster.context
        )
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)

    def scale(self, deployment: str, replicas: int) -> None:
        """Set a Deployment's replicas."""
        body = {"spec": {"replicas": replicas}}
        self._apps.patch_namespaced_deployment_scale(deployment, NAMESPACE, body)

    def await_pods(self, selector: str, settled: Callable[[list[Any]], bool]) -> None:
        """Wait on a watch until the Pods of a selector are as they should be."""
        listed = self._core.list_namespaced_pod(NAMESPACE, label_selector=selector)
        pods = {pod.metadata.uid: pod for pod in listed.items}
        if settled(list(pods.values())):
            return
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            NAMESPACE,
            label_selector=selector,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=_PATIENCE_SECONDS,
        )
        for event in events:
            pod = event["object"]
            pods[pod.metadata.uid] = pod
            if event["type"] == "DELETED":
                del pods[pod.metadata.uid]
            if settled(list(pods.values())):
                return
        raise TimeoutError(f"the Pods of {selector} did not settle in {_PATIENCE_SECONDS} s")

    def await_rest(self, model: str) -> dict[str, Any]:
        """Wait until the ModelServing serves a model and swaps nothing; return its status."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            serving = self._custom.get_namespaced_custom_object(
                "modelserving.dev", "v1alpha1", NAMESPACE, "modelservings", SERVING
            )
            status: dict[str, Any] = serving.get("status", {})
            waiting = serving["spec"].get("requests")
            if status.get("activeModel") == model and "currentSwap" not in status and not waiting:
                return status
            time.sleep(0.1)
        raise TimeoutError(f"{model} does not come to serve: {status}")


def selector(model: str) -> str:
    """Return the label selector of one model's Pods."""
    return f"modelserving.dev/serving={SERVING},modelserving.dev/model={model}"


def is_ready(pods: list[Any]) -> bool:
    """Return whether a Pod is Ready."""
    return any(
        condition.type == "Ready" and condition.status == "True"
        for pod in pods
        for condition in pod.status.conditions or []
    )


def swap_by_hand(bench: Bench, leaving: str, target: str) -> float:
    """Return the seconds that a swap takes at the least: the floor."""
    began = time.perf_counter()
    bench.scale(f"{SERVING}-{leaving}", 0)
    bench.await_pods(selector(leaving), lambda pods: not pods)
    bench.scale(f"{SERVING}-{target}", 1)
    bench.await_pods(selector(target), is_ready)
    return time.perf_counter() - began


def swap_by_request(http: httpx.Client, target: str) -> float:
    """Return the seconds that a client waits for the answer of a model that is not loaded."""
    question = {
        "model": target,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
    }
    began = time.perf_counter()
    http.post("/v1/chat/completions", json=question).raise_for_status()
    return time.perf_counter() - began


def measure(
    cluster: clusters.Cluster, rounds: int
) -> tuple[list[float], list[float], list[dict[str, Any]]]:
    """Return seconds of our swaps and of the floor's, and the parts of ours; two a round each."""
    bench = Bench(cluster)
    ours: list[float] = []
    floor: list[float] = []
    parts: list[dict[str, Any]] = []
    there_and_back = (PAIR, PAIR[::-1])
    for number in range(1, rounds + 1):
        with step(f"Round {number} of {rounds}: two swaps by request, two by hand"):
            with _gateway(cluster) as way, _client(way.url) as http:
                for leaving, target in there_and_back:
                    bench.await_rest(leaving)
                    ours.append(swap_by_request(http, target))
                    parts.append(bench.await_rest(target)["lastSwap"]["parts"])
            bench.scale(OPERATOR, 0)
            bench.await_pods("app.kubernetes.io/component=operator", lambda pods: not pods)
            for leaving, target in there_and_back:
                floor.append(swap_by_hand(bench, leaving, target))
            bench.scale(OPERATOR, 1)
            bench.await_pods("app.kubernetes.io/component=operator", is_ready)
    return ours, floor, parts


def _gateway(cluster: clusters.Cluster) -> KubectlServer:
    forward = ("port-forward", "service/modelserving-gateway", ":8080")
    return KubectlServer(cluster, "--namespace", NAMESPACE, *forward)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=_PATIENCE_SECONDS)


def show(ours: list[float], floor: list[float], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the table and return the figures."""
    figures = {
        "floor_s": round(statistics.median(floor), 3),
        "ours_s": round(statistics.median(ours), 3),
        "ratio": round(statistics.median(ours) / statistics.median(floor), 3),
    }
    table = Table(title=f"One swap, seconds, {len(ours)} each in turns (Recreate, sim engine)")
    for column in ("", "median", "least", "most"):
        table.add_column(column, justify="right")
    for name, values in (("scaled by hand (floor)", floor), ("ours, request to answer", ours)):
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{number:.2f}" for number in numbers))
    table.add_row("ratio of the medians", f"{figures['ratio']:.3f}")
    for part in ("drain", "stop", "schedule", "load", "probe"):
        values = [each.get(f"{part}Seconds", 0.0) for each in parts]
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(f"ours: {part}", *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    return figures


def main(rounds: int = typer.Option(3, min=3, help="Two swaps each a round.")) -> None:
    """Measure, print the table and write benchmarks/out/swap.json."""
    cluster = clusters.up()
    image = build_sim()
    cluster.load(image)
    gpu_lock.prepare(cluster.gpu_directory)
    deploy.remove_namespaces(cluster, deploy.own_namespaces(cluster))
    deploy.install(cluster, NAMESPACE, values={"gateway": {"replicas": 1}})
    deploy.apply(cluster, sim_modelserving(SERVING, image=image), namespace=NAMESPACE)
    try:
        ours, floor, parts = measure(cluster, rounds)
    finally:
        deploy.remove_namespaces(cluster, [NAMESPACE])
    results.write("swap", {"recreate": show(ours, floor, parts)})


if __name__ == "__main__":
    typer.run(main)
