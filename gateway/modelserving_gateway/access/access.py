"""Who asks, and whether they may now: API keys and the limits of each.

Pure bookkeeping, by a clock that is passed in. Each replica limits by itself: nothing is shared.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from modelserving_api.priority import Priority
from modelserving_gateway.access.keys import Key, Keys
from modelserving_gateway.access.rate import MinuteRate
from modelserving_gateway.api import errors

_BEARER: Final = b"bearer"
_UNCOUNTED: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is; `models` None: all of them; `name` is empty where there are no keys."""

    name: str
    models: frozenset[str] | None
    priority: Priority
    """The most urgent class that it may ask for."""
    usual_priority: Priority
    """The class of its requests that ask for none."""
    max_in_flight: int | None = None
    requests_per_minute: int | None = None

    def may_use(self, model: str) -> bool:
        """Say whether it may ask for a declared model."""
        return self.models is None or model in self.models

    def require(self, model: str) -> None:
        """Raise ApiError (403) unless it may ask for a declared model."""
        if not self.may_use(model):
            raise errors.model_not_allowed(model)


ANONYMOUS: Final = Caller(
    name="", models=None, priority=Priority.HIGH, usual_priority=Priority.NORMAL
)
"""Everybody, where no keys are configured."""


@dataclass(slots=True)
class _Usage:
    rate: MinuteRate
    in_flight: int = 0


class Access:
    """The keys that are valid now, and what each of them has running."""

    def __init__(self, clock: Callable[[], float], *, required: bool) -> None:
        self.required = required
        """Whether keys are configured at all."""
        self._clock = clock
        self._keys: Keys | None = None
        self._usage: dict[str, _Usage] = {}

    @property
    def unreadable(self) -> bool:
        """Whether keys are needed and none have been read yet: then nobody gets in."""
        return self.required and self._keys is None

    def replace(self, keys: Keys) -> None:
        """Take other keys from now on; what a key has used already still counts."""
        self._keys = keys
        self._usage = {
            name: usage
            for name, usage in self._usage.items()
            if usage.in_flight or name in keys.names
        }

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return who asks. Raises ApiError: 401, or 503 while the keys cannot be read."""
        if not self.required:
            return ANONYMOUS
        if self._keys is None:
            raise errors.keys_unreadable()
        presented = list(_presented(headers))
        for each in presented:
            if (key := self._keys.find(each)) is not None:
                return _caller(key)
        raise errors.invalid_api_key(given=bool(presented))

    def entered(self, caller: Caller) -> AbstractContextManager[None]:
        """Count a request of the caller until the block ends. Raises ApiError (429)."""
        if caller.max_in_flight is None and caller.requests_per_minute is None:
            return _UNCOUNTED
        return self._counted(caller)

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        usage = self._usage.setdefault(caller.name, _Usage(MinuteRate()))
        if caller.max_in_flight is not None and usage.in_flight >= caller.max_in_flight:
            raise errors.too_many_in_flight(caller.max_in_flight)
        if caller.requests_per_minute is not None:
            wait = usage.rate.seconds_until_admitted(caller.requests_per_minute, self._clock())
            if wait > 0:
                raise errors.rate_limit_exceeded(caller.requests_per_minute, wait)
        usage.in_flight += 1
        try:
            yield
        finally:
            usage.in_flight -= 1


def _caller(key: Key) -> Caller:
    return Caller(
        key.name,
        key.models,
        key.priority,
        key.priority,
        key.max_in_flight,
        key.requests_per_minute,
    )


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield what may be a key: OpenAI's clients send it as a bearer token, Anthropic's by name."""
    for name, value in headers:
        match name.lower():
            case b"authorization":
                scheme, _, token = value.strip().partition(b" ")
                if scheme.lower() == _BEARER:
                    yield token.strip()
            case b"x-api-key":
                yield value.strip()
