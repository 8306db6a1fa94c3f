"""When what happened in a swap, by watches of the API server; and whose time each part is.

`parts` is pure. All moments are of this machine's clock, so that no two clocks are compared.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubernetes import client, watch

SERVING_LABEL: Final = "modelserving.dev/serving"
MODEL_LABEL: Final = "modelserving.dev/model"

_LONGEST_WATCH_SECONDS: Final = 3600
_FIRST_LIST_SECONDS: Final = 30


@dataclass(frozen=True)
class Change:
    """Something that a watch has told."""

    moment: float
    """Seconds of this machine's clock."""
    kind: str
    """`Pod` or `Deployment`."""
    model: str
    deleted: bool
    ready: bool = False
    replicas: int = 0


class Timeline:
    """Watches the Pods and Deployments of one ModelServing for as long as the process lives."""

    def __init__(self, api: client.ApiClient, namespace: str, serving: str) -> None:
        self._changes: list[Change] = []
        core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
        selector = f"{SERVING_LABEL}={serving}"
        listed = [
            self._start(core.list_namespaced_pod, _of_pod, namespace, selector),
            self._start(apps.list_namespaced_deployment, _of_deployment, namespace, selector),
        ]
        for each in listed:
            if not each.wait(_FIRST_LIST_SECONDS):
                raise TimeoutError("the API server does not list what is to be watched")

    def _start(
        self,
        call: Callable[..., Any],
        read: Callable[[Any, bool, float], Change],
        namespace: str,
        selector: str,
    ) -> threading.Event:
        listed = threading.Event()

        def run() -> None:
            while True:
                version = call(namespace, label_selector=selector).metadata.resource_version
                listed.set()
                for event in watch.Watch().stream(
                    call,
                    namespace,
                    label_selector=selector,
                    resource_version=version,
                    timeout_seconds=_LONGEST_WATCH_SECONDS,
                ):
                    now = time.time()
                    self._changes.append(read(event["object"], event["type"] == "DELETED", now))

        threading.Thread(target=run, daemon=True).start()
        return listed

    def since(self, moment: float) -> list[Change]:
        """Return what was told from then on."""
        return [each for each in list(self._changes) if each.moment >= moment]


def _of_pod(pod: Any, deleted: bool, now: float) -> Change:
    ready = any(
        each.type == "Ready" and each.status == "True" for each in pod.status.conditions or []
    )
    return Change(now, "Pod", pod.metadata.labels[MODEL_LABEL], deleted, ready=ready)


def _of_deployment(deployment: Any, deleted: bool, now: float) -> Change:
    model, replicas = deployment.metadata.labels[MODEL_LABEL], deployment.spec.replicas
    return Change(now, "Deployment", model, deleted, replicas=replicas)


def parts(
    changes: Iterable[Change], leaving: str, target: str, began: float, answered: float
) -> Mapping[str, float]:
    """Return the seconds of each part of a swap; they add up to its whole.

    `notice`, `schedule` and `answer` are what whoever swaps adds: from the wish to the scale-down,
    from the last Pod's end to the scale-up, from the new Pod being Ready to the first token. `stop`
    and `start` are the cluster's and the engine's. Raises ValueError that names what was not seen.
    """
    seen = sorted(changes, key=lambda each: each.moment)

    def first(what: str, after: float, condition: Callable[[Change], bool]) -> float:
        for each in seen:
            if each.moment >= after and condition(each):
                return each.moment
        raise ValueError(f"{leaving} → {target}: {what} was never seen")

    down = first(
        "the scale-down",
        began,
        lambda each: (each.kind, each.model, each.replicas) == ("Deployment", leaving, 0),
    )
    gone = first(
        "the Pod's end",
        down,
        lambda each: (each.kind, each.model, each.deleted) == ("Pod", leaving, True),
    )
    up = first(
        "the scale-up",
        gone,
        lambda each: (each.kind, each.model, each.replicas) == ("Deployment", target, 1),
    )
    ready = first(
        "the Pod being Ready",
        up,
        lambda each: (each.kind, each.model, each.ready) == ("Pod", target, True),
    )
    marks = (began, down, gone, up, ready, answered)
    names = ("notice", "stop", "schedule", "start", "answer")
    return {
        name: round(end - begin, 3)
        for name, begin, end in zip(names, marks[:-1], marks[1:], strict=True)
    }
