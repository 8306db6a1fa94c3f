"""A swap of ours against the same two Deployments scaled by hand, in turns on one cluster.

The floor is what anyone pays who swaps on this cluster: scale one Deployment to 0, wait until its
Pod is gone, scale the other to 1, wait until its Pod is Ready, and ask it for one token. Ours is
what a client waits: one streamed request through the gateway for the model that is not loaded,
until its first token, with demand, drain and probe in it. The operator is stopped during the
floor's turns: both scale the very same Deployments.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import httpx
import typer

from benchmarks import results
from benchmarks.swap import report
from benchmarks.swap.report import Row
from benchmarks.swap.swaps import NAMESPACE, PATIENCE_SECONDS, Bench, Swap, by_hand, by_request
from benchmarks.swap.timeline import Timeline, parts
from tests.harness import cluster as clusters
from tests.harness import deploy
from tests.harness.engines import gpu_lock
from tests.harness.engines.engine_images import build_sim, build_vllm_cpu
from tests.harness.engines.tiny_models import ensure_models
from tests.harness.kubectl_server import KubectlServer
from tests.harness.progress import step
from tests.harness.servings import CODER, MISTRAL, sim_modelserving, vllm_cpu_modelserving

SERVING: Final = "l4"
PAIR: Final = ("mistral", "coder")
THERE_AND_BACK: Final = (PAIR, PAIR[::-1])

VALUES: Final[dict[str, Any]] = {
    "gateway": {"replicas": 1},
    # The floor asks the Pod through the API server, which a network that enforces policies refuses.
    "networkPolicy": {"enabled": False},
}


def measure(cluster: clusters.Cluster, rounds: int) -> Iterator[Row]:
    """Make two swaps of each way in each round."""
    bench = Bench(cluster, SERVING)
    timeline = Timeline(bench.api, NAMESPACE, SERVING)
    bench.await_rest(PAIR[0])

    def row(way: str, swap: Swap) -> Row:
        seen = timeline.since(swap.began)
        its = parts(seen, swap.leaving, swap.target, swap.began, swap.first_token)
        return Row(way, swap.leaving, swap.target, round(swap.seconds, 3), its)

    for number in range(1, rounds + 1):
        with step(f"Round {number} of {rounds}: two swaps by request, two by hand"):
            with _gateway(cluster) as way, _client(way.url) as http:
                for leaving, target in THERE_AND_BACK:
                    bench.await_rest(leaving)
                    yield row("request", by_request(http, leaving, target))
                    bench.await_rest(target)
            with ExitStack() as stack:
                bench.stop_operator()
                stack.callback(bench.start_operator)
                proxy = stack.enter_context(KubectlServer(cluster, "proxy", "--port=0"))
                for leaving, target in THERE_AND_BACK:
                    yield row("hand", by_hand(bench, proxy, leaving, target))


def _gateway(cluster: clusters.Cluster) -> KubectlServer:
    forward = ("port-forward", "service/modelserving-gateway", ":8080")
    return KubectlServer(cluster, "--namespace", NAMESPACE, *forward)


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=PATIENCE_SECONDS)


def compare(
    cluster: clusters.Cluster, engine: str, serving: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Measure one engine, print its table and return its figures."""
    gpu_lock.prepare(cluster.gpu_directory)
    deploy.remove_namespaces(cluster, deploy.own_namespaces(cluster))
    deploy.install(cluster, NAMESPACE, values=VALUES)
    deploy.apply(cluster, serving, namespace=NAMESPACE)
    try:
        rows = list(measure(cluster, rounds))
    finally:
        deploy.remove_namespaces(cluster, [NAMESPACE])
    found = report.figures(rows)
    report.show(engine, found, rows)
    return found


def main(
    rounds: int = typer.Option(5, min=0, help="Of the stand-in, two swaps each; 0 leaves it out."),
    vllm_rounds: int = typer.Option(2, min=0, help="The same of the real vLLM."),
) -> None:
    """Measure, print the tables and write benchmarks/out/swap.json."""
    cluster = clusters.up()
    found: dict[str, Any] = {}
    if rounds:
        image = build_sim()
        cluster.load(image)
        serving = sim_modelserving(SERVING, image=image)
        found["recreate"] = compare(cluster, "the stand-in engine", serving, rounds)
        # Now, and not only in the end: the real vLLM takes minutes.
        results.write("swap", found)
    if vllm_rounds:
        ensure_models(cluster.models)
        image = build_vllm_cpu()
        cluster.load(image)
        serving = vllm_cpu_modelserving(SERVING, image=image, models=(MISTRAL, CODER))
        found["vllm"] = compare(cluster, "the real vLLM on this CPU", serving, vllm_rounds)
        results.write("swap", found)


if __name__ == "__main__":
    typer.run(main)
