"""The copy of a ModelServing: no change of anybody's is ever missed, whatever the watch does."""

from copy import deepcopy
from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans

from modelserving_operator.actions import RESYNC_SECONDS
from modelserving_operator.cached_serving import CachedServing


def body(version: str, pin: str = "") -> dict[str, Any]:
    return {
        "metadata": {"uid": "u1", "resourceVersion": version},
        "spec": {"activeModel": pin},
    }


def test_it_is_believed_while_the_watch_tells_nothing_new() -> None:
    cached = CachedServing(body("7"), at=100.0)
    assert cached.believable("7", now=101.0)
    assert not cached.believable("8", now=101.0)
    assert not cached.believable(None, now=101.0)


def test_it_is_not_believed_for_ever() -> None:
    cached = CachedServing(body("7"), at=100.0)
    assert not cached.believable("7", now=100.0 + RESYNC_SECONDS)


def test_what_was_written_is_no_news_and_neither_is_what_was_before() -> None:
    cached = CachedServing(body("7"), at=100.0)
    cached.doubt()
    cached.hold_written(body("8"), at=101.0)
    assert cached.body == body("8")
    assert cached.believable("7", now=102.0)
    assert cached.believable("8", now=102.0)


def test_a_write_without_an_answer_leaves_a_doubt() -> None:
    cached = CachedServing(body("7"), at=100.0)
    cached.doubt()
    assert not cached.believable("7", now=101.0)


def behind_after(*reads: tuple[float, str, str | None]) -> float:
    """Return for how long the watch is behind after reads: when, what was read, what it told."""
    cached = CachedServing(body("7"), at=0.0)
    for at, version, told in reads:
        cached.hold_read(body(version), at, told)
    return cached.watch_behind_seconds


def test_a_watch_is_behind_for_as_long_as_reads_show_what_it_does_not_tell() -> None:
    assert behind_after((10, "8", "7"), (40, "8", "7"), (60, "9", "7")) == 50
    # One read alone proves nothing: the watch may tell in the same moment.
    assert behind_after((1000, "8", "7")) == 0


def test_a_watch_that_tells_anything_is_not_behind() -> None:
    assert behind_after((10, "8", "7"), (40, "9", "7"), (70, "9", "8")) == 0
    assert behind_after((10, "8", "7"), (40, "9", "7"), (70, "9", "9")) == 0
    assert behind_after((10, "8", None), (40, "9", None)) == 0


def test_a_watch_is_not_blamed_for_the_time_that_nobody_could_read() -> None:
    assert behind_after((10, "8", "7"), (3600, "8", "7")) == RESYNC_SECONDS


class Interleavings(RuleBasedStateMachine):
    """An API server, a watch that lags and loses, somebody who edits, and a loop with its copy.

    Time stands still: nothing may be made good by the resync.
    """

    def __init__(self) -> None:
        super().__init__()
        self.server = body("1", "a")
        self.events: list[str] = []
        self.told = "1"
        self.cached = CachedServing(deepcopy(self.server), at=0.0)
        self.planned_for = "a"
        self.woken = False

    def change(self, **spec: str) -> None:
        version = str(int(self.server["metadata"]["resourceVersion"]) + 1)
        self.server["metadata"]["resourceVersion"] = version
        self.server["spec"].update(spec)
        self.events.append(version)

    def hear(self, version: str) -> None:
        self.told = version
        self.woken |= not self.cached.knows(version)

    @rule()
    def somebody_edits(self) -> None:
        self.change(activeModel=f"pinned at {self.server['metadata']['resourceVersion']}")

    @precondition(lambda self: self.events)
    @rule()
    def the_watch_tells(self) -> None:
        self.hear(self.events.pop(0))

    @precondition(lambda self: self.events)
    @rule()
    def the_watch_is_interrupted_and_goes_on_with_a_list(self) -> None:
        self.hear(self.events.pop())
        self.events.clear()

    @rule(lost=booleans(), edited=booleans())
    def a_turn_writes_a_status(self, lost: bool, edited: bool) -> None:
        self.turn()
        if edited:
            self.somebody_edits()
        self.cached.doubt()
        self.change()
        if lost:
            self.woken = True  # a failed turn is followed by another
        else:
            self.cached.hold_written(deepcopy(self.server), at=0.0)

    @rule()
    def turn(self) -> None:
        self.woken = False
        if not self.cached.believable(self.told, now=0.0):
            self.cached.hold_read(deepcopy(self.server), at=0.0, told=self.told)
        self.planned_for = self.cached.body["spec"]["activeModel"]

    @invariant()
    def what_was_told_has_been_planned_for_or_will_be(self) -> None:
        if not self.events and not self.woken:
            assert self.planned_for == self.server["spec"]["activeModel"]


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=200, stateful_step_count=30)
