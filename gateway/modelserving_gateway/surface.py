"""What the gateway serves, as an allowlist: everything else is 404, engine control paths first.

Pure. The path of a forwarded request is a constant from here, never the client's own.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelserving_gateway.errors import method_not_allowed, path_not_found


class Page(StrEnum):
    """What the gateway answers by itself."""

    MODELS = "models"
    STATUS = "status"
    HEALTH = "health"
    READY = "ready"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A request for an engine: the path that the engine serves it at."""

    path: str


@dataclass(frozen=True, slots=True)
class OneModel:
    """GET of a single model's description."""

    id: str


Route = Forwarded | OneModel | Page

_FORWARDED: Final = {
    prefix + path: Forwarded("/v1" + path)
    for prefix in ("/v1", "")
    for path in ("/chat/completions", "/completions", "/embeddings")
}

_PAGES: Final = {
    "/v1/models": Page.MODELS,
    "/models": Page.MODELS,
    "/status": Page.STATUS,
    "/healthz": Page.HEALTH,
    "/readyz": Page.READY,
    "/metrics": Page.METRICS,
}

_ONE_MODEL_PREFIXES: Final = ("/v1/models/", "/models/")
"""What follows is a model's id, slashes included ("mistralai/Mistral-7B")."""


def route(method: str, path: str) -> Route:
    """Return what is asked for. Raises ApiError (404, 405)."""
    if (forwarded := _FORWARDED.get(path)) is not None:
        if method != "POST":
            raise method_not_allowed(method, path, "POST")
        return forwarded
    page = _page(path)
    if page is None:
        raise path_not_found(path)
    if method not in ("GET", "HEAD"):
        raise method_not_allowed(method, path, "GET, HEAD")
    return page


def _page(path: str) -> Page | OneModel | None:
    if (page := _PAGES.get(path)) is not None:
        return page
    for prefix in _ONE_MODEL_PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            return OneModel(path.removeprefix(prefix))
    return None
