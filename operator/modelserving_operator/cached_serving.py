"""The copy of a ModelServing that turns go on with, and when it must be read again.

Pure: no reading and no clock here. Versions are the API server's and compared for equality alone.
"""

from collections import deque
from typing import Any, Final

from modelserving_operator.actions import RESYNC_SECONDS

_VERSIONS_KNOWN: Final = 16
"""A watch that lags by more of our own writes than this costs one read, nothing else."""

KubernetesObject = dict[str, Any]


class CachedServing:
    """What the API server has answered with last, and which versions were answered before.

    Times are in seconds of the monotonic clock.
    """

    def __init__(self, body: KubernetesObject, at: float) -> None:
        self.body = body
        self.uid: str = body["metadata"]["uid"]
        self._versions: deque[str] = deque(maxlen=_VERSIONS_KNOWN)
        self._doubtful = False
        self._told: str | None = None
        self.watch_behind_seconds = 0.0
        """For how long reads have shown what the watch does not tell, while it told nothing."""
        self._hold(body, at)

    def hold_read(self, body: KubernetesObject, at: float, told: str | None) -> None:
        """Take what a read that began at that time was answered with.

        `told`: the version that the watch had told of last by then; None if that is not known.
        """
        version = body["metadata"].get("resourceVersion", "")
        if told is not None and told == self._told and told != version:
            # Not what went by while nobody could read: the watch had the same trouble then.
            self.watch_behind_seconds += min(at - self._read_at, RESYNC_SECONDS)
        else:
            self.watch_behind_seconds = 0.0
        self._told = told
        self._hold(body, at)

    def _hold(self, body: KubernetesObject, at: float) -> None:
        self.body, self._read_at, self._doubtful = body, at, False
        self._versions.append(body["metadata"].get("resourceVersion", ""))

    def hold_written(self, body: KubernetesObject, at: float) -> None:
        """Take what a write of the status was answered with.

        One with somebody else's change in it is news that no turn has looked at: it is left to the
        watch to wake a turn for it, which then reads.
        """
        if _asked(body) == _asked(self.body):
            self._hold(body, at)

    def doubt(self) -> None:
        """Believe nothing until the next read: we have changed it, or may have, unseen."""
        self._doubtful = True

    def knows(self, version: str | None) -> bool:
        """Return whether a version is one that was read or written here, and no news."""
        return version in self._versions

    def believable(self, told: str | None, now: float) -> bool:
        """Return whether the body is still true; `told`: the version the watch told of last.

        For how long the watch's silence is believed is bounded, since it may have stalled.
        """
        return not self._doubtful and self.knows(told) and now - self._read_at < RESYNC_SECONDS


def _asked(body: KubernetesObject) -> tuple[Any, ...]:
    """Return what a ModelServing asks for: all of it that others write."""
    metadata = body["metadata"]
    return metadata.get("deletionTimestamp"), body.get("spec")
