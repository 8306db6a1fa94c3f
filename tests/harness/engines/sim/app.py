"""vLLM's HTTP surface: routes, validation, streams. What an answer says is decided elsewhere."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from . import answers, wire
from .answers import RequestError
from .behaviour import Behaviour
from .engine import Engine, Piece, ShuttingDownError
from .failures import die_of_memory
from .gpu import GpuInUseError
from .options import Options

VERSION = "0.32.0+sim"
T = TypeVar("T")


class UnknownModelError(Exception):
    """The request names a model that this engine does not serve."""


def build(options: Options, behaviour: Behaviour, engine: Engine, *, dev_mode: bool) -> Starlette:
    """The application; the sleep routes exist only in vLLM's development mode."""
    routes = _Routes(options, behaviour, engine)
    paths = [
        Route("/health", routes.health),
        Route("/ping", routes.health, methods=["GET", "POST"]),
        Route("/version", routes.version),
        Route("/metrics", routes.metrics),
        Route("/v1/models", routes.models),
        Route("/v1/chat/completions", routes.chat, methods=["POST"]),
        Route("/v1/completions", routes.text, methods=["POST"]),
        Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
    ]
    if dev_mode:
        paths += [
            Route("/sleep", routes.sleep, methods=["POST"]),
            Route("/wake_up", routes.wake_up, methods=["POST"]),
            Route("/is_sleeping", routes.is_sleeping),
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


class _Routes:
    def __init__(self, options: Options, behaviour: Behaviour, engine: Engine) -> None:
        self._options = options
        self._behaviour = behaviour
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

    async def chat(self, request: Request) -> Response:
        body = await self._body(request)
        prompt = answers.chat_prompt(body.get("messages"))
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return await self._complete(request, body, prompt, limit, wire.Chat)

    async def text(self, request: Request) -> Response:
        body = await self._body(request)
        prompt = answers.text_prompt(body.get("prompt"))
        # OpenAI's default for text completions, and vLLM's.
        return await self._complete(request, body, prompt, body.get("max_tokens", 16), wire.Text)

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request)
        self._engine.check_accepting()
        inputs = body.get("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise RequestError("input must be a string or a list of strings", param="input")
        as_base64 = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": wire.embedding(t, as_base64=as_base64)}
            for i, t in enumerate(texts)
        ]
        counted = wire.usage(sum(len(text.split()) for text in texts), 0)
        name = self._options.name
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": counted})

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

    async def _body(self, request: Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.body())
        except ValueError as error:
            raise RequestError(f"JSON decode error: {error}") from None
        if not isinstance(body, dict):
            raise RequestError("the body must be an object")
        model = body.get("model", self._options.name)  # vLLM does not insist on a model either
        if model not in self._options.served_model_names:
            raise UnknownModelError(str(model))
        return body

    async def _complete(
        self,
        request: Request,
        body: dict[str, Any],
        prompt: answers.Prompt,
        limit: Any,
        shape: wire.Shape,
    ) -> Response:
        self._check(prompt, limit, body)
        answer = answers.answer(
            self._options.name,
            prompt,
            limit=limit,
            usual=self._behaviour.tokens,
            ignore_eos=body.get("ignore_eos") is True,
        )
        pieces = self._engine.generate(prompt.tokens, answer, _pace(body))
        head = {
            "id": f"{shape.prefix}-{uuid.uuid4().hex[:16]}",
            "created": int(time.time()),
            "model": self._options.name,
        }
        # The first piece decides between an error with a status and an answer.
        if body.get("stream"):
            with_usage = (body.get("stream_options") or {}).get("include_usage") is True
            stream = _stream(head, shape, prompt.tokens, pieces, with_usage=with_usage)
            begun = await _unless_disconnected(request, anext(stream))
            return StreamingResponse(_resume(begun, stream), media_type="text/event-stream")
        whole = _collect(head, shape, prompt.tokens, pieces)
        return JSONResponse(await _unless_disconnected(request, whole))

    def _check(self, prompt: answers.Prompt, limit: Any, body: dict[str, Any]) -> None:
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise RequestError(f"max_tokens must be at least 1, got {limit}", param="max_tokens")
        if body.get("n", 1) != 1:
            raise RequestError("this engine gives one choice: n must be 1", param="n")
        context = self._options.max_model_len
        if prompt.tokens + (limit or 1) > context:
            raise RequestError(
                f"This model's maximum context length is {context} tokens; the request needs "
                f"{prompt.tokens + (limit or 1)}.",
                param="max_tokens",
            )


def _pace(body: dict[str, Any]) -> float | None:
    """Seconds per token, when the request sets its own in vLLM's free-form vllm_xargs."""
    value = (body.get("vllm_xargs") or {}).get("sim_seconds_per_token")
    return float(value) if isinstance(value, int | float) and value >= 0 else None


async def _collect(
    head: dict[str, Any], shape: wire.Shape, prompt_tokens: int, pieces: AsyncGenerator[Piece, None]
) -> dict[str, Any]:
    tokens: list[str] = []
    reason = answers.FINISH_ABORTED
    async with aclosing(pieces):
        async for piece in pieces:
            tokens.append(piece.token)
            reason = piece.finish_reason or reason
    counted = wire.usage(prompt_tokens, len(tokens))
    return {**shape.whole(head, "".join(tokens), reason), "usage": counted}


async def _stream(
    head: dict[str, Any],
    shape: wire.Shape,
    prompt_tokens: int,
    pieces: AsyncGenerator[Piece, None],
    *,
    with_usage: bool,
) -> AsyncGenerator[bytes, None]:
    count = 0
    async with aclosing(pieces):
        async for piece in pieces:
            if count == 0 and (opening := shape.first(head)):
                yield wire.event(opening)
            count += 1
            yield wire.event(shape.chunk(head, piece.token, piece.finish_reason))
    if with_usage:
        yield wire.event(shape.last(head, wire.usage(prompt_tokens, count)))
    yield wire.DONE


async def _resume(begun: bytes, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(stream):
        yield begun
        async for chunk in stream:
            yield chunk


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for unfinished in (task, gone):
            unfinished.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _bad_request(request: Request, error: RequestError) -> Response:
    return JSONResponse(wire.error(str(error), "BadRequestError", 400, error.param), 400)


async def _unknown_model(request: Request, error: UnknownModelError) -> Response:
    message = f"The model `{error}` does not exist."
    return JSONResponse(wire.error(message, "NotFoundError", 404, "model"), 404)


async def _shutting_down(request: Request, error: ShuttingDownError) -> Response:
    # Word for word what vLLM 0.32 answers while it drains: its port stays open until the end.
    message = "cannot schedule new futures after shutdown"
    return JSONResponse(wire.error(message, "InternalServerError", 500), 500)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is nginx's


async def _not_found(request: Request, error: Any) -> Response:
    return JSONResponse({"detail": error.detail}, error.status_code)
