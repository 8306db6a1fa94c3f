"""Sim engines as real processes. Each has its own GPU directory unless a test shares one."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.harness.engines import gpu_lock

# Loading and leaving take milliseconds here; more than this means that it hangs.
PATIENCE_SECONDS = 10

# What our manifests pass, and flags that only vLLM knows.
FLAGS = ("--port", "0", "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager")


def eventually(holds: Callable[[], bool]) -> None:
    """Return once `holds` does; fails when it has not within PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class SimProcess:
    """An engine process; `url` waits until it serves."""

    def __init__(self, model: str, flags: tuple[str, ...], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tests.harness.engines.sim", "--model", f"/models/{model}"]
        self._process = subprocess.Popen(
            [*command, "--served-model-name", model, f"tiny-{model}", *FLAGS, *flags],
            env={**os.environ, "HOSTNAME": f"{model}-pod", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._port: int | None = None
        self._settled = threading.Event()  # it serves, or it is gone
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if match := re.search(r"serving on port (\d+)", line):
                self._port = int(match[1])
                self._settled.set()
        self._settled.set()

    @property
    def url(self) -> str:
        assert self._settled.wait(PATIENCE_SECONDS)
        assert self._port is not None, self.log
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for_log(self, text: str) -> None:
        """Return once the process has written `text`."""
        eventually(lambda: text in self.log)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        code = self._process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, path: str = "/v1/chat/completions", **body: object) -> httpx.Response:
        content = {"messages": [{"role": "user", "content": "hello there"}], **body}
        return httpx.post(self.url + path, json=content, timeout=PATIENCE_SECONDS)

    def metric(self, name: str) -> float:
        """The value of a metric without labels of its own."""
        exposed = httpx.get(self.url + "/metrics").text
        match = re.search(rf"^vllm:{name}{{.*}} (\S+)$", exposed, re.MULTILINE)
        assert match, exposed
        return float(match[1])

    def close(self) -> None:
        if self.is_alive:
            self._process.kill()
        self._process.wait()


Start = Callable[..., SimProcess]


@pytest.fixture
def gpu(tmp_path: Path) -> Path:
    return gpu_lock.prepare(tmp_path / "gpu")


@pytest.fixture
def start(gpu: Path) -> Iterator[Start]:
    """Start engines that share the test's GPU; they are gone when the test is."""
    started: list[SimProcess] = []

    def start_one(model: str, *flags: str, **environment: str) -> SimProcess:
        process = SimProcess(model, flags, {"SIM_GPU_DIR": str(gpu), **environment})
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.close()


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimProcess]:
    """An engine that the tests of a module ask and do not disturb."""
    directory = gpu_lock.prepare(tmp_path_factory.mktemp("gpu"))
    flags = ("--max-num-seqs", "2", "--max-model-len", "100")
    process = SimProcess("mistral", flags, {"SIM_GPU_DIR": str(directory)})
    yield process
    process.close()
