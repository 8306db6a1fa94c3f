"""Reading the ModelServings: what happens when the watch ends, expires, fails or stalls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from modelserving_gateway.cluster.catalog import Catalog
from modelserving_gateway.cluster.watch import STALE_SECONDS, Watcher
from tests.unit.gateway.conftest import eventually
from tests.unit.gateway.fakes import FakeCluster, serving


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """A watcher that runs, with all that it has told."""

    def __init__(self, cluster: FakeCluster, idle_seconds: float = 60) -> None:
        self.cluster = cluster
        self.clock = Clock()
        self.told: list[Catalog] = []
        self.failures = 0
        self.watcher = Watcher(
            cluster, self.told.append, self._failed, idle_seconds=idle_seconds, clock=self.clock
        )

    def _failed(self) -> None:
        self.failures += 1

    def knows(self, model: str) -> bool:
        return bool(self.told) and self.told[-1].model_called(model) is not None


@asynccontextmanager
async def reading(reader: Reader) -> AsyncIterator[Reader]:
    task = asyncio.create_task(reader.watcher.run())
    await eventually(lambda: reader.knows("x") and reader.cluster.watches_opened)
    yield reader
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    async with reading(Reader(FakeCluster(serving("a", {"x": []})))) as started:
        yield started


async def test_changes_arrive_by_the_watch_without_another_list(reader: Reader) -> None:
    reader.cluster.put(serving("b", {"y": []}))
    await eventually(lambda: reader.knows("y"))
    reader.cluster.put(serving("b", {"z": []}))
    await eventually(lambda: reader.knows("z") and not reader.knows("y"))
    reader.cluster.delete("b")
    await eventually(lambda: not reader.knows("z"))
    assert reader.cluster.lists == 1


async def test_nothing_is_told_when_nothing_that_matters_has_changed(reader: Reader) -> None:
    told = len(reader.told)
    reader.cluster.put(reader.cluster.objects["a"])
    reader.cluster.put(serving("b", {"y": []}))
    await eventually(lambda: reader.knows("y"))
    assert len(reader.told) == told + 1


async def test_a_watch_that_the_server_ends_goes_on(reader: Reader) -> None:
    reader.clock.now += 300
    reader.cluster.end_watches()
    await eventually(lambda: reader.cluster.watches_opened >= 2)
    reader.cluster.put(serving("b", {"y": []}))
    await eventually(lambda: reader.knows("y"))
    assert reader.failures == 0


async def test_a_version_that_is_too_old_is_listed_anew(reader: Reader) -> None:
    reader.cluster.expire_watches = True
    reader.cluster.silent = True
    reader.cluster.put(serving("b", {"y": []}))
    reader.cluster.silent = False
    reader.clock.now += 300
    reader.cluster.end_watches()
    await eventually(lambda: reader.knows("y"))
    assert reader.cluster.lists == 2


async def test_a_stalled_watch_is_opened_anew() -> None:
    """Seen elsewhere (docs/lessons.md): a watch can die without a word."""
    cluster = FakeCluster(serving("a", {"x": []}))
    async with reading(Reader(cluster, idle_seconds=0.02)):
        await eventually(lambda: cluster.watches_opened >= 3, seconds=15)


async def test_failures_are_counted_and_do_not_end_it(reader: Reader) -> None:
    reader.cluster.failing_lists = 2
    reader.cluster.expire_watches = True
    reader.cluster.end_watches()
    reader.cluster.put(serving("b", {"y": []}))
    await eventually(lambda: reader.knows("y"), seconds=15)
    assert reader.failures >= 2


async def test_what_is_known_is_stale_after_a_long_silence(reader: Reader) -> None:
    assert reader.watcher.fresh
    reader.cluster.refuse_watches = True
    reader.clock.now += STALE_SECONDS + 1
    assert not reader.watcher.fresh


def test_before_the_first_list_nothing_is_fresh() -> None:
    watcher = Watcher(FakeCluster(), lambda catalog: None)
    assert watcher.contact_age is None
    assert not watcher.fresh
