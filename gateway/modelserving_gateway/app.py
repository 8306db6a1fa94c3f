"""The ASGI application: which handler answers what, and the gateway's own pages.

Raw ASGI: a handful of routes needs no framework. Nothing about models is decided here.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import structlog

from modelserving_gateway import views
from modelserving_gateway.access.access import Access, Caller
from modelserving_gateway.api import errors, openapi
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.surface import Forwarded, OneModel, Page, Route, dialect_of, route
from modelserving_gateway.clients.client import Client, Receive, Scope, Send
from modelserving_gateway.metrics import CONTENT_TYPE, Metrics
from modelserving_gateway.proxy import Proxy
from modelserving_gateway.turns.dispatch import Dispatcher

_JSON: Final = [(b"content-type", b"application/json")]

_PROBED: Final = frozenset({Page.HEALTH, Page.READY, Page.METRICS})
"""Asked for every few seconds by the cluster: not worth a line each, unless they fail."""

_LONGEST_PATH: Final = 200
"""Of a path that a client made up, in the log."""


class Application:
    """The gateway's ASGI application."""

    def __init__(
        self,
        proxy: Proxy,
        dispatcher: Dispatcher,
        metrics: Metrics,
        access: Access,
        fresh: Callable[[], bool],
        listed: Callable[[], bool],
    ) -> None:
        self.stopping = False
        """Set on SIGTERM: not ready any more, and connections are not kept."""
        self._proxy = proxy
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._access = access
        self._fresh = fresh
        self._listed = listed
        self._openapi = json.dumps(
            openapi.document(keys=access.required, version=version("modelserving"))
        ).encode()
        self._log = structlog.get_logger(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        client = Client(scope, receive, send)
        if self.stopping:
            client.answer_headers[b"connection"] = b"close"
        started, what, error = time.monotonic(), None, None
        try:
            what = route(scope["method"], scope["path"])
            if isinstance(what, Forwarded) and self._listed():
                client.dialect = what.dialect
                await self._proxy.handle(client, what)
                return
            await self._answer(client, what)
        except ApiError as refusal:
            error = refusal
            client.dialect = dialect_of(scope["path"])
            self._metrics.rejected.labels(error.code).inc()
            await client.fail(error)
        except Exception:
            error = errors.internal_error(client.request_id.decode())
            self._log.exception("a defect of the gateway", id=client.request_id.decode())
            await client.fail(error)
        if what not in _PROBED or error is not None:
            self._account(client, scope["path"], error, time.monotonic() - started)

    def _account(self, client: Client, path: str, error: ApiError | None, seconds: float) -> None:
        """Write the line of a request that is no engine's; theirs are written by Exchange."""
        self._log.info(
            "request",
            id=client.request_id.decode(),
            path=path[:_LONGEST_PATH],
            key=client.key,
            status=client.status,
            error=None if error is None else error.code,
            message=None if error is None else error.message,
            total_seconds=round(seconds, 3),
            bytes=client.bytes_sent,
        )

    def _identify(self, client: Client) -> Caller:
        caller = self._access.identify(client.headers)
        client.key = caller.name or None
        return caller

    async def _answer(self, client: Client, what: Route) -> None:
        match what:
            case Forwarded():
                raise errors.not_ready_yet()
            case OneModel(id=wanted):
                await _answer_json(client, 200, self._one_model(client, wanted))
            case Page.MODELS:
                caller = self._identify(client)
                self._require_listing()
                listed = views.model_list(self._dispatcher.catalog, caller.may_use)
                await _answer_json(client, 200, listed)
            case Page.STATUS:
                caller = self._identify(client)
                status = self._status()
                if caller.models is not None:
                    status = views.status_of_some(status, caller.may_use)
                await _answer_json(client, 200, status)
            case Page.OPENAPI:
                await client.answer(200, _JSON, self._openapi)
            case Page.HEALTH:
                await _answer_json(client, 200, {"status": "alive"})
            case Page.READY:
                code, reason = self._readiness()
                await _answer_json(client, code, {"status": reason})
            case Page.METRICS:
                head = [(b"content-type", CONTENT_TYPE)]
                await client.answer(200, head, self._metrics.exposition())

    def _one_model(self, client: Client, wanted: str) -> dict[str, Any]:
        caller = self._identify(client)
        self._require_listing()
        catalog = self._dispatcher.catalog
        model = catalog.model_called(wanted)
        description = views.one_model(catalog, wanted)
        if model is None or description is None:
            raise errors.model_not_found(wanted)
        caller.require(model)
        return description

    def _require_listing(self) -> None:
        if not self._listed():
            raise errors.not_ready_yet()

    def _readiness(self) -> tuple[int, str]:
        if self.stopping:
            return 503, "stopping"
        if not self._listed():
            return 503, "the ModelServings have not been read yet"
        if self._access.unreadable:
            return 503, "the API keys cannot be read"
        if not self._fresh():
            return 503, "out of touch with the Kubernetes API"
        return 200, "ready"

    def _status(self) -> dict[str, Any]:
        return views.status(
            self._dispatcher.catalog,
            self._dispatcher.waiting(),
            self._proxy.in_flight,
            datetime.now(UTC),
        )


async def _answer_json(client: Client, status: int, value: dict[str, Any]) -> None:
    await client.answer(status, _JSON, json.dumps(value).encode())
