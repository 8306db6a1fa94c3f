"""Bad input to the gateway: an error in OpenAI's shape with the right status, and never a hang."""

import json
from typing import Any

import httpx
import pytest

from tests.cluster.asking import CHAT, error_of, question

MEBIBYTE = 1_048_576
"""gateway.maxBodyBytes of the test installation."""

GOOD = question("mistral", "good day")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_body"),
        (b"{", 400, "invalid_body"),
        (b"[]", 400, "invalid_body"),
        (b'"mistral"', 400, "invalid_body"),
        (b"{}", 400, "invalid_body"),
        (b'{"model": null}', 400, "invalid_body"),
        (b'{"model": 7}', 400, "invalid_body"),
        (b'{"model": "gemma"}', 404, "model_not_found"),
        (json.dumps(GOOD).encode("utf-16"), 400, "invalid_body"),
        (b'{"model": "\xff\xfe"}', 400, "invalid_body"),
        (b"[" * 200_000, 400, "invalid_body"),
        (b'{"model":' * 100_000, 400, "invalid_body"),
    ],
    ids=[
        *("empty", "cut off", "a list", "a string", "no model", "model null", "model a number"),
        *("an unknown model", "UTF-16", "broken UTF-8", "nested lists", "nested objects"),
    ],
)
async def test_a_bad_body_is_refused(
    gateway: httpx.AsyncClient, content: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = await gateway.post(CHAT, content=content, headers=headers, timeout=20)
    error = error_of(answer, status)
    assert error["code"] == code
    assert "Traceback" not in error["message"]


async def test_an_unknown_model_is_named_and_the_list_pointed_to(
    gateway: httpx.AsyncClient,
) -> None:
    error = error_of(await gateway.post(CHAT, json=question("gemma", "hello")), 404)
    assert "gemma" in error["message"]
    assert error["param"] == "model"


async def test_a_body_over_the_limit_is_refused(gateway: httpx.AsyncClient) -> None:
    body = question("mistral", "x" * (MEBIBYTE + 1))
    assert error_of(await gateway.post(CHAT, json=body, timeout=20), 413)["code"] == (
        "body_too_large"
    )


async def test_a_body_over_the_limit_is_refused_without_a_declared_length(
    gateway: httpx.AsyncClient,
) -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * (MEBIBYTE // 10)

    try:
        answer = await gateway.post(CHAT, content=pieces(), timeout=20)
    except httpx.WriteError:
        return  # refused while the client still sent, which is as good
    assert error_of(answer, 413)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/v1/models/gemma", 404),
        ("POST", "/v1/files", 404),
        # Control paths of the engine: the gateway is no way to them.
        ("POST", "/sleep", 404),
        ("POST", "/wake_up", 404),
        ("POST", "/collective_rpc", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/health", 404),
        ("GET", "/v1/../sleep", 404),
        ("GET", "/v1/models/%2e%2e/%2e%2e/sleep", 404),
        ("POST", "/v1/chat/completions/../../sleep", 404),
    ],
)
async def test_what_is_not_served_is_refused(
    gateway: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    error_of(await gateway.request(method, path, timeout=20), status)
