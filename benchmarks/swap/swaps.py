"""Two ways to swap: a client's request through the gateway, and two Deployments scaled by hand.

Both end with the first token of the model that was not loaded.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
from kubernetes import client, config, watch

from tests.harness import cluster as clusters
from tests.harness.kubectl_server import KubectlServer

NAMESPACE: Final = "bench-swap"
OPERATOR: Final = "modelserving-operator"

PATIENCE_SECONDS: Final = 400
"""For one swap: 9 s of the stand-in, a minute of the real vLLM, several on a busy machine."""


@dataclass(frozen=True)
class Swap:
    """One swap that has been made, by this machine's clock."""

    leaving: str
    target: str
    began: float
    first_token: float

    @property
    def seconds(self) -> float:
        """From the wish to the first token."""
        return self.first_token - self.began


class Bench:
    """The cluster as the floor uses it: Deployments scaled and Pods watched, nothing else."""

    def __init__(self, cluster: clusters.Cluster, serving: str) -> None:
        self.api = config.new_client_from_config(
            config_file=str(cluster.kubeconfig), context=cluster.context
        )
        self.serving = serving
        self._apps = client.AppsV1Api(self.api)
        self._core = client.CoreV1Api(self.api)
        self._custom = client.CustomObjectsApi(self.api)

    def scale(self, deployment: str, replicas: int) -> None:
        """Set a Deployment's replicas."""
        body = {"spec": {"replicas": replicas}}
        self._apps.patch_namespaced_deployment_scale(deployment, NAMESPACE, body)

    def await_pods(self, selector: str, settled: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait on a watch until the Pods of a selector are as they should be."""
        listed = self._core.list_namespaced_pod(NAMESPACE, label_selector=selector)
        pods = {pod.metadata.uid: pod for pod in listed.items}
        if settled(list(pods.values())):
            return list(pods.values())
        events = watch.Watch().stream(
            self._core.list_namespaced_pod,
            NAMESPACE,
            label_selector=selector,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=PATIENCE_SECONDS,
        )
        for event in events:
            pod = event["object"]
            pods[pod.metadata.uid] = pod
            if event["type"] == "DELETED":
                del pods[pod.metadata.uid]
            if settled(list(pods.values())):
                return list(pods.values())
        raise TimeoutError(f"the Pods of {selector} did not settle in {PATIENCE_SECONDS} s")

    def await_rest(self, model: str) -> dict[str, Any]:
        """Wait until the ModelServing serves a model and swaps nothing; return its status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            serving = self._custom.get_namespaced_custom_object(
                "modelserving.dev", "v1alpha1", NAMESPACE, "modelservings", self.serving
            )
            status: dict[str, Any] = serving.get("status", {})
            waiting = serving["spec"].get("requests")
            if status.get("activeModel") == model and "currentSwap" not in status and not waiting:
                return status
            time.sleep(0.1)
        raise TimeoutError(f"{model} does not come to serve: {status}")

    def pods_of(self, model: str) -> str:
        """Return the label selector of one model's Pods."""
        return f"modelserving.dev/serving={self.serving},modelserving.dev/model={model}"

    def stop_operator(self) -> None:
        """Both scale the very same Deployments: only one may."""
        self.scale(OPERATOR, 0)
        self.await_pods("app.kubernetes.io/component=operator", lambda pods: not pods)

    def start_operator(self) -> None:
        """Start it again, and wait until it runs."""
        self.scale(OPERATOR, 1)
        self.await_pods("app.kubernetes.io/component=operator", is_ready)


def is_ready(pods: list[Any]) -> bool:
    """Return whether a Pod is Ready."""
    return any(
        condition.type == "Ready" and condition.status == "True"
        for pod in pods
        for condition in pod.status.conditions or []
    )


def by_hand(bench: Bench, proxy: KubectlServer, leaving: str, target: str) -> Swap:
    """Swap as anyone must at the least: no drain, no probe, no queue, one completion.

    The completion is asked of the Pod through the API server, the one way that costs no time to
    open; that takes some 20 ms.
    """
    with httpx.Client(base_url=proxy.url, timeout=PATIENCE_SECONDS) as http:
        began = time.time()
        bench.scale(f"{bench.serving}-{leaving}", 0)
        bench.await_pods(bench.pods_of(leaving), lambda pods: not pods)
        bench.scale(f"{bench.serving}-{target}", 1)
        (pod,) = bench.await_pods(bench.pods_of(target), is_ready)
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.metadata.name}:8000/proxy"
        http.post(f"{path}/v1/chat/completions", json=_question(target)).raise_for_status()
        return Swap(leaving, target, began, time.time())


def by_request(http: httpx.Client, leaving: str, target: str) -> Swap:
    """Swap as a client does: one streamed request, until its first token is here."""
    began = time.time()
    body = {**_question(target), "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if _has_token(line):
                return Swap(leaving, target, began, time.time())
    raise RuntimeError(f"the answer of {target} has no token")


def _question(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def _has_token(line: str) -> bool:
    data = line.removeprefix("data: ")
    if data in (line, "[DONE]"):
        return False
    event = json.loads(data)
    if "error" in event:
        raise RuntimeError(f"the answer ended with {event['error']}")
    return any(choice.get("delta", {}).get("content") for choice in event.get("choices", []))
