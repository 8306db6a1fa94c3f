"""What the stand-in says: its own name, then the words that it was asked, then filler.

So a test sees which model answered and which request was answered. A token is a word. Pure.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FINISH_AT_LENGTH = "length"
FINISH_AT_STOP = "stop"
FINISH_ABORTED = "abort"


class RequestError(Exception):
    """A request that vLLM would reject with a 4xx."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Prompt:
    """What was asked, as words; `images` says how many pictures came along."""

    words: tuple[str, ...]
    images: int = 0

    @property
    def tokens(self) -> int:
        return max(1, len(self.words) + self.images)


TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})


def chat_prompt(messages: Any, param: str = "messages") -> Prompt:
    """The prompt of a chat in any of the three APIs: all of its text.

    Raises RequestError, which names `param`, for what is no chat.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError(f"{param} must be a list that is not empty", param=param)
    words: list[str] = []
    images = 0
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError("each message needs a role", param=param)
        for part in _parts(message.get("content"), param):
            if part.get("type") in TEXT_PARTS:
                words.extend(str(part.get("text", "")).split())
            elif part.get("type") in IMAGE_PARTS:
                images += 1
            else:
                raise RequestError(f"unknown content type {part.get('type')!r}", param=param)
    return Prompt(tuple(words), images)


def responses_prompt(asked: Any) -> Prompt:
    """The prompt of a response: a string, or a chat."""
    if isinstance(asked, str):
        return Prompt(tuple(asked.split()))
    return chat_prompt(asked, "input")


def audio_prompt(name: str, content: bytes) -> Prompt:
    """The prompt of an upload: what shows that it came whole."""
    digest = hashlib.sha256(content).hexdigest()
    return Prompt((name, str(len(content)), "bytes", f"sha256={digest}"))


def _parts(content: Any, param: str) -> Sequence[Mapping[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return content
    raise RequestError("content must be a string or a list of parts", param=param)


def text_prompt(prompt: Any) -> Prompt:
    """The prompt of a text completion: a string, or one string in a list."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise RequestError("prompt must be one string", param="prompt")
    return Prompt(tuple(prompt.split()))


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer and why it ends."""

    tokens: tuple[str, ...]
    finish_reason: str


def answer(name: str, prompt: Prompt, *, limit: int | None, usual: int, ignore_eos: bool) -> Answer:
    """What the model called `name` answers.

    `limit` is the request's bound in tokens; without one, or with a higher one, the answer has
    `usual` tokens, unless the request ignores the end of the answer.
    """
    length = usual if limit is None else limit if ignore_eos else min(limit, usual)
    says = [f"{name}:", *prompt.words]
    if prompt.images:
        says.append(f"({prompt.images} images)" if prompt.images > 1 else "(1 image)")
    says += [f"w{i}" for i in range(max(0, length - len(says)))]
    tokens = says[:length]
    spaced = tuple(token if i == 0 else f" {token}" for i, token in enumerate(tokens))
    cut = limit is not None and (ignore_eos or limit < usual)
    return Answer(spaced, FINISH_AT_LENGTH if cut else FINISH_AT_STOP)
