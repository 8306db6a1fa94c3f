"""Locks between runs of the harness, with real processes that are really killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import locking
from tests.harness.paths import cache_directory

_ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def _contend(name: str) -> subprocess.Popen[str]:
    """Start a process that says when it has a lock."""
    return _start(
        "from tests.harness.locking import exclusive\n"
        f"with exclusive({name!r}):\n"
        "    print('have it', flush=True)\n"
    )


def test_a_second_run_says_that_it_waits_and_goes_on_when_the_first_is_done() -> None:
    with locking.exclusive("work"):
        second = _contend("work")
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
    assert second.communicate(timeout=20)[0] == "have it\n"


def test_work_under_another_lock_does_not_wait() -> None:
    with locking.exclusive("work"):
        output, errors = _contend("other").communicate(timeout=20)
    assert (output, errors) == ("have it\n", "")


def test_the_lock_of_a_killed_run_is_held_until_its_child_ends() -> None:
    holder = _start(
        "from tests.harness.locking import exclusive\n"
        "from tests.harness.process import run\n"
        "with exclusive('work'):\n"
        "    print('begun', flush=True)\n"
        "    run(['sh', '-c', 'echo $$ > \"$XDG_CACHE_HOME/child\"; exec sleep 60'])\n"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "begun\n"
    child = Path(os.environ["XDG_CACHE_HOME"]) / "child"
    deadline = time.monotonic() + 20
    while not (child.exists() and child.read_text().strip()):
        assert time.monotonic() < deadline
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = cache_directory("locks") / "work"
    taken = subprocess.run(["flock", "--nonblock", lock, "true"], check=False)
    assert taken.returncode == 1
    os.kill(int(child.read_text()), signal.SIGKILL)
    freed = subprocess.run(["flock", "--timeout", "10", lock, "true"], check=False)
    assert freed.returncode == 0


def test_what_a_killed_run_left_is_removed_before_the_work_begins_anew() -> None:
    leftover = cache_directory("scratch", "work-killed")
    (leftover / "file").touch()
    unrelated = cache_directory("scratch", "other-work")
    with locking.scratch("work") as directory:
        assert not leftover.exists()
        assert list(directory.iterdir()) == []
    assert not directory.exists()
    assert unrelated.exists()


def test_a_failed_block_leaves_nothing_behind() -> None:
    def fail() -> None:
        with locking.scratch("work") as directory:
            (directory / "file").touch()
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert list(cache_directory("scratch").iterdir()) == []
