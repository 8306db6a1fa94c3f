"""Publishes demand: one single-writer loop for each ModelServing, always with the latest state.

When a write is due is decided in demand.py; how it reaches the API server in kubernetes_api.py.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from modelserving_gateway.cluster.catalog import Catalog, Serving
from modelserving_gateway.cluster.demand import (
    Demand,
    DemandByModel,
    entry_to_apply,
    seconds_until_write,
)
from modelserving_gateway.cluster.protocol import Cluster, ClusterError
from modelserving_gateway.metrics import Metrics

_LEFT_BEHIND: Final[DemandByModel] = {"": Demand(1, datetime.fromtimestamp(0, UTC))}
"""Stands for an entry that an earlier life of this Pod has left: whatever it says, it is not what
is wanted now."""

_SEEN_SECONDS: Final = 2.0
"""Until our own watch must have shown us what we wrote."""

_FIRST_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY_SECONDS: Final = 5.0
"""Between tries of a failed write: well under the 30 s after which demand is forgotten."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Who publishes, and how often lasting demand is renewed."""

    requester: str
    field_manager: str
    renew_seconds: float


class Publisher:
    """Keeps this gateway's entry in each ModelServing equal to what it holds."""

    def __init__(
        self,
        cluster: Cluster,
        publication: Publication,
        metrics: Metrics,
        demand: Callable[[], dict[str, dict[str, Demand]]],
        catalog: Callable[[], Catalog],
    ) -> None:
        self._cluster = cluster
        self._publication = publication
        self._metrics = metrics
        self._demand = demand
        self._catalog = catalog
        self._writers: dict[str, _Writer] = {}
        self._adopted = False

    def notice(self) -> None:
        """Look at demand again; called whenever it may have changed."""
        self._adopt()
        demand = self._demand()
        for serving in demand.keys() | self._writers.keys():
            self._writer(serving).want(demand.get(serving, {}))

    async def withdrawn(self) -> None:
        """Wait until all is written that is due; with nothing held, all demand is withdrawn."""
        self.notice()
        await asyncio.gather(*(writer.settled.wait() for writer in self._writers.values()))

    async def close(self) -> None:
        """Stop writing, whatever is still to be written."""
        tasks = [writer.task for writer in self._writers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _adopt(self) -> None:
        """Withdraw, once, what a container of this Pod that is gone has published."""
        servings = self._catalog().servings
        if self._adopted or not servings:
            return
        self._adopted = True
        for name, serving in servings.items():
            if self._publication.requester in serving.requesters:
                self._writer(name).adopt(serving.uid)

    def _writer(self, serving: str) -> "_Writer":
        if serving not in self._writers:
            self._writers[serving] = _Writer(
                serving,
                self._cluster,
                self._publication,
                self._metrics,
                self._catalog,
                ended=lambda: self._writers.pop(serving, None),
            )
        return self._writers[serving]


class _Writer:
    """Writes the entry in one ModelServing, as long as the ModelServing exists."""

    def __init__(
        self,
        serving: str,
        cluster: Cluster,
        publication: Publication,
        metrics: Metrics,
        catalog: Callable[[], Catalog],
        ended: Callable[[], object],
    ) -> None:
        self.published: DemandByModel = {}
        self.settled = asyncio.Event()
        """Set while nothing is due to be written and nothing is published."""
        self._serving = serving
        self._cluster = cluster
        self._publication = publication
        self._metrics = metrics
        self._catalog = catalog
        self._ended = ended
        self._wanted: DemandByModel = {}
        self._changed = asyncio.Event()
        self._last_write = -float("inf")
        self._written_to = ""
        self._log = structlog.get_logger(__name__).bind(modelserving=serving)
        self.task = asyncio.create_task(self._run(), name=f"publish-{serving}")

    def adopt(self, uid: str) -> None:
        """Take an entry that this Pod's last container left behind for our own."""
        self.published = _LEFT_BEHIND
        self._written_to = uid

    def want(self, wanted: DemandByModel) -> None:
        """Take what is wanted now; the loop writes it when that is due."""
        self._wanted = wanted
        self.settled.clear()
        self._changed.set()

    async def _run(self) -> None:
        try:
            while self._serving in self._catalog().servings:
                delay = self._seconds_until_write()
                if delay == 0:
                    await self._write()
                    continue
                if delay is None:
                    self.settled.set()
                await self._change_within(delay)
        finally:
            self.settled.set()
            self._ended()

    def _seconds_until_write(self) -> float | None:
        age = time.monotonic() - self._last_write
        until_missed = self._seconds_until_missed(age)
        if until_missed == 0:
            self.published = {}
        due = seconds_until_write(
            self.published, self._wanted, age, self._publication.renew_seconds
        )
        return due if not until_missed or due is None else min(due, until_missed)

    def _seconds_until_missed(self, age: float) -> float | None:
        """Say when what was published counts as lost, or None while it is where it should be.

        The ModelServing was made anew, or somebody has wiped its requests.
        """
        serving = self._catalog().servings.get(self._serving)
        if serving is None or not self.published:
            return None
        if serving.uid != self._written_to:
            return 0
        if self._publication.requester in serving.requesters:
            return None
        return max(0.0, _SEEN_SECONDS - age)

    async def _change_within(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _write(self) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(ClusterError),
            wait=wait_exponential_jitter(
                multiplier=_FIRST_RETRY_SECONDS, max=_LONGEST_RETRY_SECONDS, jitter=0.2
            ),
        ):
            with attempt:
                await self._write_latest()

    async def _write_latest(self) -> None:
        wanted = self._wanted
        serving = self._catalog().servings.get(self._serving)
        if serving is None:
            return  # Gone, and its entry with it; who waited for it was told by the dispatcher.
        self._last_write = time.monotonic()
        self._written_to = serving.uid
        try:
            await self._send(serving, wanted)
        except ClusterError as error:
            self._metrics.demand_writes.labels(self._serving, "failed").inc()
            self._log.warning("publishing demand failed, trying again", error=str(error))
            raise
        self._metrics.demand_writes.labels(self._serving, "written").inc()
        for model in wanted.keys() - self.published.keys():
            self._metrics.swap_requests.labels(self._serving, model).inc()
        if wanted.keys() != self.published.keys():
            event = "demand published" if wanted else "demand withdrawn"
            self._log.info(event, models=sorted(wanted))
        self.published = wanted

    async def _send(self, serving: Serving, wanted: DemandByModel) -> None:
        who = self._publication
        if not wanted:
            await self._cluster.withdraw(
                serving.name, serving.uid, who.requester, who.field_manager
            )
            return
        body = entry_to_apply(
            serving=serving.name,
            uid=serving.uid,
            requester=who.requester,
            wanted=wanted,
            renew_time=datetime.now(UTC),
        )
        await self._cluster.apply(serving.name, body, who.field_manager)
