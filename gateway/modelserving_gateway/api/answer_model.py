"""The `model` of an engine's answer, given back as the name that the client asked for.

Pure. Only the bytes of that value change: nothing is re-serialised, and what a model has written is
never touched, since only the places where an API says `model` are looked at.
"""

import json
import re
from typing import Final

_PLACES: Final = frozenset({(), (b"response",), (b"message",)})
"""Which objects have the `model` of an answer: the answer itself, the response in an event of the
Responses API, the message in Anthropic's `message_start`; never two of them. Deeper ones are
somebody's own: the input of a tool, metadata."""

_TOKEN: Final = re.compile(
    rb"""
    "(?P<string>[^"\\]*+(?:\\.[^"\\]*+)*+)(?:"|\\?\Z) (?P<colon>[ \t\r\n]*:)?
    | (?P<open>[{\[])
    | (?P<close>[}\]])
    """,
    re.VERBOSE | re.DOTALL,
)
"""Of JSON, only strings and nesting matter here. A quote inside of a string is always escaped, so
what looks like a member there never is one. A string that is cut off is one too: without that, each
of its quotes would be tried as the beginning of another."""


class AnswerModel:
    """Replaces the declared name of a model by the one that was asked for."""

    def __init__(self, asked: str, declared: str) -> None:
        self._declared = json.dumps(declared)[1:-1].encode()
        self._asked = json.dumps(asked)[1:-1].encode()
        self._quoted = b'"' + self._declared + b'"'
        self._last_seen = self._last_sent = b"\0"
        """The beginning of the last event, name included, as it came and as it was passed on."""

    def in_body(self, body: bytes) -> bytes:
        """Return a JSON answer, or the beginning of one, with the name replaced."""
        span = self._find(body)
        if span is None:
            return body
        return b"".join((body[: span[0]], self._asked, body[span[1] :]))

    def in_events(self, lines: bytes) -> bytes:
        """Return whole lines of server-sent events with the name replaced in their data."""
        if self._quoted not in lines:
            return lines
        return b"".join(
            self._in_event(line) if line.startswith(b"data:") else line
            for line in lines.splitlines(keepends=True)
        )

    def _in_event(self, line: bytes) -> bytes:
        # The events of a stream mostly begin alike (id, object, created, model): what was found
        # once is at the same place again.
        if line.startswith(self._last_seen):
            return self._last_sent + line[len(self._last_seen) :]
        span = self._find(line)
        if span is None:
            return line
        start, end = span
        self._last_seen = line[: end + 1]
        self._last_sent = b"".join((line[:start], self._asked, b'"'))
        return self._last_sent + line[end + 1 :]

    def _find(self, text: bytes) -> tuple[int, int] | None:
        """Return where the name stands first, quotes excluded."""
        last = text.rfind(self._quoted)
        path: list[bytes] = []
        name = b""
        for token in _TOKEN.finditer(text):
            if token.start() > last:
                return None
            if token["colon"] is not None:
                name = token["string"]
                continue
            if token["open"] is not None:
                path.append(name)
            elif token["close"] is not None:
                if path:
                    path.pop()
            elif (
                token["string"] == self._declared
                and name == b"model"
                and path
                and tuple(path[1:]) in _PLACES
            ):
                return token.span("string")
            name = b""
        return None


def answer_model(asked: str, declared: str) -> AnswerModel | None:
    """Return what replaces the name in answers, or None when it is the right one already."""
    return None if asked == declared else AnswerModel(asked, declared)


def is_rewritable(content_type: bytes | None, content_encoding: bytes | None) -> bool:
    """Say whether an answer is JSON that can be read: a transcript as text has no `model`."""
    if content_type is None or content_encoding not in (None, b"identity"):
        return False
    return content_type.partition(b";")[0].strip().lower() in (
        b"application/json",
        b"text/event-stream",
    )
