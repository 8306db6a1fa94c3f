"""The errors that clients see, in OpenAI's or Anthropic's shape: one place for their wording.

Pure: nothing is sent or logged here. Sources: the API references of both, on errors.
"""

import json
import math
from enum import StrEnum
from typing import Final

MAX_RETRY_AFTER_SECONDS: Final = 60
"""OpenAI's clients ignore a Retry-After that is longer than a minute."""

_QUEUE_FULL_RETRY_SECONDS: Final = 5
"""Long enough for a few answers to leave the queue."""

_KEYS_RETRY_SECONDS: Final = 5
"""The file is looked at that often."""

_SHUTDOWN_RETRY_SECONDS: Final = 1
"""Another replica answers at once."""

_MAX_ECHO: Final = 200
"""A name that the client sent, or a line of an engine, is repeated up to this many characters."""


class Dialect(StrEnum):
    """Whose API the client speaks, and so whose error objects it reads."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _anthropic_type(status: int) -> str:
    """Return Anthropic's `type` for a status; theirs for 503 is the one they have for 529."""
    return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


class ApiError(Exception):
    """An answer that is an error: HTTP status and the fields of OpenAI's error object."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        pointless: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self._headers = headers
        self.pointless = pointless
        """Whether sending the same again gives the same: clients retry a 409 or 5xx by default."""

    @property
    def type(self) -> str:
        """Return OpenAI's `type`: who has to change something."""
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """Return the JSON body."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if dialect is Dialect.ANTHROPIC:
            error["type"] = _anthropic_type(self.status)
            return json.dumps({"type": "error", "error": error}).encode()
        return json.dumps({"error": error}).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to the error, content type included."""
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            seconds = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(self.retry_after)))
            headers.append((b"retry-after", str(seconds).encode()))
        if self.pointless:
            # OpenAI's and Anthropic's clients heed it before they look at the status.
            headers.append((b"x-should-retry", b"false"))
        return [*headers, *self._headers]


class EngineError(ApiError):
    """An error that an engine itself has answered with, and not the gateway."""


def invalid_body(message: str, *, param: str | None = None) -> ApiError:
    """400: the body cannot be understood."""
    return ApiError(400, "invalid_body", message, param=param)


def unsupported_encoding(given: str, accepted: tuple[str, ...]) -> ApiError:
    """415: the body is compressed in a way that is not known here (RFC 9110, section 15.5.16)."""
    message = f"The content-encoding {_echo(given)} is not supported; use {' or '.join(accepted)}."
    headers = ((b"accept-encoding", ", ".join(accepted).encode()),)
    return ApiError(415, "unsupported_content_encoding", message, headers=headers)


def unsupported_media_type(given: str, accepted: str) -> ApiError:
    """415: the body has another form than is read here."""
    message = f"The content-type {_echo(given)!r} is not supported here; use {accepted}."
    headers = ((b"accept", accepted.encode()),)
    return ApiError(415, "unsupported_media_type", message, headers=headers)


def body_too_large(limit: int) -> ApiError:
    """413: the body is over the limit."""
    return ApiError(413, "body_too_large", f"The body is larger than {limit} bytes, the most here.")


def body_too_slow(seconds: float) -> ApiError:
    """408: the body did not arrive in time."""
    return ApiError(408, "body_too_slow", f"The body did not arrive within {seconds:g} seconds.")


def invalid_api_key(*, given: bool) -> ApiError:
    """401: no key, or none that is valid. What was given is never repeated."""
    message = (
        "The API key is not valid here."
        if given
        else "You must provide an API key: Authorization: Bearer KEY, or x-api-key: KEY."
    )
    headers = ((b"www-authenticate", b"Bearer"),)
    return ApiError(401, "invalid_api_key", message, headers=headers)


def keys_unreadable() -> ApiError:
    """503: keys are required, and none have been read yet."""
    message = "The gateway cannot read its API keys; its log says why."
    return ApiError(503, "keys_unreadable", message, retry_after=_KEYS_RETRY_SECONDS)


def model_not_allowed(model: str) -> ApiError:
    """403: the key may not ask for this model."""
    message = f"This API key may not use the model `{_echo(model)}`. GET /v1/models lists the rest."
    return ApiError(403, "model_not_allowed", message, param="model")


def rate_limit_exceeded(limit: int, wait: float) -> ApiError:
    """429: the key's requests of this minute are used up; there is room in `wait` seconds."""
    message = f"This API key may send {limit} requests a minute, and has."
    return ApiError(429, "rate_limit_exceeded", message, retry_after=wait)


def too_many_in_flight(limit: int) -> ApiError:
    """429: the key has as many requests running or held as it may."""
    message = f"This API key may have {limit} requests in flight at once, and has."
    return ApiError(429, "too_many_in_flight", message, retry_after=_QUEUE_FULL_RETRY_SECONDS)


def path_not_found(path: str) -> ApiError:
    """404: nothing is served there."""
    return ApiError(404, "unknown_url", f"Nothing is served at {_echo(path)}.")


def method_not_allowed(method: str, path: str, allow: str) -> ApiError:
    """405: the path exists, with another method."""
    message = f"{_echo(method)} is not allowed at {_echo(path)}; use {allow}."
    headers = ((b"allow", allow.encode()),)
    return ApiError(405, "method_not_allowed", message, headers=headers)


def model_not_found(model: str) -> ApiError:
    """404: no ModelServing declares the model."""
    message = f"The model `{_echo(model)}` does not exist. GET /v1/models lists those that do."
    return ApiError(404, "model_not_found", message, param="model")


def not_ready_yet() -> ApiError:
    """503: the gateway has not read its ModelServings yet."""
    message = "The gateway has just started and does not know its models yet."
    return ApiError(503, "gateway_starting", message, retry_after=_SHUTDOWN_RETRY_SECONDS)


def model_load_failed(
    model: str, reason: str | None, message: str | None, retry_after: float | None
) -> ApiError:
    """503: the model failed to load and is not tried again before `retry_after` seconds.

    None: not before somebody changes its spec, so that asking again is of no use.
    """
    why = ": ".join(part for part in (reason, _in_short(message)) if part) or "no reason was given"
    text = f"The model `{model}` could not be loaded ({why})."
    if retry_after is None:
        text += " It is not tried again until its spec changes."
    return ApiError(
        503,
        "model_load_failed",
        text,
        param="model",
        retry_after=retry_after,
        pointless=retry_after is None,
    )


def model_pinned(model: str, pinned: str, serving: str) -> ApiError:
    """503: a person has pinned another model."""
    message = (
        f"The model `{model}` cannot be loaded: ModelServing {serving} is pinned to `{pinned}`"
        " (spec.activeModel)."
    )
    return ApiError(
        503, "model_pinned", message, param="model", retry_after=MAX_RETRY_AFTER_SECONDS
    )


def model_serving_invalid(model: str, serving: str, reason: str) -> ApiError:
    """503: the ModelServing that declares the model is not usable as it is written."""
    message = f"The model `{model}` is not served: ModelServing {serving} is invalid: {reason}"
    return ApiError(
        503,
        "model_serving_invalid",
        message,
        param="model",
        retry_after=MAX_RETRY_AFTER_SECONDS,
    )


def model_serving_deleted(model: str, serving: str) -> ApiError:
    """503: the ModelServing that declares the model is being deleted."""
    message = f"The model `{model}` is not served any more: ModelServing {serving} is deleted."
    return ApiError(503, "model_serving_deleted", message, param="model")


def model_not_ready_in_time(model: str, seconds: float, retry_after: float) -> ApiError:
    """503: the hold budget is over."""
    message = f"The model `{model}` was not ready within {seconds:g} seconds."
    return ApiError(503, "model_not_ready_in_time", message, param="model", retry_after=retry_after)


def model_busy_for_too_long(model: str, seconds: float) -> ApiError:
    """503: the model is served, but the hold budget was over before its turn came."""
    message = f"The model `{model}` had too much to do to begin within {seconds:g} seconds."
    return ApiError(
        503, "model_busy", message, param="model", retry_after=_QUEUE_FULL_RETRY_SECONDS
    )


def model_not_active(model: str, active: tuple[str, ...]) -> ApiError:
    """409: the client does not want to wait for a swap, and the model is not active."""
    now = f"Active now: {', '.join(active)}." if active else "No model is active now."
    message = f"The model `{model}` is not active, and the request refuses a swap. {now}"
    return ApiError(409, "model_not_active", message, param="model", pointless=True)


def path_not_served_by_model(model: str, path: str) -> ApiError:
    """400: the engine of the model has no such route."""
    message = f"The model `{model}` does not serve {path}: it is a model of another kind."
    return ApiError(400, "unsupported_by_model", message, param="model")


def invalid_header(name: str, expected: str) -> ApiError:
    """400: a header that asks something of the gateway cannot be understood."""
    return ApiError(400, "invalid_header", f"The header {name} must be {expected}.", param=name)


def malformed_request() -> ApiError:
    """400: what came is not HTTP/1.1."""
    return ApiError(400, "malformed_request", "The request is not valid HTTP/1.1.")


def headers_too_large(limit: int) -> ApiError:
    """431: the head of the request is above the limit."""
    return ApiError(431, "headers_too_large", f"The headers are larger than {limit} bytes.")


def too_many_connections(limit: int) -> ApiError:
    """503: this replica has all the connections that it may have."""
    message = f"This gateway has its {limit} connections. Send the request again."
    return ApiError(503, "too_many_connections", message, retry_after=1)


def headers_too_slow(seconds: float) -> ApiError:
    """408: the head of the request did not arrive in time."""
    message = f"The headers did not arrive within {seconds:g} seconds."
    return ApiError(408, "headers_too_slow", message)


def answer_too_large(model: str, size: int) -> ApiError:
    """502: an answer that is no stream of events cannot be told in an event."""
    message = f"The answer of `{model}` is no event stream, and has more than {size} bytes."
    return ApiError(502, "answer_too_large", message, param="model", pointless=True)


def engine_error(model: str, status: int, body: bytes) -> EngineError:
    """The engine's own error, where it does not come in the client's shape."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    fields = error if isinstance(error, dict) else {}
    message = fields.get("message", fields.get("detail"))
    if not isinstance(message, str) or not message:
        message = f"The engine of `{model}` answered with status {status}."
    code = fields.get("code")
    param = fields.get("param")
    return EngineError(
        status,
        code if isinstance(code, str) else "engine_error",
        message,
        param=param if isinstance(param, str) else None,
    )


def queue_full(model: str, what: str) -> ApiError:
    """429: no more requests are held."""
    message = f"Too many requests wait for the model `{model}` ({what}). Try again later."
    return ApiError(
        429, "queue_full", message, param="model", retry_after=_QUEUE_FULL_RETRY_SECONDS
    )


def bodies_full(limit: int) -> ApiError:
    """429: the bodies of other requests take all the memory there is for them."""
    message = f"The bodies of other requests take {limit} bytes together. Try again later."
    return ApiError(429, "bodies_full", message, retry_after=_QUEUE_FULL_RETRY_SECONDS)


def upstream_failed(model: str, attempts: int) -> ApiError:
    """502: the engine died again and again without an answer."""
    message = (
        f"The engine of `{model}` was lost before it answered, {attempts} times with this request."
    )
    return ApiError(502, "upstream_failed", message, param="model", pointless=True)


def upstream_lost(model: str) -> ApiError:
    """502: the engine was lost in the middle of its answer."""
    message = f"The engine of `{model}` was lost in the middle of its answer."
    return ApiError(502, "upstream_lost", message, param="model")


def upstream_timeout(model: str, seconds: float) -> ApiError:
    """504: the engine was silent for too long."""
    message = f"The engine of `{model}` was silent for {seconds:g} seconds."
    return ApiError(504, "upstream_timeout", message, param="model")


def shutting_down() -> ApiError:
    """503: this replica goes away and its budget is over."""
    message = "This gateway is being shut down. Send the request again; another one answers."
    return ApiError(503, "shutting_down", message, retry_after=_SHUTDOWN_RETRY_SECONDS)


def internal_error(request_id: str) -> ApiError:
    """500: a defect of the gateway; the log has the rest."""
    message = f"The gateway failed at this request; its log says more under {request_id}."
    return ApiError(500, "internal_error", message)


def _in_short(message: str | None) -> str:
    """Return what clients are told of a failure: what happened, and the last of its last words.

    The whole of it, an engine's traceback perhaps, is in the status for those who run the cluster.
    """
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    if len(lines) < 2:
        return _echo("".join(lines))
    return f"{_echo(lines[0].partition(';')[0])} … {_echo(lines[-1])}"


def _echo(text: str) -> str:
    return text if len(text) <= _MAX_ECHO else text[:_MAX_ECHO] + "…"
