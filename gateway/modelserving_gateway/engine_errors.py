"""An engine's own error, in the shape that its client reads.

Pure. vLLM answers Anthropic's clients in OpenAI's shape where a request is not valid, and in none
at all where it fails by itself ("Internal Server Error").
"""

import json
from typing import Any

from modelserving_gateway import errors
from modelserving_gateway.errors import Dialect


def in_shape(status: int, body: bytes, dialect: Dialect, model: str) -> bytes:
    """Return the body as it is where it has the client's shape, else what it says, in that."""
    if _has_shape(_parsed(body), dialect):
        return body
    return errors.engine_error(model, status, body).body(dialect)


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
