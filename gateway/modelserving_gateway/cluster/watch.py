"""Keeps the catalog equal to the cluster: list, watch, list again when the watch cannot go on.

No polling, and nothing about requests. What changed is handed on as a new catalog.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

from modelserving_gateway.cluster.catalog import Catalog, read_serving
from modelserving_gateway.cluster.protocol import (
    Change,
    ChangeType,
    Cluster,
    ClusterError,
    ExpiredError,
)

WATCH_IDLE_SECONDS: Final = 90.0
"""A silent watch is opened anew: a watch whose connection has died looks exactly like a quiet one.
API servers send a bookmark about every minute, so a healthy one is rarely that silent."""

STALE_SECONDS: Final = 180.0
"""Without a word from the API server for two such periods, what we know is too old to be ready."""

_WAIT = wait_random_exponential(multiplier=0.2, max=15)
"""Between failures: from a fifth of a second up to 15 s, random so that replicas spread."""


_SHORTEST_WATCH_SECONDS: Final = 1.0
"""A watch that ends sooner counts as a failure, so that a broken server is not asked in a loop."""


class Watcher:
    """Reads the ModelServings of the namespace for ever."""

    def __init__(
        self,
        cluster: Cluster,
        on_change: Callable[[Catalog], None],
        on_failure: Callable[[], None] = lambda: None,
        *,
        idle_seconds: float = WATCH_IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._on_change = on_change
        self._on_failure = on_failure
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._catalog = Catalog()
        self._resource_version: str | None = None
        self._last_contact: float | None = None
        self._log = structlog.get_logger(__name__)

    @property
    def contact_age(self) -> float | None:
        """Seconds since the API server last said anything; None before the first listing."""
        return None if self._last_contact is None else self._clock() - self._last_contact

    @property
    def fresh(self) -> bool:
        """Whether the catalog may be trusted: listed once, and not out of touch since."""
        age = self.contact_age
        return age is not None and age < STALE_SECONDS

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(ClusterError), wait=_WAIT, after=self._failed
            ):
                with attempt:
                    await self._list_and_follow()

    async def _list_and_follow(self) -> None:
        if self._resource_version is None:
            listing = await self._cluster.list_servings()
            self._last_contact = self._clock()
            self._resource_version = listing.resource_version
            self._publish(Catalog.of(read_serving(body) for body in listing.items))
        started = self._clock()
        try:
            await self._follow(self._resource_version)
        except ExpiredError:
            self._resource_version = None
        except ClusterError:
            self._resource_version = None
            raise
        if self._clock() - started < _SHORTEST_WATCH_SECONDS:
            raise ClusterError("the watch ended as soon as it had begun")

    async def _follow(self, resource_version: str) -> None:
        async with aclosing(self._cluster.watch_servings(resource_version)) as changes:
            while True:
                try:
                    async with asyncio.timeout(self._idle_seconds):
                        change = await anext(changes, None)
                except TimeoutError:
                    return
                if change is None:
                    return
                self._last_contact = self._clock()
                self._take(change)

    def _take(self, change: Change) -> None:
        if change.type is ChangeType.CONNECTED:
            return
        self._resource_version = change.resource_version or self._resource_version
        if change.type is ChangeType.BOOKMARK:
            return
        serving = read_serving(change.body)
        if change.type is ChangeType.DELETED:
            self._publish(self._catalog.without(serving.name))
        elif self._catalog.servings.get(serving.name) != serving:
            self._publish(self._catalog.replacing(serving))

    def _publish(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._on_change(catalog)

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._log.warning(
            "reading the ModelServings failed", error=str(error), attempt=state.attempt_number
        )
        self._on_failure()
