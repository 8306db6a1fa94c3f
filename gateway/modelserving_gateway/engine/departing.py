"""Recognises the answers of an engine that is going away, which are no answers.

Pure. vLLM has no status of its own for them: while it drains its port stays open, and a new request
gets a 500; one that it ends by itself gets a 200 whose finish_reason is "abort". Passed on, that
would be a lost request; the next engine answers it.
"""

from enum import StrEnum
from typing import Final


class Departure(StrEnum):
    """What such an answer says about the request."""

    NOT_BEGUN = "not begun"
    BROKEN_OFF = "broken off"


_MESSAGES: Final = (
    # vLLM 0.32 after SIGTERM, from its executor.
    (b"cannot schedule new futures after shutdown", Departure.NOT_BEGUN),
    # vllm.v1.engine.exceptions.EngineDeadError: the engine process is gone, its server follows.
    (b"EngineCore encountered an issue", Departure.BROKEN_OFF),
)

_ABORTED: Final = b'"finish_reason":"abort"'
"""In a message of a model the quotes would be escaped."""

_ERRORS: Final = (b'{"error":', b'{"type":"error"', b'{"type": "error"')
"""How an event that is an error begins, in OpenAI's shape and in Anthropic's."""

_LONGEST: Final = 16_384
"""Bytes; these errors are a line, and a larger body is not searched."""


def departure(status: int, body: bytes) -> Departure | None:
    """Return what the answer says, when it is one of an engine that is going away."""
    if status == 200 and is_aborted(body):
        return Departure.BROKEN_OFF
    if status not in (500, 503) or len(body) > _LONGEST:
        return None
    return next((kind for message, kind in _MESSAGES if message in body), None)


def is_aborted(body: bytes) -> bool:
    """Say whether an answer says that the engine has given up."""
    return _ABORTED in body


def before_departure(events: bytes) -> bytes | None:
    """Return the lines before the event that says the engine goes away, None without one."""
    if _ABORTED not in events and not any(message in events for message, _ in _MESSAGES):
        return None
    position = 0
    for line in events.splitlines(keepends=True):
        if _ABORTED in line or _is_departing_error(line):
            return events[:position]
        position += len(line)
    return None


def _is_departing_error(line: bytes) -> bool:
    """Say whether the line is an error event with such a message; a model may well write one."""
    data = line.removeprefix(b"data:").lstrip()
    if data is line or not data.startswith(_ERRORS):
        return False
    return any(message in data for message, _ in _MESSAGES)
