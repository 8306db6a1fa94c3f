"""The answers that are generated, whole and streamed, in the shapes of the four APIs of vLLM. Pure.

Read off vLLM 0.32; sources: https://platform.openai.com/docs/api-reference and
https://docs.anthropic.com/en/api/messages. A shape is made for one answer.
"""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from . import wire

DONE = b"data: [DONE]\n\n"

_ANTHROPIC_REASONS: Mapping[str, str] = {"stop": "end_turn", "length": "max_tokens"}


class Shape(Protocol):
    """What an answer looks like on the wire. Streams are made of server-sent events."""

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        """The answer in one piece."""
        ...

    def begin(self, prompt_tokens: int) -> bytes:
        """What comes before the first token."""
        ...

    def piece(self, token: str, reason: str | None) -> bytes:
        """A token; `reason` is None but for the last."""
        ...

    def end(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> bytes:
        """What comes after the last token."""
        ...


def event(content: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event; OpenAI's older streams give no name."""
    data = b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
    return data if name is None else f"event: {name}\n".encode() + data


class _Completion:
    """What chat and text completions have in common."""

    prefix: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, *, with_usage: bool) -> None:
        self._head = {"id": _new_id(self.prefix), "created": int(time.time()), "model": model}
        self._with_usage = with_usage

    def begin(self, prompt_tokens: int) -> bytes:
        return b""

    def end(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> bytes:
        if not self._with_usage:
            return DONE
        counted = wire.usage(prompt_tokens, tokens)
        return event({**self._chunk_head(), "choices": [], "usage": counted}) + DONE

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object}


class Chat(_Completion):
    """/v1/chat/completions"""

    prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        counted = wire.usage(prompt_tokens, tokens)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": counted}

    def begin(self, prompt_tokens: int) -> bytes:
        return self._event({"role": "assistant", "content": ""}, None)

    def piece(self, token: str, reason: str | None) -> bytes:
        return self._event({"content": token}, reason)

    def _event(self, delta: Mapping[str, str], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
        return event({**self._chunk_head(), "choices": [choice]})


class Text(_Completion):
    """/v1/completions"""

    prefix = "cmpl-"
    chunk_object = "text_completion"

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        counted = wire.usage(prompt_tokens, tokens)
        return {**self._chunk_head(), "choices": [self._choice(text, reason)], "usage": counted}

    def piece(self, token: str, reason: str | None) -> bytes:
        return event({**self._chunk_head(), "choices": [self._choice(token, reason)]})

    @staticmethod
    def _choice(text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


class Transcription(_Completion):
    """/v1/audio/transcriptions and translations"""

    prefix = "trsc-"
    chunk_object = "transcription.chunk"

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        return {"text": text, "usage": {"type": "duration", "seconds": 1}}

    def piece(self, token: str, reason: str | None) -> bytes:
        choice = {"delta": {"content": token}, "finish_reason": reason, "stop_reason": None}
        return event({**self._chunk_head(), "choices": [choice]})


class Responses:
    """/v1/responses"""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": _new_id("resp_"),
            "created_at": int(time.time()),
            "model": model,
            "object": "response",
            "parallel_tool_calls": True,
            "tool_choice": "none",
            "tools": [],
        }
        self._item = _new_id("msg_")
        self._place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        self._sequence = -1

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        cut = reason == "length"
        return {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._message("completed", [_output_text(text)])],
            "usage": {
                "input_tokens": prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt_tokens + tokens,
            },
        }

    def begin(self, prompt_tokens: int) -> bytes:
        fresh = {**self._head, "status": "in_progress", "output": [], "usage": None}
        item = self._message("in_progress", [])
        return b"".join(
            (
                self._event("created", response=fresh),
                self._event("in_progress", response=fresh),
                self._event("output_item.added", item=item, output_index=0),
                self._event("content_part.added", part=_output_text(""), **self._place),
            )
        )

    def piece(self, token: str, reason: str | None) -> bytes:
        return self._event("output_text.delta", delta=token, logprobs=[], **self._place)

    def end(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> bytes:
        item = self._message("completed", [_output_text(text)])
        whole = self.whole(text, reason, prompt_tokens, tokens)
        return b"".join(
            (
                self._event("output_text.done", text=text, logprobs=[], **self._place),
                self._event("content_part.done", part=_output_text(text), **self._place),
                self._event("output_item.done", item=item, output_index=0),
                self._event(str(whole["status"]), response=whole),
            )
        )

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        message = {"id": self._item, "type": "message", "role": "assistant"}
        return {**message, "status": status, "content": content}

    def _event(self, name: str, **content: Any) -> bytes:
        self._sequence += 1
        kind = f"response.{name}"
        return event({**content, "sequence_number": self._sequence, "type": kind}, kind)


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


class Messages:
    """Anthropic's /v1/messages"""

    def __init__(self, model: str) -> None:
        # vLLM makes the message of a chat completion, and keeps that one's id.
        head = {"id": _new_id("chatcmpl-"), "type": "message", "role": "assistant"}
        self._head = {**head, "model": model}

    def whole(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        return {
            **self._head,
            "content": [{"type": "text", "text": text}],
            "stop_reason": _ANTHROPIC_REASONS.get(reason),
            "usage": {"input_tokens": prompt_tokens, "output_tokens": tokens},
        }

    def begin(self, prompt_tokens: int) -> bytes:
        counted = {"input_tokens": prompt_tokens, "output_tokens": 0}
        stop = {"stop_reason": None, "stop_sequence": None}
        block = {"type": "text", "text": ""}
        message: dict[str, Any] = {**self._head, "content": [], **stop, "usage": counted}
        return self._event("message_start", message=message) + self._event(
            "content_block_start", content_block=block, index=0
        )

    def piece(self, token: str, reason: str | None) -> bytes:
        delta = {"type": "text_delta", "text": token}
        return self._event("content_block_delta", delta=delta, index=0)

    def end(self, text: str, reason: str, prompt_tokens: int, tokens: int) -> bytes:
        delta = {"stop_reason": _ANTHROPIC_REASONS.get(reason), "stop_sequence": None}
        counted = {"input_tokens": prompt_tokens, "output_tokens": tokens}
        return b"".join(
            (
                self._event("content_block_stop", index=0),
                self._event("message_delta", delta=delta, usage=counted),
                self._event("message_stop"),
            )
        )

    @staticmethod
    def _event(kind: str, **content: Any) -> bytes:
        return event({"type": kind, **content}, kind)


def _new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:16]}"
