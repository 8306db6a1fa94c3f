"""As much of a Kubernetes API server as the operator needs, and all the trouble that one can make.

Real sockets and the real protocol of list and watch: versions, a history that can be forgotten,
streams that end, fall silent or break. It keeps what it is given and runs no controllers.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

Object = dict[str, Any]
Answer = Callable[[web.Request], web.Response]

NAMESPACE: Final = "default"

_VERBS: Final = ["get", "list", "watch", "create", "patch", "delete"]

_GROUPS: Final = {
    "/api/v1": (
        ("pods", "Pod"),
        ("services", "Service"),
        ("events", "Event"),
        # Never asked for, but kopf waits until it is offered.
        ("namespaces", "Namespace"),
    ),
    "/apis/apps/v1": (("deployments", "Deployment"),),
    "/apis/modelserving.dev/v1alpha1": (("modelservings", "ModelServing"),),
}
_RESOURCES: Final = {plural: kind for served in _GROUPS.values() for plural, kind in served}


@dataclass
class Trouble:
    """What happens to the next requests that match, instead of what they ask for."""

    matches: Callable[[web.Request], bool]
    answer: Answer | None
    """None: no answer at all."""
    times: int
    met: int = 0


@dataclass(eq=False)
class _Stream:
    resource: str
    request: web.Request
    events: asyncio.Queue[Object | None] = field(default_factory=asyncio.Queue)
    silent: bool = False

    @property
    def heard(self) -> bool:
        """Whether somebody is at the other end and hears what is told."""
        return not self.silent and self.request.transport is not None


def status(code: int, message: str = "trouble", **headers: str) -> Answer:
    """Return an answer with a metav1.Status of that code."""
    body = {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.json_response(body, status=code, headers=named)


def error_event(code: int) -> Answer:
    """Return an answer that is a watch with nothing but an error in it."""
    event = {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "trouble"}}
    return lambda _: web.Response(text=json.dumps(event) + "\n", content_type="application/json")


class HostileServer:
    """One namespace of objects, who watches them, and what goes wrong."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {plural: {} for plural in _RESOURCES}
        self.requests: list[str] = []
        """What was asked, as `METHOD path`; watches as `WATCH path`."""
        self.at_once = 0
        self.most_at_once = 0
        """Calls that were being answered at the same time, watches not counted."""
        self.latency_seconds = 0.0
        self._version = 1
        self._history: list[tuple[int, str, Object]] = []
        self._forgotten = 0
        self._streams: set[_Stream] = set()
        self._troubles: list[Trouble] = []
        self._changed = asyncio.Condition()

    # What a test does

    def trouble(
        self,
        answer: Answer | None,
        *,
        times: int = 1,
        method: str = "GET",
        part: str = "",
        watch: bool | None = None,
    ) -> Trouble:
        """Let the next requests fail whose path matches `part`; None lets them hang."""

        def matches(request: web.Request) -> bool:
            watching = "watch" in request.query
            return (
                request.method == method
                and re.search(part, request.path) is not None
                and (watch is None or watching is watch)
            )

        made = Trouble(matches, answer, times)
        self._troubles.append(made)
        return made

    def put(self, resource: str, name: str, body: Object) -> Object:
        """Create an object, or replace it, and tell those who watch."""
        known = self.objects[resource].get(name)
        metadata = {
            "uid": known["metadata"]["uid"] if known else f"uid-{self._version}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **body.get("metadata", {}),
            "name": name,
            "namespace": NAMESPACE,
        }
        generation = known["metadata"].get("generation", 0) if known else 0
        changed = known is None or known.get("spec") != body.get("spec")
        metadata["generation"] = generation + 1 if changed else generation
        made = {**body, "kind": _RESOURCES[resource], "metadata": metadata}
        self._tell("MODIFIED" if known else "ADDED", resource, made)
        self.objects[resource][name] = made
        return made

    def remove(self, resource: str, name: str) -> None:
        """Delete an object, and tell those who watch."""
        gone = self.objects[resource].pop(name)
        self._tell("DELETED", resource, gone)

    def forget_history(self) -> None:
        """Let every watch that goes on from before begin with 410."""
        self._forgotten = self._version
        self._history.clear()

    def cut(self, resource: str = "") -> None:
        """End the watches, as a server that goes down does."""
        for stream in self._watching(resource):
            stream.events.put_nowait(None)

    def silence(self, resource: str = "") -> None:
        """Let the watches that there are tell nothing any more."""
        for stream in self._watching(resource):
            stream.silent = True

    def send(self, resource: str, event: Object) -> None:
        """Tell those who watch whatever the test likes."""
        for stream in self._watching(resource):
            stream.events.put_nowait(event)

    def _watching(self, resource: str) -> list[_Stream]:
        return [each for each in self._streams if resource in ("", each.resource)]

    def watches(self, resource: str) -> int:
        """Return how many watches of a resource are heard."""
        return sum(stream.heard for stream in self._watching(resource))

    async def until(self, condition: Callable[[], bool], what: str, within: float = 20) -> None:
        """Wait until a condition about what is kept here holds."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            shown = json.dumps(self.objects["modelservings"], indent=1)[-3000:]
            asked = "\n".join(self.requests[-30:])
            raise AssertionError(f"not within {within:g} s: {what}\n{shown}\n{asked}") from None

    # What the server does

    def _tell(self, type_: str, resource: str, changed: Object) -> None:
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        event = {"type": type_, "object": deepcopy(changed)}
        self._history.append((self._version, resource, event))
        for stream in self._watching(resource):
            stream.events.put_nowait(event)
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(notify())
        task.add_done_callback(lambda _: None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watching = "watch" in request.query
        self.requests.append(f"{'WATCH' if watching else request.method} {request.path}")
        for trouble in self._troubles:
            if trouble.met < trouble.times and trouble.matches(request):
                trouble.met += 1
                if trouble.answer is None:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(3600)
                    return web.Response(status=500)
                return trouble.answer(request)
        self._notify()
        if watching:
            return await self._watch(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.latency_seconds)
            return await self._answer(request)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        if "/namespaces/" not in request.path:
            return _discovery(request.path)
        resource, name, subresource = _route(request.path)
        kept = self.objects[resource]
        if request.method == "GET" and not name:
            return self._list(request, resource)
        if request.method == "POST":
            body = await request.json()
            made = body["metadata"].get("name") or f"made-{self._version}"
            return web.json_response(self.put(resource, made, body), status=201)
        if request.method == "PATCH":
            return await self._patch(request, resource, name, subresource)
        if name not in kept:
            return status(404, "not found")(request)
        if request.method == "DELETE":
            self.remove(resource, name)
            return web.json_response({"kind": "Status"})
        return web.json_response(kept[name])

    def _list(self, request: web.Request, resource: str) -> web.Response:
        wanted = request.query.get("labelSelector", "").partition("=")
        field_name = request.query.get("fieldSelector", "").partition("=")[2]
        items = [
            each
            for each in self.objects[resource].values()
            if _labelled(each, wanted[0], wanted[2])
            and field_name in ("", each["metadata"]["name"])
        ]
        return web.json_response(
            {
                "kind": f"{_RESOURCES[resource]}List",
                "metadata": {"resourceVersion": str(self._version)},
                "items": items,
            }
        )

    async def _patch(
        self, request: web.Request, resource: str, name: str, subresource: str
    ) -> web.Response:
        patch = json.loads(await request.text())
        kept = self.objects[resource]
        if request.content_type == "application/apply-patch+yaml":
            body = {**kept.get(name, {}), **patch}
            return web.json_response(self.put(resource, name, body))
        if name not in kept:
            return status(404, "not found")(request)
        body = deepcopy(kept[name])
        if request.content_type == "application/json-patch+json":
            for step in patch:
                if not _step(body, step):
                    return status(422, "the test failed")(request)
        else:
            _merge(body, patch)
        if subresource == "status":
            body = {**kept[name], "status": body["status"]}
        return web.json_response(self.put(resource, name, body))

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        resource, _, _ = _route(request.path)
        since = int(request.query.get("resourceVersion") or 0)
        if since < self._forgotten:
            return error_event(410)(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        stream = _Stream(resource, request)
        for version, of, past in self._history:
            if of == resource and version > since:
                stream.events.put_nowait(past)
        self._streams.add(stream)
        self._notify()
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 300))):
                while True:
                    event = await stream.events.get()
                    if event is None:
                        break
                    if not stream.silent:
                        await response.write(json.dumps(event).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._streams.discard(stream)
        return response


@asynccontextmanager
async def running(server: HostileServer) -> AsyncIterator[str]:
    """Serve on a port of this machine; yields the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server._handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.cut()
        await runner.cleanup()


def _discovery(path: str) -> web.Response:
    if path == "/api":
        return web.json_response({"versions": ["v1"]})
    if path == "/apis":
        groups = [group.split("/")[2:] for group in _GROUPS if group.startswith("/apis/")]
        return web.json_response(
            {
                "groups": [
                    {
                        "name": name,
                        "versions": [{"version": version}],
                        "preferredVersion": {"version": version},
                    }
                    for name, version in groups
                ]
            }
        )
    resources = [
        {
            "name": plural,
            "singularName": kind.lower(),
            "kind": kind,
            "namespaced": True,
            "verbs": _VERBS,
        }
        for plural, kind in _GROUPS.get(path, ())
    ]
    return web.json_response({"resources": resources}, status=200 if resources else 404)


def _route(path: str) -> tuple[str, str, str]:
    """Return the resource, the name and the subresource of a path."""
    parts = path.partition(f"/namespaces/{NAMESPACE}/")[2].split("/")
    resource, name, subresource = (*parts, "", "")[:3]
    return resource, name, subresource


def _labelled(item: Object, label: str, value: str) -> bool:
    labels = item["metadata"].get("labels", {})
    return not label or (label in labels and value in ("", labels[label]))


def _step(body: Any, step: Object) -> bool:
    """Do one step of a JSON patch; return False where it is a test that fails."""
    *way, last = [part.replace("~1", "/") for part in step["path"].split("/")[1:]]
    for part in way:
        body = body[int(part) if isinstance(body, list) else part]
    key: Any = int(last) if isinstance(body, list) and last != "-" else last
    match step["op"]:
        case "test":
            return bool(body[key] == step["value"])
        case "remove":
            del body[key]
        case _:
            body[key] = step["value"]
    return True


def _merge(body: Object, patch: Object) -> None:
    for key, value in patch.items():
        if value is None:
            body.pop(key, None)
        elif isinstance(value, dict) and isinstance(body.get(key), dict):
            _merge(body[key], value)
        else:
            body[key] = value
