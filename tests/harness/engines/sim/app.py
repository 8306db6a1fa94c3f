"""The application: vLLM's routes put together, its own pages, and its errors."""

import time
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import wire
from .answers import RequestError
from .asking import UnknownModelError
from .behaviour import Behaviour
from .engine import Engine, ShuttingDownError
from .failures import die_of_memory
from .generating import Generating
from .gpu import GpuInUseError
from .options import Options
from .understanding import Understanding

VERSION = "0.32.0+sim"


def build(options: Options, behaviour: Behaviour, engine: Engine, *, dev_mode: bool) -> Starlette:
    """The application; the sleep routes exist only in vLLM's development mode."""
    pages = _Pages(options, engine)
    paths = [
        Route("/health", pages.health),
        Route("/ping", pages.health, methods=["GET", "POST"]),
        Route("/version", pages.version),
        Route("/metrics", pages.metrics),
        Route("/v1/models", pages.models),
        *Generating(options, behaviour, engine).routes(),
        *Understanding(options, engine).routes(),
    ]
    if dev_mode:
        paths += [
            Route("/sleep", pages.sleep, methods=["POST"]),
            Route("/wake_up", pages.wake_up, methods=["POST"]),
            Route("/is_sleeping", pages.is_sleeping),
        ]
    handlers: dict[Any, Any] = {
        RequestError: _bad_request,
        UnknownModelError: _unknown_model,
        ShuttingDownError: _shutting_down,
        ClientDisconnect: _gone,
        404: _not_found,
        405: _not_found,
    }
    return Starlette(routes=paths, exception_handlers=handlers)


class _Pages:
    def __init__(self, options: Options, engine: Engine) -> None:
        self._options = options
        self._engine = engine
        self._created = int(time.time())

    async def health(self, request: Request) -> Response:
        return Response()

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def metrics(self, request: Request) -> Response:
        return Response(self._engine.metrics.exposition(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        options = self._options
        return JSONResponse(
            wire.model_list(
                options.served_model_names, options.model, self._created, options.max_model_len
            )
        )

    async def sleep(self, request: Request) -> Response:
        level = request.query_params.get("level", "1")
        mode = request.query_params.get("mode", "abort")
        if level not in ("0", "1", "2"):
            raise RequestError(f"level must be 0, 1 or 2, got {level}", param="level")
        if mode not in ("abort", "wait"):
            raise RequestError(f"this engine knows abort and wait, not {mode}", param="mode")
        await self._engine.sleep(abort=mode == "abort")
        return JSONResponse({"status": "sleeping", "level": int(level)})

    async def wake_up(self, request: Request) -> Response:
        try:
            self._engine.wake_up()
        except GpuInUseError:
            die_of_memory()
        return JSONResponse({"status": "awake", "tags": None})

    async def is_sleeping(self, request: Request) -> Response:
        return JSONResponse({"is_sleeping": self._engine.is_sleeping})


async def _bad_request(request: Request, error: RequestError) -> Response:
    return JSONResponse(wire.error(str(error), "BadRequestError", 400, error.param), 400)


async def _unknown_model(request: Request, error: UnknownModelError) -> Response:
    message = f"The model `{error}` does not exist."
    if request.url.path.startswith("/v1/messages"):
        return JSONResponse(wire.anthropic_error(message, "NotFoundError"), 404)
    return JSONResponse(wire.error(message, "NotFoundError", 404, "model"), 404)


async def _shutting_down(request: Request, error: ShuttingDownError) -> Response:
    # Word for word what vLLM 0.32 answers while it drains: its port stays open until the end.
    message = "cannot schedule new futures after shutdown"
    if request.url.path.startswith("/v1/messages"):
        return JSONResponse(wire.anthropic_error(message, "InternalServerError"), 500)
    return JSONResponse(wire.error(message, "InternalServerError", 500), 500)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is nginx's


async def _not_found(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": error.detail}, error.status_code)
