"""OpenAI's JSON as vLLM writes it: answers, chunks, models, errors. Pure.

Shapes were read off vLLM 0.32; source: https://platform.openai.com/docs/api-reference
"""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

EMBEDDING_SIZE = 8


def error(message: str, kind: str, status: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


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


class Chat:
    """The shapes of /v1/chat/completions."""

    prefix = "chatcmpl"

    @staticmethod
    def whole(head: Mapping[str, Any], text: str, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**head, "object": "chat.completion", "choices": [choice]}

    @staticmethod
    def first(head: Mapping[str, Any]) -> dict[str, Any] | None:
        return Chat._chunk(head, {"role": "assistant", "content": ""}, None)

    @staticmethod
    def chunk(head: Mapping[str, Any], token: str, finish_reason: str | None) -> dict[str, Any]:
        return Chat._chunk(head, {"content": token}, finish_reason)

    @staticmethod
    def last(head: Mapping[str, Any], counted: Mapping[str, int]) -> dict[str, Any]:
        return {**head, "object": "chat.completion.chunk", "choices": [], "usage": dict(counted)}

    @staticmethod
    def _chunk(
        head: Mapping[str, Any], delta: Mapping[str, str], finish_reason: str | None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None}
        choice["finish_reason"] = finish_reason
        return {**head, "object": "chat.completion.chunk", "choices": [choice]}


class Text:
    """The shapes of /v1/completions."""

    prefix = "cmpl"

    @staticmethod
    def whole(head: Mapping[str, Any], text: str, finish_reason: str) -> dict[str, Any]:
        return Text.chunk(head, text, finish_reason)

    @staticmethod
    def first(head: Mapping[str, Any]) -> dict[str, Any] | None:
        return None

    @staticmethod
    def chunk(head: Mapping[str, Any], token: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": token, "logprobs": None, "finish_reason": finish_reason}
        return {**head, "object": "text_completion", "choices": [choice]}

    @staticmethod
    def last(head: Mapping[str, Any], counted: Mapping[str, int]) -> dict[str, Any]:
        return {**head, "object": "text_completion", "choices": [], "usage": dict(counted)}


Shape = type[Chat] | type[Text]


def event(content: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def embedding(text: str, *, as_base64: bool) -> list[float] | str:
    """A vector that depends on the text alone; OpenAI's client asks for base64 of float32."""
    digest = hashlib.sha256(text.encode()).digest()[:EMBEDDING_SIZE]
    values = [byte / 128 - 1 for byte in digest]
    if not as_base64:
        return values
    return base64.b64encode(struct.pack(f"<{EMBEDDING_SIZE}f", *values)).decode()
