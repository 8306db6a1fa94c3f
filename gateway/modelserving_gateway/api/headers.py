"""Which headers travel through the gateway, in both directions, and the request's id.

Pure. All names are lower case, as both sides give them. Hop-by-hop headers (RFC 9110, section
7.6.1) end here. An answer's content-encoding survives, because its body passes as it is; a
request's does not, because engines get plain bodies.
"""

import random
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

_NOT_FOR_ENGINES: Final = {
    (readable, credentials): _HOP_BY_HOP
    | _MADE_ANEW_FOR_ENGINES
    | (_ACCEPT_ENCODING if readable else frozenset())
    | (frozenset() if credentials else _CREDENTIALS)
    for readable in (False, True)
    for credentials in (False, True)
}
_NOT_FOR_CLIENTS: Final = _HOP_BY_HOP | _MADE_ANEW_FOR_CLIENTS

_CONNECTION_OPTIONS: Final = frozenset({b"close", b""})
"""What `connection` names that is no header."""

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
    kept = _end_to_end(headers, _NOT_FOR_ENGINES[readable, credentials])
    kept.append((REQUEST_ID, request_id))
    return kept


def to_client(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return the headers of the engine's answer that belong to the client's."""
    return _end_to_end(headers, _NOT_FOR_CLIENTS)


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header, or None; all names are lower case."""
    for key, value in headers:
        if key == name:
            return value
    return None


def by_name(headers: RawHeaders) -> dict[bytes, bytes]:
    """Return the first value of each header."""
    return dict(reversed(headers))


def request_id(given: bytes | None) -> bytes:
    """Return the client's request id when it is a sound one, else a new one."""
    if given is not None and _ACCEPTABLE_ID.fullmatch(given):
        return given
    return b"%032x" % random.getrandbits(128)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], left_out: frozenset[bytes]) -> RawHeaders:
    kept: RawHeaders = []
    named: set[bytes] = set()
    for header in headers:
        name, value = header
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
        elif name not in left_out and not name.startswith(_OURS):
            kept.append(header)
    if named and named - _HOP_BY_HOP - _CONNECTION_OPTIONS:
        return [header for header in kept if header[0] not in named]
    return kept
