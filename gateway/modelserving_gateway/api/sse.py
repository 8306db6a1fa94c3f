"""Server-sent events on their way through: whole lines only, and the error that ends a stream.

Pure. Source: WHATWG HTML, server-sent events; OpenAI's streaming errors (`data: {"error": …}`).
"""

from functools import lru_cache
from typing import Final

from modelserving_gateway.api.errors import ApiError, Dialect

_MAX_HELD_BACK: Final = 1_048_576
"""1 MiB of one unfinished line, far above any event of an engine; then it passes as it is."""


@lru_cache(maxsize=64)
def is_event_stream(content_type: bytes | None, content_encoding: bytes | None) -> bool:
    """Say whether the body is readable as server-sent events (a compressed one is not)."""
    if content_type is None or content_encoding not in (None, b"identity"):
        return False
    return content_type.partition(b";")[0].strip().lower() == b"text/event-stream"


class WholeLines:
    """Passes bytes on up to the last line that is complete, and keeps the rest back.

    So a stream that breaks in the middle of a line never shows half an event to the client.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what may be passed on now."""
        if not self._rest and chunk.endswith(b"\n"):
            return chunk
        chunk = self._rest + chunk
        end = chunk.rfind(b"\n") + 1
        if len(chunk) - end > _MAX_HELD_BACK:
            end = len(chunk)
        self._rest = chunk[end:]
        return chunk[:end]

    def finish(self) -> bytes:
        """Return what was kept back, for a stream that has ended by itself."""
        rest, self._rest = self._rest, b""
        return rest


def event(data: bytes) -> bytes:
    """Return an event with those data, each line of them in a line of its own."""
    return b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""]) + b"\n"


def comment(text: str) -> bytes:
    """Return a comment, which clients pass over; `text` is one line."""
    return f": {text}\n\n".encode()


def error_event(error: ApiError, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """Return the event that ends a stream; the blank line before it ends a started event."""
    name = b"event: error\n" if dialect is Dialect.ANTHROPIC else b""
    return b"\n" + name + b"data: " + error.body(dialect) + b"\n\n"
