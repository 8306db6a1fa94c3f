"""An engine's own error, in the shape that its client reads.

Pure. vLLM answers Anthropic's clients in OpenAI's shape where a request is not valid, and in none
at all where it fails by itself ("Internal Server Error").
"""

import json
from typing import Any

from modelserving_gateway.api import errors
from modelserving_gateway.api.errors import MAX_RETRY_AFTER_SECONDS, Dialect
from modelserving_gateway.api.headers import RawHeaders


def in_shape(status: int, body: bytes, dialect: Dialect, model: str) -> bytes:
    """Return the body as it is where it has the client's shape, else what it says, in that."""
    if _has_shape(_parsed(body), dialect):
        return body
    return errors.engine_error(model, status, body).body(dialect)


def soon(headers: RawHeaders) -> RawHeaders:
    """Return the headers with no retry-after above a minute, which clients would not heed."""
    return [(name, _soon(value) if name == b"retry-after" else value) for name, value in headers]


def _soon(retry_after: bytes) -> bytes:
    """Return it, or a minute where it is more; also for a date, which no engine sends."""
    few_digits = len(retry_after) < 3 and retry_after.isdigit()
    is_soon = few_digits and int(retry_after) <= MAX_RETRY_AFTER_SECONDS
    return retry_after if is_soon else b"%d" % MAX_RETRY_AFTER_SECONDS


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _has_shape(answer: Any, dialect: Dialect) -> bool:
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), dict):
        return False
    is_anthropics = answer.get("type") == "error"
    return is_anthropics is (dialect is Dialect.ANTHROPIC) and "message" in answer["error"]
