"""The order of a chaos run, on a site that is not there."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos import report
from tests.chaos.clients import Attempt, Outcome
from tests.chaos.injecting import Injected, Process
from tests.chaos.runner import Round, Run, under_load
from tests.harness.faults import Deed, Fault, Kind, Target, faults


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class QuietSite:
    """A site at which all is well, but for what a test changes."""

    def __init__(self, gpus: Path, service_url: str = "") -> None:
        self.cluster = SimpleNamespace(gpu_directory=gpus)
        self.watched = self
        self.gateways: dict[str, str] = {}
        self.service_url = service_url
        self.pods: list[dict[str, Any]] = []
        self.in_flight = [0]

    async def until(self, *_: object, within: float) -> str:
        return "east"

    async def until_ready(self) -> None: ...

    async def held(self) -> dict[str, int]:
        return {"gateway": self.in_flight.pop(0) if self.in_flight[1:] else self.in_flight[0]}

    async def program_pods(self) -> list[dict[str, Any]]:
        return self.pods

    async def objects(self, path: str) -> list[dict[str, Any]]:
        return []

    async def engine_objects(self) -> dict[str, list[dict[str, Any]]]:
        return {kind: [] for kind in ("Deployment", "Service", "ReplicaSet", "Pod")}


@pytest.fixture
def site(tmp_path: Path, silent: str) -> QuietSite:
    return QuietSite(tmp_path, silent)


@pytest.fixture
def run(site: QuietSite) -> Run:
    return Run(cast("Any", site))


def pod(name: str, restarted: int) -> dict[str, Any]:
    status = {"containerStatuses": [{"restartCount": restarted}]}
    return {"metadata": {"name": name}, "status": status}


def fault(deed: Deed, target: Target) -> Fault:
    return next(faults(1, 1, kinds=[Kind(deed, target)]))


def cut(gateway: str) -> Attempt:
    return Attempt("a client", gateway, "coder", 0.0, 1.0, Outcome.CUT)


async def test_what_ends_while_the_back_off_is_forgotten_has_the_excuse_of_its_round(
    run: Run, site: QuietSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(*_: object) -> None:
        await asyncio.sleep(0)
        run.ledger.attempts.append(cut("a"))

    inject(monkeypatch, replaced=True)
    site.pods = [pod("a", 1)]
    monkeypatch.setattr("tests.chaos.runner.forget_back_off", forget)
    played = await run.play(fault(Deed.KILL, Target.GATEWAY))
    assert (played.findings, sum(played.cuts.values())) == ([], 1)
    assert run.ledger.attempts == []


@pytest.mark.parametrize(("replaced", "restarted"), [(True, 0), (True, 2), (False, 1)])
async def test_a_kill_that_did_not_do_just_that_is_told_although_the_pod_is_replaced_then(
    run: Run, site: QuietSite, monkeypatch: pytest.MonkeyPatch, replaced: bool, restarted: int
) -> None:
    async def replace(*_: object) -> None:
        site.pods = [pod("another", 0)]

    monkeypatch.setattr("tests.chaos.runner._SETTLED_SECONDS", 0.1)
    monkeypatch.setattr("tests.chaos.runner.forget_back_off", replace)
    inject(monkeypatch, replaced=replaced)
    site.pods = [pod("a", restarted)]
    played = await run.play(fault(Deed.KILL, Target.OPERATOR))
    (found,) = played.findings
    assert found.startswith("a was")


async def test_what_becomes_of_a_kill_is_waited_for(
    run: Run, site: QuietSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None: ...

    async def told_late() -> list[dict[str, Any]]:
        return [pod("a", counts.pop(0))]

    counts = [0, 1]
    monkeypatch.setattr("tests.chaos.runner.forget_back_off", nothing)
    monkeypatch.setattr(site, "program_pods", told_late)
    inject(monkeypatch, replaced=True)
    played = await run.play(fault(Deed.KILL, Target.OPERATOR))
    assert (played.findings, counts) == ([], [])


def inject(monkeypatch: pytest.MonkeyPatch, *, replaced: bool) -> None:
    """Have every kill meet the Pod a, and replace its process or not."""

    async def injected(*_: object) -> Injected:
        killed = SimpleNamespace(replaced=lambda: replaced)
        return Injected("a", time.monotonic(), cast("Process", killed))

    monkeypatch.setattr("tests.chaos.runner.inject", injected)


async def test_what_comes_after_the_last_round_is_judged_without_an_excuse(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.rounds.append(Round(fault(Deed.KILL, Target.GATEWAY), victim="a", converge_seconds=1.0))
    run.ledger.attempts.append(cut("a"))
    monkeypatch.setattr("tests.chaos.runner.gpu_lock.violations", lambda _: ["two at once"])
    await run.end()
    (found,) = run.rounds[0].findings
    assert found.startswith("a client (coder): connection lost amid the answer")
    assert run.rounds[0].violations == ["GPU: two at once"]


async def test_a_timeout_amid_the_rounds_is_not_taken_for_the_end_of_the_load(
    site: QuietSite,
) -> None:
    async def break_off() -> None:
        async with under_load(cast("Any", site)):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await break_off()


async def test_what_is_not_answered_in_the_end_is_told(
    site: QuietSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.runner.GIVE_UP_SECONDS", 0.2)
    async with under_load(cast("Any", site)) as run:
        run.rounds.append(Round(next(faults(1, 1)), converge_seconds=1.0))
        await asyncio.sleep(0)
    await run.end()
    assert len(run.rounds[0].unanswered) == len(run.clients("any"))


@pytest.mark.parametrize(
    ("converged", "asked", "failed"), [([20.0], 1, False), ([20.0], 2, True), ([None], 1, True)]
)
def test_a_run_that_ended_early_has_failed(
    run: Run, converged: list[float | None], asked: int, failed: bool
) -> None:
    run.rounds = [Round(next(faults(1, 1)), converge_seconds=each) for each in converged]
    assert report.failed(report.figures(run, seed=1), asked=asked) is failed


async def test_what_the_load_leaves_behind_is_waited_for(run: Run, site: QuietSite) -> None:
    run.rounds.append(Round(fault(Deed.KILL, Target.OPERATOR), converge_seconds=1.0))
    site.pods, site.in_flight = [pod("operator", 1)], [2, 0]
    run.killed["operator"] = 1
    await run.end()
    assert run.rounds[0].wrong() == []


async def test_what_stays_is_told(
    run: Run, site: QuietSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.runner._SETTLED_SECONDS", 0.1)
    run.rounds.append(Round(fault(Deed.KILL, Target.OPERATOR), converge_seconds=1.0))
    site.pods, site.in_flight = [pod("operator", 1)], [2]
    await run.end()
    assert run.rounds[0].findings == [
        "gateway still has 2 requests",
        "operator was restarted 1 times and killed 0 times",
    ]
