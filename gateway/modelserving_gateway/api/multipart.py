"""Where the fields of a multipart/form-data body stand, without a copy of any part.

Pure. The whole body is in memory already, so that finding its boundaries is all there is to do.
Source: RFC 7578 and RFC 2046, section 5.1; bounds as in the server that vLLM uses (Starlette).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from modelserving_gateway.api.errors import invalid_body, unsupported_media_type

_MEDIA_TYPE: Final = "multipart/form-data"

_MAX_PARTS: Final = 1000
_MAX_HEAD: Final = 8192
"""Bytes of a part's headers: a content-disposition with a long file name is a tenth of it."""

_MAX_BOUNDARY: Final = 70
"""RFC 2046."""

_PARAMETER: Final = re.compile(
    r""";[ \t]*(?P<name>[^\s=;"]+)[ \t]*=[ \t]*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s;"]*))[ \t]*"""
)


@dataclass(frozen=True, slots=True)
class Field:
    """A part: its name, whether it is a file, and where its value stands in the body."""

    name: str
    is_file: bool
    start: int
    end: int


def boundary_of(content_type: bytes | None) -> bytes:
    """Return the boundary that a content-type names. Raises ApiError (400, 415)."""
    given = (content_type or b"").decode("latin-1")
    media_type, parameters = _parsed(given)
    if media_type != _MEDIA_TYPE:
        raise unsupported_media_type(given, _MEDIA_TYPE)
    boundary = parameters.get("boundary", "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise invalid_body(f"The content-type must name a boundary of 1 to {_MAX_BOUNDARY} bytes.")
    return boundary.encode("latin-1")


def fields(content: bytes, boundary: bytes) -> Iterator[Field]:
    """Yield the fields in their order. Raises ApiError (400) where the body is no form."""
    delimiter = b"\r\n--" + boundary
    # The first one begins the body, where it needs no line end before it.
    position = 2 if content.startswith(b"\r\n") else 0
    if not content.startswith(delimiter[2:], position):
        raise invalid_body("The body does not begin with the boundary that content-type names.")
    position += len(delimiter) - 2
    for _ in range(_MAX_PARTS):
        if content.startswith(b"--", position):
            return
        if not content.startswith(b"\r\n", position):
            raise invalid_body("A boundary in the body is not followed by a line end.")
        head_end = content.find(b"\r\n\r\n", position, position + _MAX_HEAD)
        if head_end < 0:
            raise invalid_body(f"The headers of a part do not end within {_MAX_HEAD} bytes.")
        start = head_end + 4
        end = content.find(delimiter, start)
        if end < 0:
            raise invalid_body("The body ends within a part.")
        name, is_file = _disposition(content[position + 2 : head_end])
        yield Field(name, is_file, start, end)
        position = end + len(delimiter)
    raise invalid_body(f"The body has more than {_MAX_PARTS} parts.")


def _disposition(head: bytes) -> tuple[str, bool]:
    """Return a part's name and whether it is a file, where all readers would find the same."""
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    given = [value for key, _, value in lines if key.strip().lower() == b"content-disposition"]
    if len(given) == 1:
        kind, parameters = _parsed(given[0].decode("utf-8", "replace"))
        if kind == "form-data" and "name" in parameters:
            return parameters["name"], bool({"filename", "filename*"} & parameters.keys())
    raise invalid_body("A part has no name: its content-disposition must be form-data with one.")


def _parsed(value: str) -> tuple[str, dict[str, str]]:
    """Return a header's value and its parameters, of which the first of a name counts.

    A header that does not end where its parameters do has none that all readers agree on.
    """
    main, semicolon, _ = value.partition(";")
    parameters: dict[str, str] = {}
    position = len(main)
    while semicolon and (match := _PARAMETER.match(value, position)) is not None:
        quoted = match["quoted"]
        text = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters.setdefault(match["name"].lower(), text)
        position = match.end()
    whole = not semicolon or not value[position:].strip("; \t")
    return main.strip().lower(), parameters if whole else {}
