"""OpenAI's and Anthropic's own clients understand every kind of error of the gateway's."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.unit.gateway.conftest import Running, ended, running
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS: dict[str, dict[str, Any]] = {
    "ms-free": {"name": "free"},
    "ms-mistral-only": {"name": "one", "models": ["mistral"]},
    "ms-once": {"name": "once", "requestsPerMinute": 1},
}

running_engine = Engine()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    entries = [
        {**fields, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        for key, fields in KEYS.items()
    ]
    file.write_text(json.dumps(entries))
    await running_engine.start()
    cluster = FakeCluster(serving(active="mistral", endpoint=running_engine.url))
    async with running(
        cluster, keys_file=str(file), hold_grace_seconds=0, keepalive_seconds=0.05
    ) as started:
        async with asyncio.timeout(5):
            while (await started.client.get("/readyz")).status_code != 200:
                pass
        yield started
    await ended([started])
    await running_engine.stop()


@pytest.fixture
def engine(gateway: Running) -> Engine:
    running_engine.next.clear()
    return running_engine


def openais(gateway: Running, key: str = "ms-free") -> openai.AsyncOpenAI:
    base_url = f"{str(gateway.client.base_url).rstrip('/')}/v1"
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)


def anthropics(gateway: Running, key: str = "ms-free") -> anthropic.AsyncAnthropic:
    base_url = str(gateway.client.base_url)
    return anthropic.AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0)


async def ask_openais(gateway: Running, key: str, model: str) -> Any:
    async with openais(gateway, key) as client:
        return await client.chat.completions.create(model=model, messages=[])


async def ask_anthropics(gateway: Running, key: str, model: str) -> Any:
    async with anthropics(gateway, key) as client:
        return await client.messages.create(
            model=model, max_tokens=1, messages=[{"role": "user", "content": "x"}]
        )


ERRORS = [
    ("ms-wrong", "mistral", "AuthenticationError", "invalid_api_key"),
    ("ms-mistral-only", "coder", "PermissionDeniedError", "model_not_allowed"),
    ("ms-free", "gpt-5", "NotFoundError", "model_not_found"),
]


@pytest.mark.parametrize(("key", "model", "kind", "code"), ERRORS)
async def test_openais_client_raises_the_kind_of_error_that_it_is(
    gateway: Running, key: str, model: str, kind: str, code: str
) -> None:
    with pytest.raises(getattr(openai, kind)) as caught:
        await ask_openais(gateway, key, model)
    assert caught.value.code == code
    assert caught.value.request_id


@pytest.mark.parametrize(("key", "model", "kind", "code"), ERRORS)
async def test_anthropics_client_raises_the_kind_of_error_that_it_is(
    gateway: Running, key: str, model: str, kind: str, code: str
) -> None:
    with pytest.raises(getattr(anthropic, kind)) as caught:
        await ask_anthropics(gateway, key, model)
    assert caught.value.body["error"]["code"] == code


async def test_both_clients_know_that_a_limit_is_reached(gateway: Running, engine: Engine) -> None:
    assert (await ask_openais(gateway, "ms-once", "mistral")).model == "mistral"
    with pytest.raises(openai.RateLimitError) as caught:
        await ask_openais(gateway, "ms-once", "mistral")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
    with pytest.raises(anthropic.RateLimitError):
        await ask_anthropics(gateway, "ms-once", "mistral")


async def test_the_listing_is_read_by_both_clients(gateway: Running) -> None:
    async with openais(gateway) as client:
        assert "gpt-4" in [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("mistralai/Mistral-7B")).id == "mistralai/Mistral-7B"
    async with openais(gateway, "ms-mistral-only") as client:
        assert "coder" not in [model.id async for model in client.models.list()]


async def test_a_file_sent_by_openais_client_arrives_whole(
    gateway: Running, engine: Engine
) -> None:
    async def transcript(connection: Connection) -> None:
        await connection.answer(b'{"text":"hello"}')

    engine.next.append(transcript)
    sound = bytes(range(256)) * 500
    async with openais(gateway) as client:
        answer = await client.audio.transcriptions.create(
            model="gpt-4", file=("a.wav", sound), language="en"
        )
    assert answer.text == "hello"
    body = engine.requests[-1].body
    assert sound in body
    assert b"gpt-4" not in body


async def dying(connection: Connection) -> None:
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    await connection.chunk(
        b"event: message_start\n"
        b'data: {"type":"message_start","message":{"model":"mistral","id":"m","role":"assistant",'
        b'"type":"message","content":[],"usage":{"input_tokens":1,"output_tokens":1}},'
        b'"object":"chat.completion.chunk","id":"c","choices":[],"created":1,"model":"mistral"}\n\n'
    )
    connection.die()


async def test_a_stream_that_breaks_is_an_error_to_openais_client(
    gateway: Running, engine: Engine
) -> None:
    engine.next.append(dying)
    async with openais(gateway) as client:
        events = await client.chat.completions.create(model="mistral", messages=[], stream=True)
        assert (await anext(events)).model == "mistral"
        with pytest.raises(openai.APIError, match="lost in the middle") as caught:
            await anext(events)
    assert caught.value.code == "upstream_lost"


async def test_a_response_that_breaks_is_an_error_to_openais_client(
    gateway: Running, engine: Engine
) -> None:
    async def dying_response(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(
            b"event: response.created\n"
            b'data: {"type":"response.created","sequence_number":0,"response":{"id":"r",'
            b'"object":"response","created_at":1,"model":"mistral","output":[]}}\n\n'
        )
        connection.die()

    engine.next.append(dying_response)
    async with openais(gateway) as client:
        events = await client.responses.create(model="gpt-4", input="x", stream=True)
        first = await anext(events)
        assert first.type == "response.created"
        assert first.response.model == "gpt-4"
        with pytest.raises(openai.APIError, match="lost in the middle"):
            await anext(events)


async def test_a_stream_that_breaks_is_an_error_to_anthropics_client(
    gateway: Running, engine: Engine
) -> None:
    engine.next.append(dying)
    async with anthropics(gateway) as client:
        events = await client.messages.create(
            model="mistral",
            max_tokens=1,
            messages=[{"role": "user", "content": "x"}],
            stream=True,
        )
        assert (await anext(events)).type == "message_start"
        with pytest.raises(anthropic.APIStatusError, match="lost in the middle"):
            await anext(events)


async def test_both_clients_read_over_what_a_held_stream_is_told(
    gateway: Running, engine: Engine
) -> None:
    """A model that never comes: comments first, then the error as an event."""
    patience = {"X-ModelServing-Hold-Seconds": "0.3"}
    async with openais(gateway) as client:
        events = await client.chat.completions.create(
            model="coder", messages=[], stream=True, extra_headers=patience
        )
        with pytest.raises(openai.APIError) as caught:
            _ = [event async for event in events]
    assert caught.value.code == "model_not_ready_in_time"
    async with anthropics(gateway) as other:
        messages = await other.messages.create(
            model="coder",
            max_tokens=1,
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_headers=patience,
        )
        with pytest.raises(anthropic.APIStatusError, match="was not ready within"):
            _ = [event async for event in messages]
