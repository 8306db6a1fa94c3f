"""The queue of held requests: in arrival order for each model, bounded in number and bytes.

Pure: it neither waits nor knows of sockets. Each operation keeps R5 (nothing is dropped silently)
and R6 (what waits is bounded).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Held:
    """A request that waits. Its sequence number is its place for ever, retries included."""

    sequence: int
    model: str
    size: int
    """Bytes of its body, kept in memory while it waits."""
    arrived: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is held."""

    requests_each_model: int
    bytes_all: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one model."""

    count: int
    size: int
    oldest: datetime


class QueueFullError(Exception):
    """No more may be held; the message says which bound is met."""


class HeldRequests:
    """All queues of one gateway."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[str, dict[int, Held]] = {}
        self._sizes: dict[str, int] = {}

    def admit(self, held: Held) -> None:
        """Take in a new request, last in its queue. Raises QueueFullError."""
        if len(self._queues.get(held.model, ())) >= self._limits.requests_each_model:
            raise QueueFullError(f"{self._limits.requests_each_model} requests are held for it")
        if self.size + held.size > self._limits.bytes_all:
            raise QueueFullError(f"{self._limits.bytes_all} bytes are held")
        self.put_back(held)

    def put_back(self, held: Held) -> None:
        """Take back a request that was admitted before, at its old place.

        Bounds don't apply: it was accepted, so it must be answered (R5). What comes back was being
        forwarded before, and while the queue is over its bounds nothing new is admitted.
        """
        queue = self._queues.setdefault(held.model, {})
        in_order = not queue or next(reversed(queue)) < held.sequence
        queue[held.sequence] = held
        self._sizes[held.model] = self._sizes.get(held.model, 0) + held.size
        if not in_order:
            self._queues[held.model] = dict(sorted(queue.items()))

    def leave(self, held: Held) -> bool:
        """Take a request out; say whether it was in."""
        queue = self._queues.get(held.model)
        if queue is None or queue.pop(held.sequence, None) is None:
            return False
        self._sizes[held.model] -= held.size
        if not queue:
            del self._queues[held.model]
            del self._sizes[held.model]
        return True

    def models(self) -> tuple[str, ...]:
        """Return the models that something waits for."""
        return tuple(self._queues)

    def in_order(self, model: str) -> Iterator[Held]:
        """Yield what waits for a model, the oldest first. It may leave meanwhile."""
        yield from tuple(self._queues.get(model, {}).values())

    def waiting(self) -> dict[str, Waiting]:
        """Return what waits, by model."""
        return {
            model: Waiting(len(queue), self._sizes[model], next(iter(queue.values())).arrived)
            for model, queue in self._queues.items()
        }

    @property
    def size(self) -> int:
        """Bytes of all bodies held."""
        return sum(self._sizes.values())

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())
