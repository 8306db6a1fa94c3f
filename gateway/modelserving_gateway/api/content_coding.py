"""Compressed request bodies, made plain: engines read no others.

Pure. Bounded by what comes out, so that a small body cannot become a large one. Source: RFC 9110,
section 8.4.1.
"""

import zlib
from typing import Final

from modelserving_gateway.api.errors import body_too_large, invalid_body, unsupported_encoding

ACCEPTED: Final = ("gzip", "deflate")

_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
_RAW_DEFLATE: Final = -zlib.MAX_WBITS

_PLAIN: Final = (b"", b"identity")


def is_plain(content_encoding: bytes | None) -> bool:
    """Say whether a body with this header is as large as its content-length says."""
    return content_encoding is None or content_encoding.strip().lower() in _PLAIN


def decoded(content: bytes, content_encoding: bytes | None, limit: int) -> bytes:
    """Return the plain body, at most `limit` bytes. Raises ApiError (400, 413, 415)."""
    if content_encoding is None or is_plain(content_encoding):
        return content
    match content_encoding.strip().lower():
        case b"gzip" | b"x-gzip":
            window = _GZIP
        case b"deflate":
            window = _ZLIB if _has_zlib_header(content) else _RAW_DEFLATE
        case _:
            raise unsupported_encoding(content_encoding.decode("latin-1"), ACCEPTED)
    return _inflated(content, window, limit)


def _has_zlib_header(content: bytes) -> bool:
    """Say whether it is what `deflate` means (RFC 1950); some clients send RFC 1951 without it."""
    return len(content) > 1 and content[0] & 0x0F == 8 and int.from_bytes(content[:2]) % 31 == 0


def _inflated(content: bytes, window: int, limit: int) -> bytes:
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(content, limit + 1)
    except zlib.error:
        raise invalid_body("The body cannot be decompressed as content-encoding says.") from None
    if len(plain) > limit:
        raise body_too_large(limit)
    if not inflater.eof:
        raise invalid_body("The compressed body is not whole.")
    # One member is what clients send; each further one would be copied as often as there are more.
    if inflater.unused_data:
        raise invalid_body("Something follows the compressed body.")
    return plain
