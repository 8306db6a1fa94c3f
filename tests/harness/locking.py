"""Two people running the harness at once wait for each other instead of breaking each other.

File locks that the kernel gives back when their holder dies; never a PID file to go stale.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.paths import cache_directory
from tests.harness.progress import note

_held: set[int] = set()


def held() -> tuple[int, ...]:
    """Return the descriptors of the locks this process holds, for its children to inherit.

    If we are killed, a child goes on (kind creating a cluster, a compiler). As long as it
    runs the lock stays taken, and the next run waits for it instead of working against it.
    """
    return tuple(_held)


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the lock `name` of this cache directory while the block runs.

    Waits for as long as another process holds it, and says so. Not re-entrant.
    """
    path = cache_directory("locks") / name
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"  … another run of the harness works on {name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        _held.add(handle.fileno())
        try:
            yield
        finally:
            _held.discard(handle.fileno())


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give the block an empty directory on the cache's file system, and remove it afterwards.

    To be called with the lock of the same work held: what a killed run has left under this
    name is removed first.
    """
    home = cache_directory("scratch")
    for leftover in home.glob(f"{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
