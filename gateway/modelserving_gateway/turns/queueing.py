"""The queue of held requests: earliest due first for each model, bounded in number and bytes.

Pure: it neither waits nor knows of sockets. Each operation keeps R5 (nothing is dropped silently)
and R6 (what waits is bounded). Why "due" and not a queue for each class: modelserving_api.priority.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from modelserving_api.priority import Priority, most_urgent


@dataclass(frozen=True, slots=True)
class Held:
    """A request that waits. Its place is the same for ever, retries included."""

    sequence: int
    """Its place in arrival order."""
    model: str
    size: int
    """Bytes of its body, kept in memory while it waits."""
    arrived: datetime
    priority: Priority = Priority.NORMAL
    due: float = 0.0
    """Its arrival by a clock that never goes back, and the handicap of its class, in seconds."""

    @property
    def place(self) -> "Place":
        """What it is ordered by among all that waits for its model."""
        return self.due, self.sequence


Place = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what is held."""

    requests_each_model: int
    requests_all: int
    bytes_all: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one model."""

    count: int
    size: int
    oldest: datetime
    priority: Priority = Priority.NORMAL
    """The most urgent class of it."""


class QueueFullError(Exception):
    """No more may be held; the message says which bound is met."""


@dataclass(slots=True)
class _Queue:
    """What waits for one model: places and sequences sorted, so that both ends are at hand."""

    places: list[Place] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    size: int = 0
    classes: dict[Priority, int] = field(default_factory=dict)
    """How many of each class."""

    def add(self, held: Held) -> None:
        insort(self.places, held.place)
        insort(self.sequences, held.sequence)
        self.held[held.sequence] = held
        self.size += held.size
        self.classes[held.priority] = self.classes.get(held.priority, 0) + 1

    def remove(self, sequence: int) -> bool:
        held = self.held.pop(sequence, None)
        if held is None:
            return False
        del self.places[bisect_left(self.places, held.place)]
        del self.sequences[bisect_left(self.sequences, sequence)]
        self.size -= held.size
        self.classes[held.priority] -= 1
        return True

    def told(self) -> Waiting:
        """Return what it comes to."""
        urgent = most_urgent(each for each, count in self.classes.items() if count)
        return Waiting(len(self.held), self.size, self.held[self.sequences[0]].arrived, urgent)


class HeldRequests:
    """All queues of one gateway."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[str, _Queue] = {}
        self._count = 0
        self._size = 0

    def admit(self, held: Held) -> None:
        """Take in a new request. Raises QueueFullError."""
        if self.count(held.model) >= self._limits.requests_each_model:
            raise QueueFullError(f"{self._limits.requests_each_model} requests are held for it")
        if self._count >= self._limits.requests_all:
            raise QueueFullError(f"{self._limits.requests_all} requests are held for all models")
        if self._size + held.size > self._limits.bytes_all:
            raise QueueFullError(f"{self._limits.bytes_all} bytes are held")
        self.put_back(held)

    def put_back(self, held: Held) -> None:
        """Take back a request that was admitted before, at its old place.

        Bounds don't apply: it was accepted, so it must be answered (R5). What comes back was being
        forwarded before, and while the queue is over its bounds nothing new is admitted.
        """
        self._queues.setdefault(held.model, _Queue()).add(held)
        self._count += 1
        self._size += held.size

    def leave(self, held: Held) -> bool:
        """Take a request out; say whether it was in."""
        queue = self._queues.get(held.model)
        if queue is None or not queue.remove(held.sequence):
            return False
        self._count -= 1
        self._size -= held.size
        if not queue.held:
            del self._queues[held.model]
        return True

    def models(self) -> tuple[str, ...]:
        """Return the models that something waits for."""
        return tuple(self._queues)

    def count(self, model: str) -> int:
        """Return how many wait for a model."""
        queue = self._queues.get(model)
        return 0 if queue is None else len(queue.held)

    def ahead_of(self, held: Held) -> int:
        """Return how many of what waits for its model go before a request."""
        queue = self._queues.get(held.model)
        return 0 if queue is None else bisect_left(queue.places, held.place)

    def in_order(self, model: str) -> Iterator[Held]:
        """Yield what waits for a model, the earliest due first. It may leave meanwhile."""
        queue = self._queues.get(model)
        if queue is None:
            return
        for _, sequence in tuple(queue.places):
            held = queue.held.get(sequence)
            if held is not None:
                yield held

    def waiting(self) -> dict[str, Waiting]:
        """Return what waits, by model."""
        return {model: queue.told() for model, queue in self._queues.items()}

    @property
    def size(self) -> int:
        """Bytes of all bodies held."""
        return self._size

    def __len__(self) -> int:
        return self._count
