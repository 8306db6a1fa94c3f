"""The cluster as the tests see it: objects as JSON, and conditions awaited on a watch.

Reads through `kubectl proxy`; what a person would do by hand is done with kubectl itself.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import httpx

from modelserving_api.names import SERVING_LABEL
from tests.harness.cluster import Cluster

Object = dict[str, Any]

SERVINGS: Final = "/apis/modelserving.dev/v1alpha1/namespaces/{}/modelservings"
DEPLOYMENTS: Final = "/apis/apps/v1/namespaces/{}/deployments"
PODS: Final = "/api/v1/namespaces/{}/pods"
SERVICES: Final = "/api/v1/namespaces/{}/services"
EVENTS: Final = "/api/v1/namespaces/{}/events"
NODES: Final = "/api/v1/nodes"


@dataclass(frozen=True)
class World:
    """One namespace of the cluster."""

    cluster: Cluster
    namespace: str
    api: str
    """Base URL of the API server, as `kubectl proxy` serves it."""

    async def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl in the namespace. Raises CommandError with its message."""
        return await asyncio.to_thread(
            self.cluster.kubectl, "--namespace", self.namespace, *arguments, input=input
        )

    async def objects(self, path: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind, those with the labels only if a selector is given."""
        async with httpx.AsyncClient(base_url=self.api) as client:
            listed = await self._list(client, path, {"labelSelector": selector})
            return list(listed["items"])

    async def serving(self, name: str) -> Object:
        """Return a ModelServing."""
        async with httpx.AsyncClient(base_url=self.api) as client:
            answer = await client.get(f"{SERVINGS.format(self.namespace)}/{name}")
            answer.raise_for_status()
            body: Object = answer.json()
            return body

    async def engines(self, path: str, serving: str) -> list[Object]:
        """Return a ModelServing's Deployments, Services or Pods."""
        return await self.objects(path, f"{SERVING_LABEL}={serving}")

    async def until(
        self,
        path: str,
        condition: Callable[[list[Object]], bool],
        *,
        what: str,
        within: float = 60,
        selector: str = "",
        name: str | None = None,
    ) -> list[Object]:
        """Return the objects of a kind as soon as they meet a condition.

        `within` is in seconds. Raises AssertionError that says what did not come true, and how
        things stood.
        """
        seen: list[Object] = []
        query = {"labelSelector": selector}
        if name is not None:
            query["fieldSelector"] = f"metadata.name={name}"
        try:
            async with asyncio.timeout(within), aclosing(self._states(path, query)) as states:
                async for seen in states:
                    if condition(seen):
                        return seen
        except TimeoutError:
            pass
        raise AssertionError(f"not within {within:g} s: {what}. It was:\n{_shown(seen)}")

    async def until_serving(
        self, name: str, condition: Callable[[Object], bool], *, what: str, within: float = 60
    ) -> Object:
        """Return a ModelServing as soon as it meets a condition."""
        found = await self.until(
            SERVINGS,
            lambda items: bool(items) and condition(items[0]),
            what=what,
            within=within,
            name=name,
        )
        return found[0]

    async def changes(self, path: str, *, seconds: int) -> list[str]:
        """Watch a kind that long and return what changed, one line each."""
        where = path.format(self.namespace)
        async with httpx.AsyncClient(base_url=self.api, timeout=seconds + 30) as client:
            listed = await self._list(client, path, {})
            query = {
                "watch": "true",
                "resourceVersion": listed["metadata"]["resourceVersion"],
                "timeoutSeconds": str(seconds),
            }
            async with client.stream("GET", where, params=query) as response:
                return [
                    f"{event['type']} {event['object']['kind']} "
                    f"{event['object']['metadata']['name']} {_managers(event['object'])}"
                    async for event in _events(response)
                ]

    async def _states(self, path: str, query: dict[str, str]) -> AsyncGenerator[list[Object], None]:
        async with httpx.AsyncClient(base_url=self.api, timeout=None) as client:
            while True:
                listed = await self._list(client, path, query)
                items = {each["metadata"]["name"]: each for each in listed["items"]}
                yield list(items.values())
                version = listed["metadata"]["resourceVersion"]
                watch = {**query, "watch": "true", "resourceVersion": version}
                async with client.stream(
                    "GET", path.format(self.namespace), params=watch
                ) as response:
                    async for event in _events(response):
                        if event["type"] == "ERROR":
                            break  # an expired resourceVersion: list again
                        changed = event["object"]
                        items.pop(changed["metadata"]["name"], None)
                        if event["type"] != "DELETED":
                            items[changed["metadata"]["name"]] = changed
                        yield list(items.values())

    async def _list(self, client: httpx.AsyncClient, path: str, query: dict[str, str]) -> Object:
        answer = await client.get(path.format(self.namespace), params=query)
        answer.raise_for_status()
        body: Object = answer.json()
        return body


async def _events(response: httpx.Response) -> AsyncIterator[Object]:
    response.raise_for_status()
    async for line in response.aiter_lines():
        if line:
            yield json.loads(line)


def _managers(item: Object) -> str:
    managed = item["metadata"].get("managedFields", [])
    latest: Object = max(managed, key=lambda each: each.get("time", ""), default={})
    return f"by {latest.get('manager', '?')}"


def _shown(items: list[Object]) -> str:
    shown = [
        {
            "name": item["metadata"]["name"],
            "requests": item.get("spec", {}).get("requests"),
            "status": item.get("status"),
        }
        for item in items
    ]
    return json.dumps(shown, indent=1)[:6000]


def condition(serving: Object, type_: str) -> Object:
    """Return a condition of a ModelServing; empty when it was never written."""
    conditions = serving.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == type_), {})


def is_serving(serving: Object, model: str) -> bool:
    """Whether a model answers and nothing is going on."""
    status = serving.get("status", {})
    return (
        status.get("activeModel") == model
        and "currentSwap" not in status
        and "endpoint" in status
        and condition(serving, "Ready").get("status") == "True"
    )


def is_at_rest(serving: Object, model: str | None = None) -> bool:
    """Whether the model, or any, serves, nobody waits, and the operator has seen the spec."""
    status = serving.get("status", {})
    return (
        is_serving(serving, model or status.get("activeModel", "?"))
        and not serving["spec"].get("requests")
        and status["observedGeneration"] == serving["metadata"]["generation"]
    )


def model_status(serving: Object, name: str) -> Object:
    """Return the status of one model; empty when it was never written."""
    models = serving.get("status", {}).get("models", [])
    return next((each for each in models if each["name"] == name), {})
