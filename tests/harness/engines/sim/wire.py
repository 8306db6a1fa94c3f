"""vLLM's JSON for all that is not generated: models, vectors, scores, tokens, errors. Pure.

Shapes were read off vLLM 0.32; source: https://platform.openai.com/docs/api-reference
"""

import base64
import hashlib
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any

EMBEDDING_SIZE = 8


def error(message: str, kind: str, status: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def anthropic_error(message: str, kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def model_list(names: Sequence[str], root: str, created: int, context: int) -> dict[str, Any]:
    models = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": root,
            "parent": None,
            "max_model_len": context,
        }
        for name in names
    ]
    return {"object": "list", "data": models}


def embedding(text: str, *, as_base64: bool) -> list[float] | str:
    """A vector that depends on the text alone; OpenAI's client asks for base64 of float32."""
    digest = hashlib.sha256(text.encode()).digest()[:EMBEDDING_SIZE]
    values = [byte / 128 - 1 for byte in digest]
    if not as_base64:
        return values
    return base64.b64encode(struct.pack(f"<{EMBEDDING_SIZE}f", *values)).decode()


def relevance(query: str, document: str) -> float:
    """How many of all their words two texts share, from 0 to 1."""
    asked, found = set(query.split()), set(document.split())
    return len(asked & found) / len(asked | found) if asked | found else 0.0


def scores(model: str, query: str, documents: Sequence[str]) -> dict[str, Any]:
    """The answer of /score."""
    data = [
        {"index": i, "object": "score", "score": relevance(query, document)}
        for i, document in enumerate(documents)
    ]
    head = {"id": _new_id("score-"), "object": "list", "created": int(time.time())}
    return {**head, "model": model, "data": data, "usage": usage(_words(query, *documents), 0)}


def ranking(model: str, query: str, documents: Sequence[str], limit: int) -> dict[str, Any]:
    """The answer of /rerank: the `limit` nearest documents, nearest first; 0 is all."""
    results = [
        {
            "index": i,
            "document": {"text": document, "multi_modal": None},
            "relevance_score": relevance(query, document),
        }
        for i, document in enumerate(documents)
    ]
    results.sort(key=lambda each: -float(str(each["relevance_score"])))
    words = _words(query, *documents)
    counted = {"prompt_tokens": words, "total_tokens": words}
    results = results[: limit or len(results)]
    return {"id": _new_id("score-"), "model": model, "usage": counted, "results": results}


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def _new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:16]}"


def logprobs(tokens: Sequence[str], logprob: float) -> dict[str, Any]:
    """The probabilities of a text completion's tokens, each of them the likeliest."""
    return {
        "text_offset": [len("".join(tokens[:i])) for i in range(len(tokens))],
        "token_logprobs": [logprob for _ in tokens],
        "tokens": list(tokens),
        "top_logprobs": [{token: logprob} for token in tokens],
    }
