"""What is stopped goes on."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness import stopped
from tests.unit.engines.conftest import eventually


def test_a_stopped_process_goes_on_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        for each in processes:
            # Nothing but these is in the /proc that is looked at.
            (tmp_path / str(each.pid)).symlink_to(f"/proc/{each.pid}")
        processes[0].send_signal(signal.SIGSTOP)
        eventually(lambda: _state(processes[0].pid) == "T")
        subprocess.run(["sh", "-c", stopped.RESUME, "sh", tmp_path], check=True)
        eventually(lambda: _state(processes[0].pid) == "S")
        assert _state(processes[1].pid) == "S"
    finally:
        for each in processes:
            each.kill()
            each.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_every_node_is_looked_at_and_its_kubelet_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("tests.harness.docker.docker", lambda *each: asked.append(each))
    stopped.resume(["one", "other"])
    assert [each[1:3] for each in asked] == [
        (node, program) for node in ("one", "other") for program in ("sh", "systemctl")
    ]
