"""The program: wires the parts, serves until SIGTERM, and leaves without losing a request.

All wiring is in `serve`, which the tests run as it is, with another cluster.
"""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import orjson
import structlog
import uvicorn
import uvloop
from pydantic import ValidationError
from structlog.tracebacks import ExceptionDictTransformer

from modelserving_gateway.access.access import Access
from modelserving_gateway.access.key_file import KeyFile
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.app import Application
from modelserving_gateway.clients.server import Bounds, bounded
from modelserving_gateway.cluster.catalog import Catalog
from modelserving_gateway.cluster.kubernetes_api import open_cluster
from modelserving_gateway.cluster.protocol import Cluster, ClusterError
from modelserving_gateway.cluster.publish import Publication, Publisher
from modelserving_gateway.cluster.watch import Watcher
from modelserving_gateway.engine.upstream import Upstreams
from modelserving_gateway.metrics import Metrics
from modelserving_gateway.proxy import Proxy
from modelserving_gateway.settings import Settings
from modelserving_gateway.turns.dispatch import Dispatcher
from modelserving_gateway.turns.queueing import Limits

_CLIENT_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than the 60 s of common load balancers: they must be the ones who close an idle
connection, or they send a request into one that we are closing."""

_LAST_ERRORS_SECONDS: Final = 3
"""After the budget: time for the errors that end what still runs to reach their clients."""

_WITHDRAWAL_SECONDS: Final = 3.0
"""Time to withdraw demand at the end; what is not withdrawn expires by itself."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which would stop accepting at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Gateway:
    """All parts of one running gateway, wired."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        limits = Limits(
            settings.max_held_requests, settings.max_held_requests_all, settings.max_held_bytes
        )
        self._dispatcher = Dispatcher(limits, settings.max_in_flight)
        self._metrics = Metrics(self._dispatcher.waiting)
        for bound, value in settings.bounds.items():
            self._metrics.limit.labels(bound).set(value)
        self._upstreams = Upstreams(
            connect_timeout=settings.upstream_connect_timeout_seconds,
            read_timeout=settings.upstream_read_timeout_seconds,
        )
        self._publisher = Publisher(
            cluster,
            Publication(settings.pod_name, settings.field_manager, settings.renew_seconds),
            self._metrics,
            self._dispatcher.demand,
            lambda: self._dispatcher.catalog,
        )
        self._dispatcher.listen(self._publisher.notice)
        self._watcher = Watcher(
            cluster, self._take_catalog, lambda: self._metrics.watch_failures.inc()
        )
        self._access = Access(time.monotonic, required=bool(settings.keys_file))
        self._key_file = KeyFile(
            Path(settings.keys_file),
            self._access.replace,
            lambda valid: self._metrics.keys_invalid.set(not valid),
        )
        self._proxy = Proxy(
            settings, self._dispatcher, self._upstreams, self._metrics, self._access
        )
        self._application = Application(
            self._proxy,
            self._dispatcher,
            self._metrics,
            self._access,
            fresh=lambda: self._watcher.fresh,
            listed=lambda: self._watcher.contact_age is not None,
        )
        self._server = _Server(
            uvicorn.Config(
                self._application,
                host=settings.host,
                port=settings.port,
                http=bounded(
                    Bounds(
                        settings.max_header_bytes,
                        settings.header_timeout_seconds,
                        settings.stalled_client_seconds,
                        settings.max_connections,
                        self._refused,
                    )
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_CLIENT_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(settings.shutdown_timeout_seconds)
                + _LAST_ERRORS_SECONDS,
            )
        )
        self._metrics.connections.set_function(lambda: len(self._server.server_state.connections))
        self._log = structlog.get_logger(__name__)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish within the shutdown budget."""
        watching = asyncio.create_task(self._watcher.run(), name="watch")
        serving = asyncio.create_task(self._server.serve(), name="serve")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        reading_keys = asyncio.create_task(self._read_keys(), name="keys")
        self._log.info(
            "starting",
            namespace=self._settings.namespace,
            requester=self._settings.pod_name,
            port=self._settings.port,
        )
        try:
            await asyncio.wait(
                {watching, serving, stopping, reading_keys}, return_when=asyncio.FIRST_COMPLETED
            )
            if stop.is_set():
                await self._finish(serving)
        finally:
            self._server.should_exit = True
            for task in (watching, stopping, reading_keys):
                task.cancel()
            await serving
            await self._publisher.close()
            self._upstreams.retain(frozenset())
        for task in (watching, reading_keys):
            with suppress(asyncio.CancelledError):
                await task  # raises what has ended it, if it was not us

    async def _read_keys(self) -> None:
        if self._access.required:
            await self._key_file.run()
        else:
            await asyncio.Event().wait()

    async def _finish(self, serving: asyncio.Task[None]) -> None:
        self._log.info("stopping", in_flight=self._proxy.in_flight)
        self._application.stopping = True
        budget = self._settings.shutdown_timeout_seconds
        delay = min(self._settings.shutdown_delay_seconds, budget)
        await asyncio.wait({serving}, timeout=delay)
        self._server.should_exit = True
        await asyncio.wait({serving}, timeout=budget - delay)
        self._proxy.interrupt_all()
        await asyncio.wait({serving}, timeout=_LAST_ERRORS_SECONDS)
        try:
            async with asyncio.timeout(_WITHDRAWAL_SECONDS):
                await self._publisher.withdrawn()
        except TimeoutError:
            self._log.warning("demand could not be withdrawn; the operator lets it expire")
        self._log.info("stopped")

    @property
    def port(self) -> int | None:
        """The port that is listened on, once it is."""
        if not self._server.started:
            return None
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return self._proxy.in_flight

    def _refused(self, error: ApiError) -> None:
        """Tell of a request that was refused before it was one."""
        self._metrics.rejected.labels(error.code).inc()
        self._log.info("rejected", status=error.status, error=error.code, message=error.message)

    def _take_catalog(self, catalog: Catalog) -> None:
        self._dispatcher.replace_catalog(catalog)
        self._upstreams.retain(catalog.endpoints())


async def serve(settings: Settings) -> None:
    """Run the gateway against the cluster it is in until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_cluster(settings.namespace, settings.label_selector) as cluster:
        await Gateway(settings, cluster).serve(stop)


def main() -> None:
    """Console script. Exits with 2 when a setting is wrong, with 1 when the cluster is."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "MODELSERVING_" + "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{name}: {problem['msg']}\n")
        sys.exit(2)
    _configure_logging(settings)
    _collect_garbage_rarely()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


def _collect_garbage_rarely() -> None:
    """Spare what lives for ever, and requests, the search for cycles, of which they have none.

    Python looks through its youngest objects after each 700 new ones: eight requests. That was a
    sixth of the CPU time of a request (125 µs, 106 without). What is in a cycle after all, such as
    an exception's traceback, is found later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)


def _configure_logging(settings: Settings) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.value),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            # Without the values of variables: among them are keys and prompts.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # uvicorn and aiohttp log through the standard library: only what a person must see.
    logging.basicConfig(
        level=logging.WARNING, format='{"level":"%(levelname)s","event":"%(name)s: %(message)s"}'
    )
