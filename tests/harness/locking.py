"""Two people running the harness at once wait for each other instead of breaking each other.

File locks that the kernel gives back when their holder dies; never a PID file to go stale.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.paths import cache_directory
from tests.harness.progress import note


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
        yield
