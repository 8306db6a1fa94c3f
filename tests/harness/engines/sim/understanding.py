"""The routes of vLLM that only read what they are sent: embeddings, scores, ranks and tokens.

They cost no slot of the engine and no time, and are refused while it drains like all others.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import answers, asking, wire
from .answers import RequestError
from .engine import Engine
from .options import Options


class Understanding:
    """The routes and what they need."""

    def __init__(self, options: Options, engine: Engine) -> None:
        self._options = options
        self._engine = engine

    def routes(self) -> list[Route]:
        """Return them all."""
        endpoints = {
            ("/v1/embeddings",): self._embeddings,
            ("/score", "/v1/score"): self._score,
            ("/rerank", "/v1/rerank", "/v2/rerank"): self._rerank,
            ("/tokenize",): self._tokenize,
            ("/detokenize",): self._detokenize,
        }
        return [
            Route(path, endpoint, methods=["POST"])
            for paths, endpoint in endpoints.items()
            for path in paths
        ]

    async def _embeddings(self, request: Request) -> Response:
        body = await self._json(request)
        texts = _texts(body, "input")
        as_base64 = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": wire.embedding(t, as_base64=as_base64)}
            for i, t in enumerate(texts)
        ]
        counted = wire.usage(sum(len(text.split()) for text in texts), 0)
        name = self._options.name
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": counted})

    async def _score(self, request: Request) -> Response:
        body = await self._json(request)
        query = _text(body, "text_1")
        return JSONResponse(wire.scores(self._options.name, query, _texts(body, "text_2")))

    async def _rerank(self, request: Request) -> Response:
        body = await self._json(request)
        documents = _texts(body, "documents")
        limit = body.get("top_n", 0)
        if not isinstance(limit, int) or limit < 0:
            raise RequestError("top_n must be a number that is not negative", param="top_n")
        ranking = wire.ranking(self._options.name, _text(body, "query"), documents, limit)
        return JSONResponse(ranking)

    async def _tokenize(self, request: Request) -> Response:
        """Here a token is a byte, so that they can be told back; answers count words."""
        body = await self._json(request)
        if body.get("messages") is not None:
            text = " ".join(answers.chat_prompt(body["messages"]).words)
        else:
            text = _text(body, "prompt")
        tokens = list(text.encode())
        head = {"count": len(tokens), "max_model_len": self._options.max_model_len}
        return JSONResponse({**head, "tokens": tokens, "token_strs": None})

    async def _detokenize(self, request: Request) -> Response:
        body = await self._json(request)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(_is_byte(token) for token in tokens):
            raise RequestError("tokens must be a list of numbers below 256", param="tokens")
        return JSONResponse({"prompt": bytes(tokens).decode(errors="replace")})

    async def _json(self, request: Request) -> dict[str, Any]:
        body = await asking.json_body(request, self._options.served_model_names)
        self._engine.check_accepting()
        return body


def _text(body: dict[str, Any], param: str) -> str:
    text = body.get(param)
    if not isinstance(text, str):
        raise RequestError(f"{param} must be a string", param=param)
    return text


def _texts(body: dict[str, Any], param: str) -> list[str]:
    texts = body.get(param)
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{param} must be a string or a list of strings", param=param)
    return texts


def _is_byte(token: Any) -> bool:
    return type(token) is int and 0 <= token < 256
