"""Whatever ends a fault, what it stopped goes on."""

import asyncio
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from tests.chaos.injecting import inject
from tests.harness.errors import HarnessError
from tests.harness.faults import Deed, Fault, Kind, Moment, Target
from tests.unit.engines.conftest import eventually

PAUSE = Fault(0, Kind(Deed.PAUSE, Target.OPERATOR), Moment.SERVING, 0, 30, 0)
SHORT = replace(PAUSE, pause_seconds=0.01)
SITE = cast("Any", None)


@dataclass
class Process:
    """Notes what is done to it; is stopped only when the test lets it be."""

    done: list[str] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    let: threading.Event = field(default_factory=threading.Event)
    refused: int = 0
    """How often it cannot be resumed."""

    def kill(self) -> None: ...

    def pause(self) -> None:
        self.begun.set()
        assert self.let.wait(10)
        self.done.append("paused")

    def resume(self) -> None:
        if self.refused:
            self.refused -= 1
            raise HarnessError("the node does not answer")
        self.done.append("resumed")

    def replaced(self) -> bool:
        return False


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    async def find(*_: object) -> tuple[Process, str]:
        return made, "operator-1"

    made = Process()
    monkeypatch.setattr("tests.chaos.injecting._find", find)
    return made


async def test_what_is_being_stopped_when_the_run_is_broken_off_goes_on(process: Process) -> None:
    injecting = asyncio.create_task(inject(SITE, PAUSE, "east"))
    await asyncio.to_thread(process.begun.wait)
    injecting.cancel()
    await asyncio.sleep(0)
    process.let.set()
    await asyncio.wait([injecting])
    assert injecting.cancelled()
    assert process.done == ["paused", "resumed"]


async def test_what_is_stopped_when_the_run_is_broken_off_goes_on(process: Process) -> None:
    process.let.set()
    injecting = asyncio.create_task(inject(SITE, PAUSE, "east"))
    await asyncio.to_thread(eventually, lambda: bool(process.done))
    injecting.cancel()
    await asyncio.wait([injecting])
    assert process.done == ["paused", "resumed"]


@pytest.mark.parametrize(("refused", "error"), [(1, False), (1000, True)])
async def test_what_cannot_be_resumed_is_tried_again_and_told(
    process: Process, monkeypatch: pytest.MonkeyPatch, refused: int, error: bool
) -> None:
    monkeypatch.setattr("tests.chaos.injecting._RESUME_SECONDS", 1.0)
    process.refused = refused
    process.let.set()
    injecting = asyncio.create_task(inject(SITE, SHORT, "east"))
    await asyncio.wait([injecting])
    assert (injecting.exception() is not None) is error
    assert (process.done == ["paused", "resumed"]) is not error


def test_sigterm_is_an_orderly_end() -> None:
    program = """if True:
        import asyncio
        from tests.chaos.__main__ import end_in_order

        async def run():
            try:
                print("running", flush=True)
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                print("resumed", flush=True)

        end_in_order()
        asyncio.run(run())
    """
    running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "running\n"
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=20)[0] == "resumed\n"
