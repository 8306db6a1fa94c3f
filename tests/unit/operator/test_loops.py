"""Loops: turn after turn, woken by what happens, ended by what is gone, and not by failures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.loops import Key, Loops, pause_after
from modelserving_operator.sight import Views
from tests.unit.operator.test_reconciler import EmptyViews

L4: Key = ("default", "l4")


@dataclass
class Script:
    """A reconciler that does as it is told and counts its turns."""

    turns: int = 0
    exists: bool = True
    pause: float = 60.0
    trouble: list[BaseException] = field(default_factory=list)
    during: Callable[[], None] = lambda: None
    gone: list[Key] = field(default_factory=list)
    failed: list[BaseException] = field(default_factory=list)

    async def turn(self, namespace: str, name: str, views: Views) -> float | None:
        self.turns += 1
        self.during()
        if self.trouble:
            raise self.trouble.pop(0)
        return self.pause if self.exists else None


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def loops(script: Script) -> AsyncIterator[Loops]:
    made = Loops(script, script.gone.append, script.failed.append)
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


async def test_a_loop_is_begun_once_and_then_woken(script: Script, loops: Loops) -> None:
    loops.begin(L4, EmptyViews())
    await until(lambda: script.turns == 1)

    loops.begin(L4, EmptyViews())
    await until(lambda: script.turns == 2)
    loops.wake(L4)
    await until(lambda: script.turns == 3)


async def test_a_turn_comes_when_it_is_due(script: Script, loops: Loops) -> None:
    script.pause = 0.01
    loops.begin(L4, EmptyViews())

    await until(lambda: script.turns >= 3)


async def test_what_happens_during_a_turn_causes_another_one(script: Script, loops: Loops) -> None:
    def happen() -> None:
        if script.turns == 1:
            loops.wake(L4)

    script.during = happen
    loops.begin(L4, EmptyViews())

    await until(lambda: script.turns == 2)


async def test_a_loop_ends_when_its_model_serving_is_gone(script: Script, loops: Loops) -> None:
    script.exists = False
    loops.begin(L4, EmptyViews())

    await until(lambda: script.gone == [L4])
    loops.wake(L4)
    await asyncio.sleep(0)

    assert script.turns == 1
    assert script.failed == []


async def test_one_made_anew_while_the_old_one_goes_is_served(script: Script, loops: Loops) -> None:
    script.exists = False

    def make_anew() -> None:
        if script.turns == 1:
            loops.begin(L4, EmptyViews())

    script.during = make_anew
    loops.begin(L4, EmptyViews())

    await until(lambda: script.turns == 2)


async def test_one_made_anew_after_the_old_one_went_is_served(script: Script, loops: Loops) -> None:
    script.exists = False
    loops.begin(L4, EmptyViews())
    await until(lambda: script.gone == [L4])

    script.exists = True
    loops.begin(L4, EmptyViews())
    await until(lambda: script.turns == 2)


async def test_a_failed_turn_is_tried_again(script: Script, loops: Loops) -> None:
    script.trouble = [ConnectionError("away"), KubernetesApiError("GET", 500, "etcd")]
    script.pause = 0.01
    loops.begin(L4, EmptyViews())

    await until(lambda: script.turns >= 4)

    assert script.failed == []


async def test_a_loop_that_dies_is_told_of(script: Script, loops: Loops) -> None:
    class Bug(BaseException):
        """Nothing that a loop may survive."""

    script.trouble = [Bug("unforeseen")]
    loops.begin(L4, EmptyViews())

    await until(lambda: [str(each) for each in script.failed] == ["unforeseen"])


async def test_closing_ends_all_loops_and_is_no_failure(script: Script, loops: Loops) -> None:
    loops.begin(L4, EmptyViews())
    loops.begin(("default", "a100"), EmptyViews())
    await until(lambda: script.turns == 2)

    await loops.close()

    assert script.failed == []
    assert script.turns == 2


def test_pauses_grow_up_to_a_bound() -> None:
    error = ConnectionError("away")
    assert 0.125 <= pause_after(error, 0) <= 0.25
    assert 0.5 <= pause_after(error, 2) <= 1.0
    assert 2.5 <= pause_after(error, 50) <= 5.0


def test_a_server_that_says_when_to_come_back_is_obeyed_within_reason() -> None:
    assert pause_after(KubernetesApiError("GET", 429, "busy", 7.0), 0) == 7.0
    assert pause_after(KubernetesApiError("GET", 503, "busy", 86_400.0), 0) == 60.0
