"""What the gateway serves, as an allowlist: everything else is 404, engine control paths first.

Pure. The path of a forwarded request is a constant from here, never the client's own; whatever an
engine adds to its own routes stays out of reach until it is written here.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelserving_gateway.api.errors import Dialect, method_not_allowed, path_not_found


class Page(StrEnum):
    """What the gateway answers by itself."""

    MODELS = "models"
    STATUS = "status"
    HEALTH = "health"
    READY = "ready"
    METRICS = "metrics"
    OPENAPI = "openapi"


class Form(StrEnum):
    """How the body of a request says its `model`."""

    JSON = "application/json"
    MULTIPART = "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request for an engine: where the engine serves it, its body's form, its errors' shape."""

    path: str
    form: Form = Form.JSON
    dialect: Dialect = Dialect.OPENAI
    streams: bool = True
    """Whether `stream` in the body means anything here; elsewhere engines ignore it."""


@dataclass(frozen=True, slots=True)
class OneModel:
    """GET of a single model's description."""

    id: str


Route = Forwarded | OneModel | Page

_ENGINE_PATHS: Final = (
    Forwarded("/v1/chat/completions"),
    Forwarded("/v1/completions"),
    Forwarded("/v1/responses"),
    Forwarded("/v1/embeddings", streams=False),
    Forwarded("/v1/rerank", streams=False),
    Forwarded("/v1/score", streams=False),
    Forwarded("/v1/audio/transcriptions", Form.MULTIPART),
    Forwarded("/v1/audio/translations", Form.MULTIPART),
    Forwarded("/v1/messages", dialect=Dialect.ANTHROPIC),
    Forwarded("/v1/messages/count_tokens", dialect=Dialect.ANTHROPIC, streams=False),
)
"""Where vLLM 0.32 serves them (vllm/entrypoints/*/api_router.py)."""

_ENGINE_PATHS_AT_THE_ROOT: Final = (
    Forwarded("/tokenize", streams=False),
    Forwarded("/detokenize", streams=False),
)
"""vLLM serves those two without /v1 only."""

FORWARDED: Final = {
    **{each.path: each for each in _ENGINE_PATHS},
    **{each.path.removeprefix("/v1"): each for each in _ENGINE_PATHS},
    **{each.path: each for each in _ENGINE_PATHS_AT_THE_ROOT},
    **{"/v1" + each.path: each for each in _ENGINE_PATHS_AT_THE_ROOT},
    "/v2/rerank": Forwarded("/v2/rerank", streams=False),
}

PAGES: Final = {
    "/v1/models": Page.MODELS,
    "/models": Page.MODELS,
    "/status": Page.STATUS,
    "/healthz": Page.HEALTH,
    "/readyz": Page.READY,
    "/metrics": Page.METRICS,
    "/openapi.json": Page.OPENAPI,
}

_ONE_MODEL_PREFIXES: Final = ("/v1/models/", "/models/")
"""What follows is a model's id, slashes included ("mistralai/Mistral-7B")."""


def route(method: str, path: str) -> Route:
    """Return what is asked for. Raises ApiError (404, 405)."""
    if (forwarded := FORWARDED.get(path)) is not None:
        if method != "POST":
            raise method_not_allowed(method, path, "POST")
        return forwarded
    page = _page(path)
    if page is None:
        raise path_not_found(path)
    if method not in ("GET", "HEAD"):
        raise method_not_allowed(method, path, "GET, HEAD")
    return page


def dialect_of(path: str) -> Dialect:
    """Return whose API a path belongs to, whether or not anything is served there."""
    below = path.removeprefix("/v1") + "/"
    return Dialect.ANTHROPIC if below.startswith("/messages/") else Dialect.OPENAI


def _page(path: str) -> Page | OneModel | None:
    if (page := PAGES.get(path)) is not None:
        return page
    for prefix in _ONE_MODEL_PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            return OneModel(path.removeprefix(prefix))
    return None
