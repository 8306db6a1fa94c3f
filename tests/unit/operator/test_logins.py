"""Credentials: found again after they were refused, and not tried at once for ever."""

import asyncio
from pathlib import Path

import kopf
import pytest

from modelserving_operator.logins import Logins
from tests.unit.operator.test_hostile_api import environment


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return paused


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Logins:
    found = environment("http://127.0.0.1:1", tmp_path)
    monkeypatch.setenv("KUBECONFIG", found["KUBECONFIG"])
    return Logins()


async def test_the_same_credentials_are_never_equal(logins: Logins, pauses: list[float]) -> None:
    settings = kopf.OperatorSettings()
    first = await logins.login(settings=settings)
    second = await logins.login(settings=settings)
    assert first is not None
    assert second is not None
    assert first != second
    assert (first.server, first.token) == (second.server, second.token)


async def test_what_is_refused_at_once_is_tried_again_ever_more_slowly(
    logins: Logins, pauses: list[float]
) -> None:
    for _ in range(8):
        await logins.login(settings=kopf.OperatorSettings())
    assert pauses == [0, 0.25, 0.5, 1, 2, 4, 5, 5]


async def test_what_was_good_for_long_is_read_again_at_once(
    logins: Logins, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await logins.login(settings=kopf.OperatorSettings())
    monkeypatch.setattr("modelserving_operator.logins._GOOD_FOR_SECONDS", 0.0)
    await logins.login(settings=kopf.OperatorSettings())
    assert pauses == [0, 0.25, 0.5, 0]


async def test_nothing_is_made_up_where_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert await Logins().login(settings=kopf.OperatorSettings()) is None
