"""The program's lives: one after the other while kopf ends badly, and none after it was told."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf
import pytest

from modelserving_operator import main
from modelserving_operator.handlers import Operator

Life = Callable[[Operator], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MODELSERVING_NAMESPACE", "default")
    monkeypatch.setattr(main, "_LAST_SECONDS", 0.1)
    monkeypatch.setattr(main, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("modelserving_operator.logs.configure", lambda level: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def lived(monkeypatch: pytest.MonkeyPatch, *lives: Life) -> list[Operator]:
    """Let kopf live these lives, whatever it would do; return the operators as they are made."""
    made: list[Operator] = []

    def make(settings: Any) -> Operator:
        made.append(Operator(settings))
        return made[-1]

    async def live(**_: Any) -> None:
        operator = made[-1]
        operator.watch = asyncio.create_task(asyncio.sleep(3600))
        await lives[len(made) - 1](operator)

    monkeypatch.setattr(main, "Operator", make)
    monkeypatch.setattr(kopf, "operator", live)
    return made


async def ends(operator: Operator) -> None:
    operator.stop.set()


async def breaks(operator: Operator) -> None:
    raise RuntimeError("a watch")


async def hangs_in_its_end(operator: Operator) -> None:
    operator.stop.set()
    await asyncio.sleep(3600)


async def is_told_and_hangs(operator: Operator) -> None:
    operator.end()
    await asyncio.sleep(3600)


async def is_told_and_breaks(operator: Operator) -> None:
    operator.end()
    raise RuntimeError("a task that was cancelled")


def test_a_kopf_that_breaks_or_does_not_end_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lived(monkeypatch, breaks, hangs_in_its_end, ends)
    main.main()
    assert len(made) == 3


@pytest.mark.parametrize("life", [is_told_and_hangs, is_told_and_breaks])
def test_nothing_follows_what_was_told_to_end(monkeypatch: pytest.MonkeyPatch, life: Life) -> None:
    made = lived(monkeypatch, life, ends)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert len(made) == 1


def test_a_signal_between_two_lives_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lived(monkeypatch, breaks, ends)
    monkeypatch.setattr("time.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert len(made) == 1


def test_what_is_wrong_with_ourselves_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(operator: Operator) -> None:
        operator.fail(RuntimeError("a loop died"))

    made = lived(monkeypatch, fails, ends)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert len(made) == 1
