"""The body of a request: which model it asks for, and the same body for another model.

Pure. The body is never re-serialised: only the bytes of `model`'s value are ever replaced.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from modelserving_gateway.api import multipart
from modelserving_gateway.api.content_coding import decoded
from modelserving_gateway.api.errors import invalid_body
from modelserving_gateway.api.surface import Form

_DECODER: Final = json.JSONDecoder(parse_int=float)
"""Numbers are not looked at; as a float any of them is read in time, while Python refuses integers
of more than 4300 digits."""

_MOST_VALUES: Final = 500_000
"""Each parsed value takes up to 200 bytes: 32 MiB of `{},` would take a gigabyte. A prompt of
128,000 token ids, or a batch of three such, is well below it."""

_LONGEST_FIELD: Final = 4096
"""Bytes of a form's `model` or `stream`; a model's name or alias is a few hundred at most."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")

_TRUE: Final = frozenset({b"1", b"on", b"t", b"true", b"y", b"yes"})
"""What vLLM's forms take for true (pydantic's conversion from strings)."""


@dataclass(slots=True)
class Body:
    """A JSON object or a form with a `model`, decompressed."""

    content: bytes
    model: str
    stream: bool
    """Whether the client asks for its answer as server-sent events."""
    _form: Form
    _span: tuple[int, int] | None = None
    """Where the model's name stands in the content; None where nobody has looked yet."""

    def for_model(self, name: str) -> bytes:
        """Return the body that asks for `name` instead; the same bytes when it does already.

        Raises ApiError (400).
        """
        if name == self.model:
            return self.content
        start, end = self._span or _walked(self.content)._span or (0, 0)
        value = name if self._form is Form.MULTIPART else json.dumps(name)
        view = memoryview(self.content)
        return b"".join((view[:start], value.encode(), view[end:]))


def read_body(
    content: bytes,
    form: Form,
    content_type: bytes | None,
    content_encoding: bytes | None,
    limit: int,
) -> Body:
    """Read the body of that form, at most `limit` bytes when it is decompressed.

    Raises ApiError: 400 for what is no such body with a `model`, 413 for one that is too large, 415
    for one in another form or coding.
    """
    content = decoded(content, content_encoding, limit)
    if form is Form.MULTIPART:
        return _read_form(content, multipart.boundary_of(content_type))
    return _read_json(content)


def _read_form(content: bytes, boundary: bytes) -> Body:
    found: dict[str, multipart.Field] = {}
    for field in multipart.fields(content, boundary):
        if field.name not in ("model", "stream"):
            continue
        # Which of two counts is not the same in all servers: one that asks so is not understood.
        if field.name in found:
            raise invalid_body(f"`{field.name}` is given twice.", param=field.name)
        if field.is_file or field.end - field.start > _LONGEST_FIELD:
            raise invalid_body(f"`{field.name}` must be a short text.", param=field.name)
        found[field.name] = field
    model = found.get("model")
    if model is None:
        raise invalid_body("You must provide a `model`.", param="model")
    try:
        name = content[model.start : model.end].decode()
    except UnicodeDecodeError:
        raise invalid_body("`model` must be UTF-8.", param="model") from None
    if not name:
        raise invalid_body("`model` must not be empty.", param="model")
    stream = found.get("stream")
    asks_for_events = stream is not None and (
        content[stream.start : stream.end].strip().lower() in _TRUE
    )
    return Body(content, name, asks_for_events, Form.MULTIPART, (model.start, model.end))


def _read_json(content: bytes) -> Body:
    if len(content) > _MOST_VALUES and sum(map(content.count, b"{[,")) > _MOST_VALUES:
        raise invalid_body(f"The body holds more than {_MOST_VALUES} values.")
    # Where this does not do, the slow way finds out why, or reads what orjson is too strict for.
    with suppress(orjson.JSONDecodeError):
        value = orjson.loads(content)
        if isinstance(value, dict) and isinstance(model := value.get("model"), str) and model:
            return Body(content, model, value.get("stream") is True, Form.JSON)
    return _walked(content)


def _walked(content: bytes) -> Body:
    """Read it member by member, with the place of the model's name."""
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
    span = (_offset(text, start), _offset(text, end))
    return Body(content, model, stream, Form.JSON, span)


def _offset(text: str, position: int) -> int:
    """Return the position in bytes of what is at `position` in the text."""
    return position if text.isascii() else len(text[:position].encode())


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield (name, value, start, end) of each member of the object that `text` is.

    Raises ValueError when it is not one JSON object, RecursionError when it is too deep.
    """
    # A mark that some clients put first; engines read over it, and it reaches them.
    begin = 1 if text.startswith("\ufeff") else 0
    position = _expect(text, _skip(text, begin), "{")
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
