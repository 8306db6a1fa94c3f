"""The JSON body of a request: which model it asks for, and the same body for another model.

Pure. The body is never re-serialised: only the bytes of `model`'s value are ever replaced.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from modelserving_gateway.errors import invalid_body
from modelserving_gateway.surface import Form

_DECODER: Final = json.JSONDecoder()
_MOST_VALUES: Final = 500_000
"""Each parsed value takes up to 200 bytes: 32 MiB of `{},` would take a gigabyte. A prompt of
128,000 token ids, or a batch of three such, is well below it."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object with a `model`."""

    content: bytes
    model: str
    stream: bool
    """Whether the client asks for its answer as server-sent events."""
    _text: str
    _start: int
    _end: int

    def for_model(self, name: str) -> bytes:
        """Return the body that asks for `name` instead; the same bytes when it does already."""
        if name == self.model:
            return self.content
        return (self._text[: self._start] + json.dumps(name) + self._text[self._end :]).encode()


def read_body(
    content: bytes,
    form: Form,
    content_type: bytes | None,
    content_encoding: bytes | None,
    limit: int,
) -> Body:
    """Parse the body. Raises ApiError (400) for anything but a JSON object with a `model`."""
    if content_encoding is not None and content_encoding.strip().lower() not in (b"", b"identity"):
        raise invalid_body("The body must not be compressed: content-encoding is not supported.")
    if sum(content.count(mark) for mark in b"{[,") > _MOST_VALUES:
        raise invalid_body(f"The body holds more than {_MOST_VALUES} values.")
    try:
        text = content.decode("utf-8")
        members = {key: span for key, *span in _members(text) if key in ("model", "stream")}
    except UnicodeDecodeError:
        raise invalid_body("The body must be JSON in UTF-8.") from None
    except RecursionError:
        raise invalid_body("The body is nested too deeply.") from None
    except ValueError:
        raise invalid_body("The body must be a JSON object.") from None
    # Of a name that is given twice the engine takes the last, so that one decides here too.
    if "model" not in members:
        raise invalid_body("You must provide a `model`.", param="model")
    model, start, end = members["model"]
    if not isinstance(model, str) or not model:
        raise invalid_body("`model` must be a string that is not empty.", param="model")
    stream = members.get("stream", (False,))[0] is True
    return Body(content, model, stream, text, start, end)


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield (name, value, start, end) of each member of the object that `text` is.

    Raises ValueError when it is not one JSON object, RecursionError when it is too deep.
    """
    position = _expect(text, _skip(text, 0), "{")
    if text[position : position + 1] == "}":
        _expect_end(text, position + 1)
        return
    while True:
        name, position = _DECODER.raw_decode(text, position)
        if not isinstance(name, str):
            raise ValueError("a name must be a string")
        start = _expect(text, _skip(text, position), ":")
        value, end = _DECODER.raw_decode(text, start)
        yield name, value, start, end
        position = _skip(text, end)
        if text[position : position + 1] == "}":
            _expect_end(text, position + 1)
            return
        position = _expect(text, position, ",")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _expect(text: str, position: int, mark: str) -> int:
    if text[position : position + 1] != mark:
        raise ValueError(f"{mark} expected at {position}")
    return _skip(text, position + 1)


def _expect_end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        raise ValueError("something follows the object")
