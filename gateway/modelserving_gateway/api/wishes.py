"""What a client may ask of the gateway itself, by X-ModelServing-* headers.

Pure. None of them is needed, none of them reaches an engine; a value that is not understood is an
error, since a wish that is silently not followed is worse.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from modelserving_api.priority import Priority, at_most
from modelserving_gateway.api.errors import invalid_header
from modelserving_gateway.api.headers import RawHeaders

_PREFIX: Final = b"x-modelserving-"

PRIORITY: Final = "X-ModelServing-Priority"
SWAP: Final = "X-ModelServing-Swap"
FALLBACK: Final = "X-ModelServing-Fallback"
HOLD_SECONDS: Final = "X-ModelServing-Hold-Seconds"

_MOST_FALLBACKS: Final = 16
"""Each is looked up on every request; nobody ranks more models than a node can hold."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one request asks for."""

    priority: Priority = Priority.NORMAL
    may_swap: bool = True
    """Whether it may wait for a model that is not active, and so have it swapped in."""
    fallback: tuple[str, ...] = ()
    """Models that do as well when they are active and the one asked for is not."""
    hold_seconds: float = math.inf
    """How long it waits at most."""


_NONE: Final = {priority: Wishes(priority=priority) for priority in Priority}
"""Those of a request that asks for nothing."""


def read_wishes(headers: RawHeaders, *, usual: Priority, most: Priority) -> Wishes:
    """Read the headers of a request. Raises ApiError (400).

    `usual` is the priority of a request that asks for none, `most` the highest that it may have.
    """
    for name, _ in headers:
        if name.startswith(_PREFIX):
            break
    else:
        return _NONE[usual]
    given = {name: value.decode("latin-1").strip() for name, value in headers if _is_ours(name)}
    return Wishes(
        priority=at_most(_priority(_get(given, PRIORITY), usual), most),
        may_swap=_may_swap(_get(given, SWAP)),
        fallback=_fallback(_get(given, FALLBACK)),
        hold_seconds=_hold_seconds(_get(given, HOLD_SECONDS)),
    )


def _is_ours(name: bytes) -> bool:
    return name.startswith(_PREFIX)


def _get(given: dict[bytes, str], name: str) -> str | None:
    return given.get(name.lower().encode())


def _priority(value: str | None, usual: Priority) -> Priority:
    if value is None:
        return usual
    try:
        return Priority(value.lower())
    except ValueError:
        raise invalid_header(PRIORITY, "high, normal or low") from None


def _may_swap(value: str | None) -> bool:
    if value is None or value.lower() == "allow":
        return True
    if value.lower() == "never":
        return False
    raise invalid_header(SWAP, "allow or never")


def _fallback(value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    models = tuple(model for part in value.split(",") if (model := part.strip()))
    if not models or len(models) > _MOST_FALLBACKS:
        raise invalid_header(FALLBACK, f"1 to {_MOST_FALLBACKS} models with commas, or *")
    return models


def _hold_seconds(value: str | None) -> float:
    if value is None:
        return math.inf
    if _SECONDS.fullmatch(value) is None:
        raise invalid_header(HOLD_SECONDS, "a number of seconds such as 30 or 2.5")
    return float(value)
