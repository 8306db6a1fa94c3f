"""Asking the gateway as an OpenAI client does. Asserts nothing."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

CHAT: Final = "/v1/chat/completions"

HELD_HEADER: Final = "x-modelserving-held-seconds"
MODEL_HEADER: Final = "x-modelserving-model"


def question(model: str, text: str, *, tokens: int = 8, **more: Any) -> dict[str, Any]:
    """Return the body of a chat completion with one message."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        **more,
    }


async def ask(
    client: httpx.AsyncClient, model: str, text: str, *, path: str = CHAT, **more: Any
) -> httpx.Response:
    """Ask for a whole answer and wait for it."""
    return await client.post(path, json=question(model, text, **more))


def text_of(response: httpx.Response) -> str:
    """Return the text of a chat completion that succeeded."""
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    text = response.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error object of an answer that failed, in OpenAI's shape."""
    assert response.status_code == status, f"{response.status_code}: {response.text}"
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert {"message", "type", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert isinstance(error, dict)
    return error


@dataclass
class Streamed:
    """What came of a streamed answer."""

    tokens: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    done: bool = False

    def take(self, line: str) -> None:
        """Take one line of the event stream."""
        if not line.startswith("data: "):
            return
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.errors.append(event["error"])
            return
        for choice in event.get("choices", []):
            if content := choice.get("delta", {}).get("content"):
                self.tokens.append(content)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


async def stream(
    client: httpx.AsyncClient, model: str, text: str, **more: Any
) -> AsyncIterator[Streamed]:
    """Yield what has come of an answer so far, each time more of it comes."""
    body = question(model, text, stream=True, **more)
    streamed = Streamed()
    async with client.stream("POST", CHAT, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            raise AssertionError(f"{response.status_code}: {response.text}")
        async for line in response.aiter_lines():
            streamed.take(line)
            yield streamed


async def whole_stream(client: httpx.AsyncClient, model: str, text: str, **more: Any) -> Streamed:
    """Ask for a streamed answer and return all that has come of it."""
    streamed = Streamed()
    async for so_far in stream(client, model, text, **more):
        streamed = so_far
    return streamed


async def until_told(
    gateway: httpx.AsyncClient, condition: Callable[[dict[str, Any]], bool]
) -> None:
    """Wait until a gateway's own page shows that it has heard of a change of the resource.

    Its watch brings that within milliseconds, but not before `kubectl` returns.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(AssertionError),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(10),
        reraise=True,
    ):
        with attempt:
            page = (await gateway.get("/status")).json()
            assert condition(page), page
