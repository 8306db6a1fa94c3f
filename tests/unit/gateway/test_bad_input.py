"""Bad input gets an OpenAI-shaped error and the right status: no stack trace, no hang.

One gateway takes it all, and must still serve at the end.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.unit.gateway.conftest import CHAT, Running, ended, eventually, running
from tests.unit.gateway.fakes import Engine, FakeCluster, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

running_engine = Engine()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Running]:
    await running_engine.start()
    cluster = FakeCluster(serving(active="mistral", endpoint=running_engine.url))
    async with running(cluster, max_body_bytes=10_000, body_timeout_seconds=0.3) as started:
        yield started
    await ended([started])
    await running_engine.stop()


@pytest.fixture
def engine(gateway: Running) -> Engine:
    running_engine.requests.clear()
    return running_engine


def error(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in body["message"]
    return answer.status_code, body["code"]


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"model=mistral",
    "truncated": b'{"model": "mistral"',
    "two objects": b'{"model": "mistral"} {}',
    "an array": b'["model", "mistral"]',
    "a string": b'"mistral"',
    "null": b"null",
    "no model": b'{"messages": []}',
    "model null": b'{"model": null}',
    "model a number": b'{"model": 1}',
    "model empty": b'{"model": ""}',
    "model in a nested object": b'{"a": {"model": "mistral"}}',
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "mistral"}'.encode("utf-16"),
    "deeply nested array": b'{"model": "mistral", "a": ' + b"[" * 9_000,
    "deeply nested object": b'{"a":' * 1_900,
    "deeply nested from the start": b"[" * 9_000,
    "raw control characters": b'{"model": "mis\x00tral"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_body_that_is_no_request_is_400(
    gateway: Running, engine: Engine, body: bytes
) -> None:
    assert error(await gateway.client.post(CHAT, content=body)) == (400, "invalid_body")
    assert not engine.requests


@pytest.mark.parametrize(
    ("coding", "content", "expected"),
    [
        ("gzip", b"\x1f\x8b", (400, "invalid_body")),
        ("deflate", b"{}", (400, "invalid_body")),
        ("gzip", gzip.compress(b"0" * 10_000_000)[:9_000], (413, "body_too_large")),
        ("gzip", gzip.compress(b"not JSON"), (400, "invalid_body")),
        ("br", b"{}", (415, "unsupported_content_encoding")),
        ("zstd", b"{}", (415, "unsupported_content_encoding")),
    ],
    # What gzip makes holds the time; tests whose names change are collected differently by turns.
    ids=["no gzip", "no deflate", "too large", "no JSON", "brotli", "zstd"],
)
async def test_a_body_that_cannot_be_decompressed_is_refused(
    gateway: Running, engine: Engine, coding: str, content: bytes, expected: tuple[int, str]
) -> None:
    answer = await gateway.client.post(CHAT, content=content, headers={"content-encoding": coding})
    assert error(answer) == expected
    assert not engine.requests


@pytest.mark.parametrize(
    ("content_type", "content", "expected"),
    [
        ("application/json", b'{"model":"mistral"}', (415, "unsupported_media_type")),
        ("multipart/form-data", b"--x--", (400, "invalid_body")),
        ("multipart/form-data; boundary=x", b"--x--", (400, "invalid_body")),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: b\r\n" * 1000, (400, "invalid_body")),
    ],
)
async def test_a_form_that_is_none_is_refused(
    gateway: Running, engine: Engine, content_type: str, content: bytes, expected: tuple[int, str]
) -> None:
    answer = await gateway.client.post(
        "/v1/audio/transcriptions", content=content, headers={"content-type": content_type}
    )
    assert error(answer) == expected
    assert not engine.requests


@pytest.mark.parametrize("model", ["gpt-5", "MISTRAL", "mistral ", "\ud800", "x" * 5_000, "../x"])
async def test_an_unknown_model_is_404_as_openai_does(gateway: Running, model: str) -> None:
    answer = await gateway.client.post(CHAT, content=json.dumps({"model": model}).encode())
    assert error(answer) == (404, "model_not_found")
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 1000


async def test_a_body_over_the_limit_is_413_before_it_is_read(gateway: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10001\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()


async def test_a_large_body_is_413_and_its_client_gets_to_read_it(gateway: Running) -> None:
    answer = await gateway.client.post(CHAT, content=b"x" * 5_000_000)
    assert error(answer) == (413, "body_too_large")


async def test_a_chunked_body_over_the_limit_is_413(gateway: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    assert error(await gateway.client.post(CHAT, content=chunks())) == (413, "body_too_large")


async def test_a_client_that_sends_its_body_too_slowly_gets_408(gateway: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"408"
        rest = await reader.read()
    assert b"body_too_slow" in rest
    writer.close()


async def test_a_client_that_leaves_amid_its_body_leaves_nothing_behind(gateway: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await gateway.held(0)
    await eventually(lambda: gateway.gateway.in_flight == 0)
    assert await reader.read() == b""


CONTROL_PATHS = [
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/docs",
    "/health",
    "/version",
    "/v1/load_lora_adapter",
    "/v1/metrics",
    "/v1/chat/completions/",
    "/v1/chat/completions/../../../sleep",
    "/v1/chat/completions%2f..%2f..%2fsleep",
    "//v1/chat/completions",
    "/V1/chat/completions",
    "/v1/v1/chat/completions",
    "/",
]


@pytest.mark.parametrize("path", CONTROL_PATHS)
@pytest.mark.parametrize("method", [b"POST", b"GET"])
async def test_no_other_path_is_served_nor_reaches_the_engine(
    gateway: Running, engine: Engine, path: str, method: bytes
) -> None:
    status, _, body = await raw(gateway, method + b" " + path.encode() + b" HTTP/1.1")
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    assert not engine.requests


async def test_what_a_client_adds_to_the_path_does_not_reach_the_engine(
    gateway: Running, engine: Engine
) -> None:
    await gateway.client.post(CHAT + "?x=../../sleep", json={"model": "mistral"})
    assert engine.requests[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("OPTIONS", "/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/mistral", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_with_allow(
    gateway: Running, method: str, path: str, allow: str
) -> None:
    answer = await gateway.client.request(method, path)
    assert error(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "\u00e9"])
async def test_an_unsound_request_id_is_replaced(gateway: Running, given: str) -> None:
    answer = await gateway.client.post(
        CHAT, json={"model": "mistral"}, headers=[(b"x-request-id", given.encode("latin-1"))]
    )
    assert len(answer.headers["x-request-id"]) == 32


async def test_after_all_that_the_gateway_still_serves(gateway: Running) -> None:
    for body in BAD_BODIES.values():
        await gateway.client.post(CHAT, content=body)
    assert (await gateway.ask()).status_code == 200


async def raw(gateway: Running, first_line: bytes) -> tuple[int, bytes, Any]:
    """Send a request that no client library would let pass, and read the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(first_line + b"\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, body
