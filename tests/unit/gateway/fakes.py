"""A cluster and an engine for the gateway's tests: the cluster at the protocol's seam, the engine
a real HTTP server that can be told to stream, hang, die or refuse.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from modelserving_gateway.cluster.protocol import (
    Change,
    ChangeType,
    ClusterError,
    ExpiredError,
    Listing,
)


def serving(
    name: str = "l4",
    models: Mapping[str, list[str]] | None = None,
    *,
    active: str | None = None,
    endpoint: str | None = None,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a ModelServing as the API server has it; `models` maps names to aliases."""
    models = models or {"mistral": ["mistralai/Mistral-7B", "gpt-4"], "coder": []}
    return {
        "apiVersion": "modelserving.dev/v1alpha1",
        "kind": "ModelServing",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-11-24T10:00:00Z",
        },
        "spec": {
            "node": {"gpuMemory": "24Gi"},
            "engine": {"image": "vllm"},
            "models": [
                {
                    "name": model,
                    "aliases": aliases,
                    "source": {"hub": {"id": model}},
                    "gpuMemory": "7Gi",
                }
                for model, aliases in models.items()
            ],
            **(spec or {}),
        },
        "status": {
            **({"activeModel": active} if active else {}),
            **({"endpoint": endpoint} if endpoint else {}),
            **(status or {}),
        },
    }


class FakeCluster:
    """ModelServings in memory, with the semantics of list, watch and server-side apply."""

    def __init__(self, *servings: dict[str, Any]) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.applied: list[tuple[str, dict[str, Any], str]] = []
        self.withdrawn: list[tuple[str, str]] = []
        self.failing_writes = 0
        self.failing_lists = 0
        self.lists = 0
        self.expire_watches = False
        self.refuse_watches = False
        self.watches_opened = 0
        self.silent = False
        """A watch that has stalled: nothing comes any more, and no error either."""
        self._version = 100
        self._watches: set[asyncio.Queue[Change | None]] = set()
        for each in servings:
            self.put(each)

    def put(self, body: Mapping[str, Any]) -> None:
        """Create or replace a ModelServing."""
        stored = deepcopy(dict(body))
        name = stored["metadata"]["name"]
        kind = ChangeType.MODIFIED if name in self.objects else ChangeType.ADDED
        self.objects[name] = stored
        self._emit(kind, stored)

    def set_status(self, name: str, **status: Any) -> None:
        """Replace the status."""
        self.put({**self.objects[name], "status": status})

    def set_spec(self, name: str, **changes: Any) -> None:
        """Change fields of the spec."""
        body = self.objects[name]
        self.put({**body, "spec": {**body["spec"], **changes}})

    def delete(self, name: str) -> None:
        """Delete a ModelServing."""
        self._emit(ChangeType.DELETED, self.objects.pop(name))

    def end_watches(self) -> None:
        """Let the server end every watch."""
        for queue in self._watches:
            queue.put_nowait(None)

    def demand(self, name: str = "l4", requester: str = "gateway-0") -> dict[str, int]:
        """Return what one gateway has published: waiting by model."""
        for entry in self.objects[name]["spec"].get("requests", []):
            if entry["requester"] == requester:
                return {model["name"]: model["waiting"] for model in entry["models"]}
        return {}

    async def list_servings(self) -> Listing:
        """Return all of them."""
        self.lists += 1
        if self.failing_lists:
            self.failing_lists -= 1
            raise ClusterError("the API server is away")
        return Listing(tuple(deepcopy(list(self.objects.values()))), str(self._version))

    async def watch_servings(self, resource_version: str) -> AsyncGenerator[Change, None]:
        """Yield changes."""
        if self.expire_watches:
            self.expire_watches = False
            raise ExpiredError("too old resource version")
        if self.refuse_watches:
            raise ClusterError("the API server is away")
        self.watches_opened += 1
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self._watches.add(queue)
        try:
            yield Change(ChangeType.CONNECTED, {})
            while (change := await queue.get()) is not None:
                yield change
        finally:
            self._watches.discard(queue)

    async def apply(self, name: str, body: Mapping[str, Any], field_manager: str) -> None:
        """Apply: the manager's earlier entry goes, the one in the body comes."""
        self._fail_sometimes(name)
        self.applied.append((name, deepcopy(dict(body)), field_manager))
        (entry,) = body["spec"]["requests"]
        self._set_entry(name, entry["requester"], [entry])

    async def withdraw(self, name: str, uid: str, requester: str, field_manager: str) -> None:
        """Remove the entry."""
        self._fail_sometimes(name)
        self.withdrawn.append((name, requester))
        assert self.objects[name]["metadata"]["uid"] == uid
        self._set_entry(name, requester, [])

    def _fail_sometimes(self, name: str) -> None:
        if self.failing_writes:
            self.failing_writes -= 1
            raise ClusterError("409 Conflict")
        if name not in self.objects:
            raise ClusterError("404 Not Found")

    def _set_entry(self, name: str, requester: str, entry: list[dict[str, Any]]) -> None:
        others = [
            each
            for each in self.objects[name]["spec"].get("requests", [])
            if each["requester"] != requester
        ]
        self.set_spec(name, requests=others + entry)

    def _emit(self, kind: ChangeType, body: dict[str, Any]) -> None:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        if not self.silent:
            for queue in self._watches:
                queue.put_nowait(Change(kind, deepcopy(body)))


@dataclass
class EngineRequest:
    """What an engine got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class Connection:
    """The engine's side of one request: raw bytes out."""

    request: EngineRequest
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int = 200, **headers: str) -> None:
        """Write a head; `content_type` becomes content-type."""
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body; an empty one ends it."""
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def answer(
        self, body: bytes, status: int = 200, content_type: str = "application/json"
    ) -> None:
        """Write a whole answer."""
        await self.head(status, content_type=content_type, content_length=str(len(body)))
        await self.send(body)

    def die(self) -> None:
        """Close the connection with a reset, as a killed process does."""
        self.writer.transport.abort()

    async def client_left(self) -> None:
        """Wait until the other side has closed the connection."""
        while await self.reader.read(65_536):
            pass


Behaviour = Callable[[Connection], Awaitable[None]]


async def echo(connection: Connection) -> None:
    """Answer with the model that was asked for."""
    await connection.answer(json.dumps({"model": connection.request.json["model"]}).encode())


async def stream(connection: Connection) -> None:
    """Stream three events."""
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    for number in range(3):
        await connection.chunk(f'data: {{"n": {number}}}\n\n'.encode())
    await connection.chunk(b"data: [DONE]\n\n")
    await connection.chunk(b"")


@dataclass
class Engine:
    """An HTTP server whose behaviour a test chooses; behaviours in `next` are used up first."""

    behaviour: Behaviour = echo
    next: list[Behaviour] = field(default_factory=list)
    requests: list[EngineRequest] = field(default_factory=list)
    aborted: int = 0
    connections: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _port: int = 0

    async def start(self) -> "Engine":
        """Listen, at the same port as before if there was one."""
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, limit=2**26, backlog=4096
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Die: connections are reset, new ones refused."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        """Connections that neither side has closed."""
        return len(self._tasks)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                behaviour = self.next.pop(0) if self.next else self.behaviour
                await behaviour(Connection(request, reader, writer))
                if writer.transport.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted += 1
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            with suppress(Exception):
                writer.close()


async def _read_request(reader: asyncio.StreamReader) -> EngineRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return EngineRequest(method, path, headers, body)
