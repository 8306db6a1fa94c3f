"""What this gateway has running on each engine, and whether an engine may get another request.

Pure: times are passed in. Two bounds meet here: how much runs on one engine at a time, and a
pause for an engine that cannot be reached, which grows until it is heard of again. There is no
half-open state as in other circuit breakers: a refused connection costs next to nothing, and one
long completion as the only trial would keep all others waiting.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 5.0
"""The operator takes a lost engine's endpoint out within a second or two; what is left is a broken
network, and after it has healed nobody should wait for long."""


def pause_seconds(failures: int) -> float:
    """Return how long to wait before an engine is tried again, after so many earlier failures."""
    return float(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 9)))


@dataclass(slots=True)
class _Engine:
    in_flight: int = 0
    failures: int = 0
    """Since it was last heard of."""
    closed_until: float = 0.0


class Engines:
    """All engines that are served from, by endpoint."""

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._engines: dict[str, _Engine] = {}

    def room(self, endpoint: str, now: float) -> int:
        """Return how many more requests the engine may get at this moment."""
        engine = self._engines.get(endpoint)
        if engine is None:
            return self._max_in_flight
        return 0 if now < engine.closed_until else self._max_in_flight - engine.in_flight

    def in_flight(self, endpoint: str) -> int:
        """Return how many requests run there."""
        engine = self._engines.get(endpoint)
        return 0 if engine is None else engine.in_flight

    def full(self, endpoint: str) -> bool:
        """Say whether the engine is well and has all it may have."""
        engine = self._engines.get(endpoint)
        return (
            engine is not None and engine.failures == 0 and engine.in_flight >= self._max_in_flight
        )

    def begin(self, endpoint: str) -> None:
        """Count a request that is sent there."""
        if (engine := self._engines.get(endpoint)) is None:
            engine = self._engines[endpoint] = _Engine()
        engine.in_flight += 1

    def end(self, endpoint: str) -> None:
        """Count a request that does not run there any more, whatever came of it."""
        self._engines[endpoint].in_flight -= 1

    def heard_of(self, endpoint: str) -> bool:
        """Note that the engine has answered; say whether that ends a pause."""
        engine = self._engines[endpoint]
        if not engine.failures:
            return False
        engine.failures = 0
        engine.closed_until = 0.0
        return True

    def not_reached(self, endpoint: str, now: float) -> float:
        """Note that the engine could not be reached; return when it may be tried again."""
        engine = self._engines[endpoint]
        if now >= engine.closed_until:
            engine.closed_until = now + pause_seconds(engine.failures)
            engine.failures += 1
        return engine.closed_until

    def appeared(self, endpoints: Iterable[str]) -> None:
        """Forget the failures of engines whose endpoint was just published (again)."""
        for endpoint in endpoints:
            if (engine := self._engines.get(endpoint)) is not None:
                engine.failures = 0
                engine.closed_until = 0.0

    def retain(self, endpoints: frozenset[str]) -> None:
        """Forget every engine that is not among those and has nothing running."""
        for endpoint in self._engines.keys() - endpoints:
            if not self._engines[endpoint].in_flight:
                del self._engines[endpoint]

    def by_endpoint(self) -> dict[str, int]:
        """Return what runs, by endpoint."""
        return {endpoint: engine.in_flight for endpoint, engine in self._engines.items()}
