"""The order of a chaos run, on a site that is not there."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.chaos import report
from tests.chaos.runner import Round, Run, under_load
from tests.harness.faults import faults


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class SilentSite:
    """What the clients of a load ask."""

    def __init__(self, url: str) -> None:
        self.gateways: dict[str, str] = {}
        self.service_url = url


async def test_a_timeout_amid_the_rounds_is_not_taken_for_the_end_of_the_load(silent: str) -> None:
    async def break_off() -> None:
        async with under_load(cast("Any", SilentSite(silent))):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await break_off()


async def test_what_is_not_answered_in_the_end_is_told(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.runner.GIVE_UP_SECONDS", 0.2)
    async with under_load(cast("Any", SilentSite(silent))) as run:
        run.rounds.append(Round(next(faults(1, 1)), converge_seconds=1.0))
        await asyncio.sleep(0)
    assert len(run.rounds[0].unanswered) == len(run.clients("any"))


@pytest.mark.parametrize(
    ("converged", "asked", "failed"), [([20.0], 1, False), ([20.0], 2, True), ([None], 1, True)]
)
def test_a_run_that_ended_early_has_failed(
    converged: list[float | None], asked: int, failed: bool
) -> None:
    run = Run(cast("Any", None))
    run.rounds = [Round(next(faults(1, 1)), converge_seconds=each) for each in converged]
    assert report.failed(report.figures(run, seed=1), asked=asked) is failed


class QuietSite:
    """What settle asks of a site."""

    def __init__(self, held: list[int]) -> None:
        self._held = held

    async def held(self) -> dict[str, int]:
        return {"gateway": self._held.pop(0) if self._held[1:] else self._held[0]}

    async def program_pods(self) -> list[dict[str, Any]]:
        status = {"containerStatuses": [{"restartCount": 1}]}
        return [{"metadata": {"name": "operator"}, "status": status}]

    async def objects(self, path: str) -> list[dict[str, Any]]:
        return [{"metadata": {"name": "east"}, "spec": {}}]


async def test_what_the_load_leaves_behind_is_waited_for() -> None:
    run = Run(cast("Any", QuietSite(held=[2, 0])))
    run.killed["operator"] = 1
    assert await run.settle() == []


async def test_what_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.runner._SETTLED_SECONDS", 0.1)
    run = Run(cast("Any", QuietSite(held=[2])))
    assert await run.settle() == [
        "gateway still has 2 requests",
        "operator was restarted 1 times, killed 0 times",
    ]
