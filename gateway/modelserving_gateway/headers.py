"""Which headers travel through the gateway, in both directions, and the request's id.

Pure. Hop-by-hop headers (RFC 9110, section 7.6.1) end here. An answer's content-encoding survives,
because its body passes as it is; a request's does not, because engines get plain bodies.
"""

import os
import re
from collections.abc import Iterable
from typing import Final

RawHeaders = list[tuple[bytes, bytes]]

REQUEST_ID: Final = b"x-request-id"

HELD_SECONDS: Final = b"x-modelserving-held-seconds"
"""On every answer of a held request: how long it waited for its model."""

MODEL: Final = b"x-modelserving-model"
"""On every answer of a model: the name it is declared by."""

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_MADE_ANEW_FOR_ENGINES: Final = frozenset(
    {b"host", b"content-length", b"content-encoding", b"expect", REQUEST_ID}
)
"""They describe the client's message to us, not ours to the engine."""

_MADE_ANEW_FOR_CLIENTS: Final = frozenset({b"content-length", b"date", b"server", REQUEST_ID})
"""The server that answers the client sets them for what it really sends."""

_OURS: Final = b"x-modelserving-"
"""Headers between clients and the gateway: engines neither get nor give one."""

_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key"})
_ACCEPT_ENCODING: Final = frozenset({b"accept-encoding"})

_ACCEPTABLE_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
"""Visible ASCII: an id is written to logs and sent back."""


def to_engine(
    headers: Iterable[tuple[bytes, bytes]],
    request_id: bytes,
    *,
    readable: bool = False,
    credentials: bool = True,
) -> RawHeaders:
    """Return the headers of the request to the engine; names are lower case.

    `readable`: its answer must come uncompressed. `credentials`: whether the client's own pass,
    which they must not where they are the gateway's keys.
    """
    left_out = _MADE_ANEW_FOR_ENGINES
    if readable:
        left_out |= _ACCEPT_ENCODING
    if not credentials:
        left_out |= _CREDENTIALS
    return [*_end_to_end(headers, left_out), (REQUEST_ID, request_id)]


def to_client(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return the headers of the engine's answer that belong to the client's."""
    return _end_to_end(headers, _MADE_ANEW_FOR_CLIENTS)


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header, or None; `name` is lower case."""
    return next((value for key, value in headers if key.lower() == name), None)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the client's request id when it is a sound one, else a new one."""
    given = first(headers, REQUEST_ID)
    if given is not None and _ACCEPTABLE_ID.fullmatch(given):
        return given
    return os.urandom(16).hex().encode()


def _end_to_end(
    headers: Iterable[tuple[bytes, bytes]], made_anew: frozenset[bytes]
) -> list[tuple[bytes, bytes]]:
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for token in value.split(b",")
    }
    return [
        (name, value)
        for name, value in lowered
        if name not in _HOP_BY_HOP
        and name not in made_anew
        and name not in named
        and not name.startswith(_OURS)
    ]
