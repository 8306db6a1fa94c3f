"""Requests per minute: never more than the limit within any minute, whenever it begins.

Pure: time is passed in, in seconds of a clock that never goes back.
"""

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 60.0


class MinuteRate:
    """The requests of the last minute.

    A token bucket would let twice the limit through in the minute after an idle one; the times of
    what was admitted are few, and exact.
    """

    def __init__(self) -> None:
        self._admitted: deque[float] = deque()

    def seconds_until_admitted(self, limit: int, now: float) -> float:
        """Count one request more and return 0, or return in how many seconds there is room."""
        while self._admitted and self._admitted[0] <= now - WINDOW_SECONDS:
            self._admitted.popleft()
        if len(self._admitted) < limit:
            self._admitted.append(now)
            return 0.0
        # The limit may have been lowered meanwhile: then more than one has to grow old.
        return self._admitted[len(self._admitted) - limit] + WINDOW_SECONDS - now
