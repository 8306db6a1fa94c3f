"""Children of a benchmark: each pinned to one core, and gone with whoever started it."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

LOAD_CORE: Final = 0
PROXY_CORE: Final = 1

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that the kernel sends to a child whose parent has died."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rest_on_core(core: int) -> None:
    """Pin this process to one core."""
    os.sched_setaffinity(0, {core})


_WORKING_DIRECTORIES: Final = "bench-gateway-"


@contextmanager
def working_directory() -> Iterator[Path]:
    """Make a directory for a run; what a run that was killed has left goes as well."""
    for left in Path(tempfile.gettempdir()).glob(f"{_WORKING_DIRECTORIES}*"):
        if not Path("/proc", left.name.removeprefix(_WORKING_DIRECTORIES)).exists():
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.gettempdir(), f"{_WORKING_DIRECTORIES}{os.getpid()}")
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def child(
    argv: Sequence[str | Path], core: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program on one core, its output in `log`; it is killed at the end, and with us.

    To be called in the main thread: the kernel watches the thread that has started it.
    """

    def before() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, {core})

    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            preexec_fn=before,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def wait_until_it_answers(
    url: str, process: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    """Wait for a 200. Raises RuntimeError with the end of the log when there is none."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if await asyncio.to_thread(_answers, url):
            return
        await asyncio.sleep(0.1)
    said = log.read_text(errors="replace")[-3000:]  # noqa: ASYNC240 - nothing else goes on
    raise RuntimeError(f"{url} does not answer:\n{said}")


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False


def resident_bytes(pid: int) -> int:
    """Return the memory of a process (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def open_sockets(pid: int) -> int:
    """Return how many sockets a process holds."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(entry).startswith("socket:")
    return count
