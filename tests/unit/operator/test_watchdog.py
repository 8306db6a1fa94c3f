"""The process ends rather than sits, whatever it sits on: tried on processes, from outside."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelserving_operator import watchdog
from modelserving_operator.reports import stale
from tests.unit.operator.hostile_server import HostileServer, running
from tests.unit.operator.test_hostile_api import PROGRAM, environment, free_port
from tests.unit.operator.world import model, spec

BLOCKED = """
import asyncio, sys, time
from modelserving_operator import watchdog

def block():
    {how}

async def main():
    asyncio.create_task(
        watchdog.watch(list, lambda error: None, blocked_after_seconds=1)
    )
    await asyncio.sleep(0.2)
    block()
    await asyncio.sleep(0.2)
    print("went on")

asyncio.run(main())
"""


HUNG = """
import asyncio
from modelserving_operator import watchdog

watchdog._LAST_GRACE_SECONDS = 0.5

async def main():
    watching = asyncio.create_task(
        watchdog.watch(list, lambda error: None, blocked_after_seconds=60)
    )
    await asyncio.sleep(0.2)
    watching.cancel()
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def ended(*command: str, within: float = 15, **options: Any) -> tuple[int, str]:
    """Run a program and return its exit status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, **options
    )
    try:
        async with asyncio.timeout(within):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise AssertionError(f"it sits for {within} s") from None
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    "how",
    [
        "time.sleep(30)",
        "while True: pass",
        # Holds the interpreter's lock all the time, so no thread of Python could end it.
        "pow(7, 10**9)",
    ],
)
async def test_a_blocked_loop_ends_the_process_and_tells_where(how: str) -> None:
    code, output = await ended(sys.executable, "-c", BLOCKED.format(how=how))
    assert code == 1
    assert "Timeout" in output
    assert "in block" in output
    assert "went on" not in output


async def test_a_loop_that_goes_on_is_let_alone() -> None:
    code, output = await ended(sys.executable, "-c", BLOCKED.format(how="time.sleep(0.5)"))
    assert (code, output) == (0, "went on\n")


async def test_a_process_that_is_to_end_and_does_not_is_ended() -> None:
    code, output = await ended(sys.executable, "-c", HUNG)
    assert code == 1
    assert "Timeout" in output


@pytest.fixture
def spared() -> Iterator[None]:
    """A watch that has ended sees to the end of the process, which is ours."""
    yield
    watchdog.stand_down()


@pytest.mark.usefixtures("spared")
async def test_what_is_stale_for_long_fails_the_operator() -> None:
    failed: list[BaseException] = []

    async with asyncio.timeout(10):
        await watchdog.watch(
            lambda: ["default/l4"], failed.append, blocked_after_seconds=60, patience_seconds=0.5
        )

    assert "default/l4" in str(failed[0])


@pytest.mark.usefixtures("spared")
async def test_what_is_stale_for_a_moment_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.05)
    failed: list[BaseException] = []
    looks = iter([["default/l4"], [], ["default/l4"], []])
    watching = asyncio.create_task(
        watchdog.watch(
            lambda: next(looks, []), failed.append, blocked_after_seconds=60, patience_seconds=0.08
        )
    )
    await asyncio.sleep(watchdog.BEAT_SECONDS * 10)
    watching.cancel()
    assert failed == []


def test_one_that_was_heard_of_and_never_reconciled_is_stale_in_time() -> None:
    sighted = {("default", "l4"): 100.0}
    assert stale(sighted, {}, 159.0, 60) == []
    assert stale(sighted, {}, 161.0, 60) == ["default/l4"]


async def test_the_operator_does_not_start_on_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        async with running(HostileServer()) as url:
            code, output = await ended(
                *PROGRAM,
                env=environment(url, tmp_path, MODELSERVING_STATUS_PORT=str(port)),
            )
    assert code == 1
    assert "address already in use" in output


async def test_the_page_of_a_running_operator_answers(tmp_path: Path) -> None:
    server, port = HostileServer(), free_port()
    server.put("modelservings", "l4", {"spec": spec(models=[model("mistral")])})
    async with running(server) as url, httpx.AsyncClient() as client:
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            env=environment(url, tmp_path, MODELSERVING_STATUS_PORT=str(port)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await server.until(
            lambda: "l4-mistral" in server.objects["deployments"], "it is reconciled"
        )
        health = await client.get(f"http://127.0.0.1:{port}/healthz")
        shown = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        process.terminate()
        async with asyncio.timeout(4):
            # Well before the kubelet's patience ends.
            assert await process.wait() == 0
    assert health.text == "ok\n"
    assert (
        'modelserving_api_requests_total{code="200",resource="deployments",verb="apply"}' in shown
    )
    assert "# TYPE modelserving_reconcile_latency_seconds histogram" in shown
