"""The routes of vLLM that generate: chat, text, responses, messages and audio.

What an answer says is decided in `answers`, what it looks like in `shapes`.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from . import answers, asking, shapes, wire
from .answers import Prompt, RequestError
from .behaviour import Behaviour, Fault
from .engine import Engine, Piece
from .options import Options

LIKELY = -0.25
IMPOSSIBLE = -9999.0
"""What vLLM writes for the logarithm of zero."""


class Generating:
    """The routes and what they need."""

    def __init__(self, options: Options, behaviour: Behaviour, engine: Engine) -> None:
        self._options = options
        self._behaviour = behaviour
        self._engine = engine

    def routes(self) -> list[Route]:
        """Return them all."""
        return [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._text, methods=["POST"]),
            Route("/v1/responses", self._responses, methods=["POST"]),
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            Route("/v1/audio/transcriptions", self._audio, methods=["POST"]),
            Route("/v1/audio/translations", self._audio, methods=["POST"]),
        ]

    async def _chat(self, request: Request) -> Response:
        body = await self._json(request)
        prompt = answers.chat_prompt(body.get("messages"))
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        shape = shapes.Chat(self._options.name, with_usage=_with_usage(body))
        return await self._complete(request, body, prompt, limit, shape)

    async def _text(self, request: Request) -> Response:
        body = await self._json(request)
        prompt = answers.text_prompt(body.get("prompt"))
        shape = shapes.Text(self._options.name, with_usage=_with_usage(body))
        # OpenAI's default for text completions, and vLLM's.
        return await self._complete(request, body, prompt, body.get("max_tokens", 16), shape)

    async def _responses(self, request: Request) -> Response:
        body = await self._json(request)
        prompt = answers.responses_prompt(body.get("input"))
        shape = shapes.Responses(self._options.name)
        return await self._complete(request, body, prompt, body.get("max_output_tokens"), shape)

    async def _messages(self, request: Request) -> Response:
        body = await self._json(request)
        prompt = answers.chat_prompt(body.get("messages"))
        if "max_tokens" not in body:
            raise RequestError("max_tokens is required", param="max_tokens")
        shape = shapes.Messages(self._options.name)
        return await self._complete(request, body, prompt, body["max_tokens"], shape)

    async def _count_tokens(self, request: Request) -> Response:
        body = await self._json(request)
        self._engine.check_accepting()
        count = answers.chat_prompt(body.get("messages")).tokens
        management = {"original_input_tokens": count}
        return JSONResponse({"input_tokens": count, "context_management": management})

    async def _audio(self, request: Request) -> Response:
        sent = await asking.upload(request, self._options.served_model_names)
        prompt = answers.audio_prompt(sent.filename, sent.content)
        body = {"stream": sent.fields.get("stream") == "true"}
        shape = shapes.Transcription(self._options.name, with_usage=False)
        answer = await self._complete(request, body, prompt, None, shape)
        if sent.fields.get("response_format") == "text" and isinstance(answer, JSONResponse):
            return PlainTextResponse(json.loads(bytes(answer.body))["text"] + "\n")
        return answer

    async def _json(self, request: Request) -> dict[str, Any]:
        return await asking.json_body(request, self._options.served_model_names)

    async def _complete(
        self,
        request: Request,
        body: dict[str, Any],
        prompt: Prompt,
        limit: Any,
        shape: shapes.Shape,
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
        # The first piece decides between an error with a status and an answer.
        if body.get("stream"):
            stream = _stream(shape, prompt.tokens, pieces)
            begun = await asking.unless_disconnected(request, anext(stream))
            return StreamingResponse(_resume(begun, stream), media_type="text/event-stream")
        whole = _collect(shape, prompt.tokens, pieces, logprob=self._logprob(shape, body))
        return JSONResponse(await asking.unless_disconnected(request, whole))

    def _logprob(self, shape: shapes.Shape, body: dict[str, Any]) -> float | None:
        """The logarithm of each token's probability, where a text completion asks for it."""
        if not isinstance(shape, shapes.Text) or body.get("logprobs") is None:
            return None
        return IMPOSSIBLE if self._behaviour.fault is Fault.GARBAGE else LIKELY

    def _check(self, prompt: Prompt, limit: Any, body: dict[str, Any]) -> None:
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


def _with_usage(body: dict[str, Any]) -> bool:
    return (body.get("stream_options") or {}).get("include_usage") is True


def _pace(body: dict[str, Any]) -> float | None:
    """Seconds per token, when the request sets its own in vLLM's free-form vllm_xargs."""
    value = (body.get("vllm_xargs") or {}).get("sim_seconds_per_token")
    return float(value) if isinstance(value, int | float) and value >= 0 else None


async def _collect(
    shape: shapes.Shape,
    prompt_tokens: int,
    pieces: AsyncGenerator[Piece, None],
    *,
    logprob: float | None,
) -> dict[str, Any]:
    tokens: list[str] = []
    reason = answers.FINISH_ABORTED
    async with aclosing(pieces):
        async for piece in pieces:
            tokens.append(piece.token)
            reason = piece.finish_reason or reason
    whole = shape.whole("".join(tokens), reason, prompt_tokens, len(tokens))
    if logprob is not None:
        whole["choices"][0]["logprobs"] = wire.logprobs(tokens, logprob)
    return whole


async def _stream(
    shape: shapes.Shape, prompt_tokens: int, pieces: AsyncGenerator[Piece, None]
) -> AsyncGenerator[bytes, None]:
    tokens: list[str] = []
    reason = answers.FINISH_ABORTED
    async with aclosing(pieces):
        async for piece in pieces:
            if not tokens and (opening := shape.begin(prompt_tokens)):
                yield opening
            tokens.append(piece.token)
            reason = piece.finish_reason or reason
            yield shape.piece(piece.token, piece.finish_reason)
    yield shape.end("".join(tokens), reason, prompt_tokens, len(tokens))


async def _resume(begun: bytes, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(stream):
        yield begun
        async for chunk in stream:
            yield chunk
