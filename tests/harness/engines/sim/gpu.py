"""The GPU of the stand-in: one lock on the node, and the record of who held it when.

The lock is flock(2): the kernel lets go of it when the process is gone, however it went, and not
before. That makes it the oracle for "no two engine processes are ever alive at once". Standard
library only, since the harness reads the same files on the host (`tests.harness.engines.gpu_lock`).
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK_FILE = "gpu.lock"
HISTORY_FILE = "history.jsonl"
VIOLATIONS_FILE = "violations.jsonl"
STARTS_DIRECTORY = "starts"


@dataclass(frozen=True)
class Holder:
    """Who has the GPU, or wanted it."""

    pod: str
    model: str
    pid: int


class GpuInUseError(Exception):
    """Another engine is alive on this node. The violation has been written down."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"the GPU is held by {holder.pod} ({holder.model})")
        self.holder = holder


class Gpu:
    """The GPU as one engine process sees it."""

    def __init__(self, directory: Path, me: Holder) -> None:
        self._directory = directory
        self._me = me
        self._lock: int | None = None

    def acquire(self) -> None:
        """Take the GPU; it stays taken until `release` or the end of the process.

        Raises GpuInUseError when another process has it, after appending the violation, and
        OSError when the directory is not there or not writable.
        """
        descriptor = _open(self._directory / LOCK_FILE, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            self._append(VIOLATIONS_FILE, holder=asdict(holder), intruder=asdict(self._me))
            raise GpuInUseError(holder) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(self._me)).encode(), 0)
        self._lock = descriptor
        self.record("acquired")

    def release(self) -> None:
        """Let go of the GPU, as an engine does that goes to sleep."""
        if self._lock is None:
            return
        self.record("released")
        os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = None

    def record(self, event: str) -> None:
        """Append a line to the node's history of the GPU, for whoever looks into a failure."""
        self._append(HISTORY_FILE, event=event, holder=asdict(self._me))

    def count_start(self, name: str) -> int:
        """How often an engine of this name has started on this node, this time included.

        Counted only while the GPU is held, so no two count at once.
        """
        starts = self._directory / STARTS_DIRECTORY
        starts.mkdir(exist_ok=True)
        if starts.stat().st_uid == os.geteuid():
            starts.chmod(0o777)
        path = starts / name.replace("/", "_")
        count = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(count))
        return count

    def _append(self, name: str, **content: Any) -> None:
        line = json.dumps({"time": datetime.now(UTC).isoformat(), **content}) + "\n"
        descriptor = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def _read_holder(descriptor: int) -> Holder:
    content = os.pread(descriptor, 4096, 0)
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):  # it has the lock and has not written its name yet
        return Holder(pod="unknown", model="unknown", pid=0)


def _open(path: Path, flags: int) -> int:
    """Open a file that engines of any user may write, making it when it is not there.

    O_CREAT only then: in a sticky directory the kernel may refuse it for another user's file
    (fs.protected_regular).
    """
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o666)  # whatever our umask is
    return descriptor
