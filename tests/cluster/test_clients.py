"""OpenAI's and Anthropic's own clients, unchanged, against the gateway and the real vLLM.

Four loads of tiny models on the node's CPU: mistral, coder, llava and the embedder. The tests are
in the order of the models, since each swap costs half a minute.
"""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import openai
import pytest
import pytest_asyncio
from anthropic.types import MessageParam, TextBlock, ToolParam
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from PIL import Image

from tests.cluster.asking import HELD_HEADER, MODEL_HEADER
from tests.cluster.conftest import VALUES, Forwards, Make, ready_pods
from tests.cluster.kubernetes import World, is_serving
from tests.harness.cluster import Cluster
from tests.harness.engines.engine_images import build_vllm_cpu
from tests.harness.engines.tiny_models import ensure_models
from tests.harness.servings import CODER, EMBEDDER, LLAVA, MISTRAL, vllm_cpu_modelserving

pytestmark = pytest.mark.vllm

NAME: Final = "real"
LOAD_SECONDS: Final = 400
"""20 s on an idle machine with two cores; several times that while it is busy."""

SAYS_MISTRAL: Final = "I am mistral, the smallest of its kind."
SAYS_CODER: Final = "def answer():\n    return 42\n"

(MISTRAL_ALIAS,) = MISTRAL.aliases
(CODER_ALIAS,) = CODER.aliases

WHO: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "Who are you?"}]
WHO_MESSAGES: Final[list[MessageParam]] = [{"role": "user", "content": "Who are you?"}]

ARGUMENTS: Final[dict[str, object]] = {"type": "object", "properties": {"word": {"type": "string"}}}
LOOK_UP: Final[ChatCompletionToolParam] = {
    "type": "function",
    "function": {"name": "look_up", "description": "Look a word up.", "parameters": ARGUMENTS},
}
LOOK_UP_TOOL: Final[ToolParam] = {
    "name": "look_up",
    "description": "Look a word up.",
    "input_schema": {"type": "object", "properties": {"word": {"type": "string"}}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(cluster: Cluster, made: Make) -> str:
    """The four tiny models, mistral by default."""
    ensure_models(cluster.models)
    image = build_vllm_cpu()
    cluster.load(image)
    models = (MISTRAL, CODER, LLAVA, EMBEDDER)
    manifest = vllm_cpu_modelserving(NAME, image=image, models=models)
    name: str = await made(manifest, within=LOAD_SECONDS)
    return name


@pytest.fixture
async def url(world: World, forwards: Forwards, serving: str) -> str:
    """The address of a gateway."""
    pods = await ready_pods(world, "gateway", 2)
    return forwards.url(pods[0], 8080)


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client as people make it: with its own two retries."""
    made = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=LOAD_SECONDS)
    async with made as client:
        yield client


@pytest.fixture
async def claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's client as people make it."""
    made = anthropic.AsyncAnthropic(base_url=url, api_key="none", timeout=LOAD_SECONDS)
    async with made as client:
        yield client


# Mistral is active.


async def test_the_sync_client_gets_an_answer(url: str) -> None:
    def ask() -> Any:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            return client.chat.completions.create(model="mistral", messages=WHO, temperature=0)

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.content == SAYS_MISTRAL
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 8


async def test_a_stream_comes_in_chunks_with_usage_and_logprobs(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="mistral",
        messages=WHO,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=1,
    )
    chunks = [chunk async for chunk in stream]
    *tokens, counted = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in tokens) == SAYS_MISTRAL
    assert any(chunk.choices[0].logprobs for chunk in tokens)
    assert counted.choices == []
    assert counted.usage is not None
    assert counted.usage.completion_tokens == 8


async def test_an_alias_is_the_model_that_the_answer_names(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MISTRAL_ALIAS, messages=WHO, temperature=0
    )
    assert raw.parse().model == MISTRAL_ALIAS
    assert raw.headers[MODEL_HEADER] == "mistral"
    stream = await client.chat.completions.create(
        model=MISTRAL_ALIAS, messages=WHO, temperature=0, stream=True
    )
    assert {chunk.model async for chunk in stream} == {MISTRAL_ALIAS}


async def test_a_text_completion_comes_too(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="mistral", prompt="x", temperature=0)
    assert answer.choices[0].text == SAYS_MISTRAL


async def test_a_tool_is_called_and_its_result_taken(client: openai.AsyncOpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = list(WHO)
    called = await client.chat.completions.create(
        model="mistral", messages=messages, tools=[LOOK_UP], temperature=0
    )
    assert called.choices[0].finish_reason == "tool_calls"
    (call,) = called.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments) == {"word": "kind"}
    messages.append(called.choices[0].message.to_dict())  # type: ignore[arg-type]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "a sort"})
    answered = await client.chat.completions.create(
        model="mistral", messages=messages, tools=[LOOK_UP], temperature=0
    )
    assert answered.choices[0].message.content == SAYS_MISTRAL


async def test_a_tool_call_comes_in_a_stream(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="mistral", messages=WHO, tools=[LOOK_UP], temperature=0
    ) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "look_up",
        {"word": "kind"},
    )


async def test_a_response_comes_whole_and_in_a_stream(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MISTRAL_ALIAS, input="Who are you?", temperature=0)
    assert (whole.output_text, whole.model) == (SAYS_MISTRAL, MISTRAL_ALIAS)
    async with client.responses.stream(
        model=MISTRAL_ALIAS, input="Who are you?", temperature=0
    ) as stream:
        said = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(said) == final.output_text == SAYS_MISTRAL
    assert (final.status, final.model) == ("completed", MISTRAL_ALIAS)


async def test_a_message_comes_whole_and_in_a_stream(claude: anthropic.AsyncAnthropic) -> None:
    whole = await claude.messages.create(model=MISTRAL_ALIAS, max_tokens=64, messages=WHO_MESSAGES)
    assert text_of(whole) == SAYS_MISTRAL
    assert (whole.model, whole.stop_reason) == (MISTRAL_ALIAS, "end_turn")
    async with claude.messages.stream(
        model=MISTRAL_ALIAS, max_tokens=64, messages=WHO_MESSAGES
    ) as stream:
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert len(said) > 1
    assert "".join(said) == text_of(final) == SAYS_MISTRAL
    assert final.model == MISTRAL_ALIAS


def text_of(message: anthropic.types.Message) -> str:
    """Return the text of a message that has nothing else."""
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


async def test_the_tokens_of_a_message_are_counted(claude: anthropic.AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(model="mistral", messages=WHO_MESSAGES)
    assert counted.input_tokens > len("Who are you?")


async def test_a_message_may_use_a_tool(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(
        model="mistral", max_tokens=64, messages=WHO_MESSAGES, tools=[LOOK_UP_TOOL]
    )
    (block,) = message.content
    assert block.type == "tool_use"
    assert (block.name, block.input) == ("look_up", {"word": "kind"})
    assert message.stop_reason == "tool_use"


async def test_every_declared_model_and_alias_is_listed(client: openai.AsyncOpenAI) -> None:
    listed = {model.id async for model in client.models.list()}
    assert listed == {"mistral", "coder", "llava", "embedder", MISTRAL_ALIAS, CODER_ALIAS}
    assert (await client.models.retrieve(MISTRAL_ALIAS)).id == MISTRAL_ALIAS


async def test_errors_are_the_clients_own(
    client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gemma", messages=WHO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError, match="gemma"):
        await claude.messages.create(model="gemma", max_tokens=8, messages=WHO_MESSAGES)
    # What vLLM itself refuses keeps its own words.
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await client.chat.completions.create(model="mistral", messages=WHO, temperature=-1)
    # A declared model is never 404, whatever its kind does not do.
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        await client.embeddings.create(model="mistral", input="hello")


async def test_a_caller_may_refuse_a_swap(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.ConflictError, match="mistral") as refused:
        await client.with_options(max_retries=0).chat.completions.create(
            model="coder", messages=WHO, extra_headers={"X-ModelServing-Swap": "never"}
        )
    assert refused.value.code == "model_not_active"


async def test_a_caller_may_take_what_is_warm(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="coder",
        messages=WHO,
        temperature=0,
        extra_headers={"X-ModelServing-Fallback": "llava, mistral"},
    )
    assert raw.headers[MODEL_HEADER] == "mistral"
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.model) == (SAYS_MISTRAL, "mistral")


# Coder is swapped in.


async def test_streams_are_kept_alive_across_a_swap_and_then_answered(
    world: World,
    client: openai.AsyncOpenAI,
    claude: anthropic.AsyncAnthropic,
    serving: str,
) -> None:
    """Three clients wait for the same swap; a plain answer waits with them."""
    by_alias, message, plain, (comments, data) = await asyncio.gather(
        streamed(client, CODER_ALIAS),
        streamed_message(claude, CODER_ALIAS),
        client.chat.completions.with_raw_response.create(
            model="coder", messages=WHO, temperature=0
        ),
        lines_of_stream(client, "coder"),
    )
    assert by_alias == (SAYS_CODER, {CODER_ALIAS})
    assert message == (SAYS_CODER, CODER_ALIAS)
    assert plain.parse().choices[0].message.content == SAYS_CODER
    held = float(plain.headers[HELD_HEADER])
    gateway = VALUES["gateway"]
    assert len(comments) >= (held - gateway["holdGraceSeconds"]) // gateway["keepaliveSeconds"] - 1
    assert all(each.startswith(": modelserving model=coder") for each in comments)
    assert any("estimated_seconds=" in each for each in comments)
    assert data[-1] == "data: [DONE]"
    await world.until_serving(
        serving, lambda each: is_serving(each, "coder"), what="coder serves", within=30
    )


async def streamed(client: openai.AsyncOpenAI, model: str) -> tuple[str, set[str]]:
    """Return what a stream said, and under which names."""
    stream = await client.chat.completions.create(
        model=model, messages=WHO, temperature=0, stream=True
    )
    said, names = "", set()
    async for chunk in stream:
        said += chunk.choices[0].delta.content or ""
        names.add(chunk.model)
    return said, names


async def streamed_message(claude: anthropic.AsyncAnthropic, model: str) -> tuple[str, str]:
    """Return what a stream of Anthropic's events said, and under which name."""
    async with claude.messages.stream(model=model, max_tokens=64, messages=WHO_MESSAGES) as stream:
        final = await stream.get_final_message()
    return text_of(final), final.model


async def lines_of_stream(client: openai.AsyncOpenAI, model: str) -> tuple[list[str], list[str]]:
    """Return the comments and the data of a stream, as they are on the wire."""
    comments: list[str] = []
    data: list[str] = []
    async with client.chat.completions.with_streaming_response.create(
        model=model, messages=WHO, temperature=0, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.iter_lines():
            if line.startswith(":"):
                assert data == [], "no comment comes once the engine answers"
                comments.append(line)
            elif line:
                data.append(line)
    return comments, data


# Llava is swapped in.


def picture(colour: str) -> str:
    """Return a picture of one colour as PNG in base64."""
    file = io.BytesIO()
    Image.new("RGB", (28, 28), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def test_llava_sees_the_pictures_that_both_clients_send(
    client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    red: list[ChatCompletionMessageParam] = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Which colour is it?"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{picture('red')}"},
                },
            ],
        }
    ]
    blue: list[MessageParam] = [
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": picture("blue"),
                    },
                },
                {"type": "text", "text": "Which colour is it?"},
            ],
        }
    ]
    chat, message = await asyncio.gather(
        client.chat.completions.create(model="llava", messages=red, temperature=0),
        claude.messages.create(model="llava", max_tokens=64, messages=blue),
    )
    assert chat.choices[0].message.content == "The picture is red to me."
    assert text_of(message) == "The picture is blue to me."


# The embedder is swapped in, for a client that has little patience and its own retries.


async def test_the_clients_own_retries_come_back_when_they_are_told_to(
    client: openai.AsyncOpenAI,
) -> None:
    """It waits two seconds a time at most; Retry-After tells it when to try again."""
    impatient = {"X-ModelServing-Hold-Seconds": "2"}
    with pytest.raises(openai.InternalServerError) as refused:
        await client.with_options(max_retries=0).embeddings.create(
            model="embedder", input="red apple", extra_headers=impatient
        )
    assert refused.value.status_code == 503
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
    began = time.monotonic()
    answer = await client.with_options(max_retries=20).embeddings.create(
        model="embedder", input="red apple", extra_headers=impatient
    )
    assert len(answer.data[0].embedding) == 64
    assert time.monotonic() - began < LOAD_SECONDS


async def test_texts_that_are_alike_have_embeddings_that_are(client: openai.AsyncOpenAI) -> None:
    """The client asks for base64 by itself and decodes it."""
    answer = await client.embeddings.create(
        model="embedder", input=["red apple", "red apples", "xyz"]
    )
    assert answer.model == "embedder"
    one, alike, other = (each.embedding for each in answer.data)
    assert cosine(one, alike) > 0.9 > 0.5 > cosine(one, other)


def cosine(one: list[float], other: list[float]) -> float:
    """Return the cosine of two vectors of length one."""
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"])
async def test_documents_are_ranked_and_scored(client: openai.AsyncOpenAI, path: str) -> None:
    documents = ["xyz", "red apples"]
    body = (
        {"text_1": "red apple", "text_2": documents}
        if "score" in path
        else {"query": "red apple", "documents": documents}
    )
    base = str(client.base_url).removesuffix("/v1/")
    answer: Any = await client.post(
        f"{base}{path}", body={"model": "embedder", **body}, cast_to=object
    )
    assert answer["model"] == "embedder"
    scores = {
        each["index"]: each.get("relevance_score", each.get("score"))
        for each in answer.get("results") or answer["data"]
    }
    assert scores[1] > 0.9 > 0.5 > scores[0]


async def test_tokens_of_a_text_are_told_and_told_back(client: openai.AsyncOpenAI) -> None:
    base = str(client.base_url).removesuffix("/v1/")
    told: Any = await client.post(
        f"{base}/tokenize", body={"model": "embedder", "prompt": "apple"}, cast_to=object
    )
    assert told["count"] == len("apple")
    back: Any = await client.post(
        f"{base}/detokenize",
        body={"model": "embedder", "tokens": told["tokens"]},
        cast_to=object,
    )
    assert back == {"prompt": "apple"}
