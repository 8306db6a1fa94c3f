"""As much of a Kubernetes API server as the gateway needs: one ModelServing, over HTTP.

The gateway runs as its own program and reaches it as it reaches any: by a kubeconfig.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from aiohttp import web

NAMESPACE: Final = "bench"
SERVING: Final = "l4"
MODELS: Final = ("mistral", "coder")

_COLLECTION: Final = f"/apis/modelserving.dev/v1alpha1/namespaces/{NAMESPACE}/modelservings"


class ApiServer:
    """The ModelServing of the benchmark, and who watches it."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._version = 1
        self._watches: set[asyncio.Queue[dict[str, Any]]] = set()
        self._serving: dict[str, Any] = {
            "apiVersion": "modelserving.dev/v1alpha1",
            "kind": "ModelServing",
            "metadata": {
                "name": SERVING,
                "namespace": NAMESPACE,
                "uid": "6f1c2a56-0000-4000-8000-000000000000",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "node": {"gpuMemory": "24Gi"},
                "engine": {"image": "vllm"},
                "models": [
                    {"name": name, "source": {"hub": {"id": name}}, "gpuMemory": "7Gi"}
                    for name in MODELS
                ],
            },
            "status": {},
        }

    def activate(self, model: str | None) -> None:
        """Let the status say that this model is served, or none."""
        active = {"activeModel": model, "endpoint": self._engine} if model else {}
        self._serving["status"] = active
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._serving["metadata"]["resourceVersion"] = str(self._version)
        for queue in self._watches:
            queue.put_nowait(deepcopy(self._serving))

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch", "").lower() != "true":
            self._serving["metadata"]["resourceVersion"] = str(self._version)
            return web.json_response(
                {"items": [self._serving], "metadata": {"resourceVersion": str(self._version)}}
            )
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watches.add(queue)
        with suppress(ConnectionError):
            while True:
                line = {"type": "MODIFIED", "object": await queue.get()}
                await response.write(json.dumps(line).encode() + b"\n")
        self._watches.discard(queue)
        return response

    async def _patch(self, request: web.Request) -> web.Response:
        patch = json.loads(await request.read())
        if isinstance(patch, list):  # a JSON patch: the one requester withdraws its entry
            self._serving["spec"]["requests"] = []
        else:
            self._serving["spec"]["requests"] = patch["spec"]["requests"]
        self._changed()
        return web.json_response(self._serving)

    @asynccontextmanager
    async def listening(self, port: int, kubeconfig: Path) -> AsyncIterator[None]:
        """Serve on a port, and say in a kubeconfig where that is."""
        kubeconfig.write_text(json.dumps(_kubeconfig(port)))  # noqa: ASYNC240 - once, at the start
        application = web.Application()
        application.router.add_get(_COLLECTION, self._read)
        application.router.add_patch(_COLLECTION + "/{name}", self._patch)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()


def _kubeconfig(port: int) -> dict[str, Any]:
    name = "bench"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": name, "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
