"""All that is passed through, by way of the real gateway to an engine: it comes and goes whole."""

import gzip
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import pytest_asyncio

from tests.cluster.asking import CHAT, MODEL_HEADER, question, text_of
from tests.cluster.conftest import Make
from tests.harness.servings import SimModel, sim_modelserving

ALIAS: Final = "mistralai/Mistral-7B-Instruct-v0.3"
CHATTING: Final = [{"role": "user", "content": "good day"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """One model with an alias."""
    models = (SimModel("mistral", aliases=(ALIAS,)),)
    name: str = await made(sim_modelserving("surface", image=sim_image, models=models))
    return name


@pytest.fixture
async def client(gateway: httpx.AsyncClient, serving: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client."""
    made = openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="none", max_retries=0)
    async with made as client:
        yield client


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"messages": CHATTING}),
        ("/completions", {"prompt": "good day"}),
        ("/responses", {"input": "good day"}),
        ("/messages", {"messages": CHATTING, "max_tokens": 8}),
        ("/embeddings", {"input": "good day"}),
        ("/rerank", {"query": "good day", "documents": ["good night"]}),
        ("/score", {"text_1": "good day", "text_2": "good night"}),
    ],
)
async def test_each_path_answers_under_the_name_that_was_asked_for(
    gateway: httpx.AsyncClient, serving: str, prefix: str, path: str, body: dict[str, Any]
) -> None:
    answer = await gateway.post(prefix + path, json={"model": ALIAS, **body})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == ALIAS
    assert answer.headers[MODEL_HEADER] == "mistral"


async def test_tokens_are_counted_told_and_told_back(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    told = await gateway.post("/tokenize", json={"model": ALIAS, "prompt": "good day"})
    tokens = told.json()["tokens"]
    back = await gateway.post("/v1/detokenize", json={"model": ALIAS, "tokens": tokens})
    assert back.json() == {"prompt": "good day"}
    body = {"model": ALIAS, "messages": CHATTING}
    counted = await gateway.post("/v1/messages/count_tokens", json=body)
    assert counted.json()["input_tokens"] == 2


SOUND: Final = random.Random(1).randbytes(700_000)
HEARD: Final = f"{len(SOUND)} bytes sha256={hashlib.sha256(SOUND).hexdigest()}"


async def test_an_upload_arrives_to_the_last_byte(client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.transcriptions.create(model=ALIAS, file=("speech.wav", SOUND))
    assert HEARD in answer.text


async def test_an_upload_may_be_answered_in_a_stream(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    answer = await gateway.post(
        "/v1/audio/transcriptions",
        data={"model": ALIAS, "stream": "true"},
        files={"file": ("speech.wav", SOUND)},
    )
    *chunks, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    events = [json.loads(chunk) for chunk in chunks]
    assert {event["model"] for event in events} == {ALIAS}
    assert HEARD in "".join(event["choices"][0]["delta"]["content"] for event in events)


async def test_a_compressed_body_is_read(gateway: httpx.AsyncClient, serving: str) -> None:
    body = gzip.compress(json.dumps(question("mistral", "good day")).encode())
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await gateway.post(CHAT, content=body, headers=headers)
    assert text_of(answer).startswith("mistral: good day")


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    """`Expect: 100-continue`, as curl sends it with a large body."""
    address = urlsplit(str(gateway.base_url))
    body = json.dumps(question("mistral", "good day")).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"mistral: good day" in answer
