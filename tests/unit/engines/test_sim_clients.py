"""The official clients read what the stand-in answers, so its shapes are theirs."""

import hashlib
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.unit.engines.conftest import SimProcess


@pytest.fixture
def client(mistral: SimProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=mistral.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(mistral: SimProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mistral.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_read_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    asked: Any = {"model": "mistral", "messages": [{"role": "user", "content": "hello there"}]}
    whole = client.chat.completions.create(**asked)
    said = whole.choices[0].message.content
    assert said is not None
    assert said.startswith("mistral: hello there")
    stream = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == said


def test_a_response_is_read_whole_and_in_a_stream(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="mistral", input="hello there")
    assert whole.output_text.startswith("mistral: hello there")
    assert whole.usage is not None
    assert whole.usage.output_tokens == 16
    with client.responses.stream(model="mistral", input="hello there") as stream:
        said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == whole.output_text == final.output_text
    assert final.status == "completed"


def test_a_response_that_is_cut_says_so(client: openai.OpenAI) -> None:
    cut = client.responses.create(model="mistral", input="hello there", max_output_tokens=2)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_a_message_is_read_whole_and_in_a_stream(claude: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "mistral",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "hello there"}],
    }
    whole = claude.messages.create(**asked)
    assert (whole.role, whole.stop_reason, whole.model) == ("assistant", "max_tokens", "mistral")
    assert whole.usage.output_tokens == 8
    with claude.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    (block,) = whole.content
    assert block.type == "text"
    assert said == block.text
    assert said.startswith("mistral: hello there")
    assert final.stop_reason == "max_tokens"


def test_the_tokens_of_a_message_are_counted(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(
        model="mistral", messages=[{"role": "user", "content": "hello there"}]
    )
    assert counted.input_tokens == 2


def test_an_unknown_model_is_the_clients_own_error(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nope", input="hello")
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.count_tokens(model="nope", messages=[{"role": "user", "content": "hi"}])


def test_an_upload_is_answered_with_what_came(client: openai.OpenAI) -> None:
    sound = bytes(range(256)) * 100 + b"\r\n--boundary\r\n"
    whole = client.audio.transcriptions.create(model="mistral", file=("a.wav", sound))
    digest = hashlib.sha256(sound).hexdigest()
    assert whole.text.startswith(f"mistral: a.wav {len(sound)} bytes sha256={digest}")
    text = client.audio.transcriptions.create(
        model="mistral", file=("a.wav", sound), response_format="text"
    )
    assert str(text).strip() == whole.text


def test_an_upload_without_a_file_is_a_bad_request(mistral: SimProcess) -> None:
    answer = httpx.post(mistral.url + "/v1/audio/transcriptions", data={"model": "mistral"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "file"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_by_the_words_they_share(mistral: SimProcess, path: str) -> None:
    body = {"query": "red apple", "documents": ["blue sky", "an apple", "red apple"], "top_n": 2}
    answer = mistral.ask(path, model="mistral", **body).json()
    assert answer["model"] == "mistral"
    assert [each["index"] for each in answer["results"]] == [2, 1]
    assert answer["results"][0]["document"]["text"] == "red apple"
    assert answer["results"][0]["relevance_score"] == 1.0


def test_texts_are_scored_in_the_order_they_came(mistral: SimProcess) -> None:
    body = {"text_1": "red apple", "text_2": ["blue sky", "red apple"]}
    answer = mistral.ask("/score", model="mistral", **body).json()
    assert [each["score"] for each in answer["data"]] == [0.0, 1.0]


def test_a_text_becomes_tokens_and_tokens_the_text(mistral: SimProcess) -> None:
    tokens = mistral.ask("/tokenize", model="mistral", prompt="grün", messages=None).json()
    assert tokens["count"] == len(tokens["tokens"]) == 5
    assert tokens["max_model_len"] == 100
    told = mistral.ask("/detokenize", model="mistral", tokens=tokens["tokens"]).json()
    assert told == {"prompt": "grün"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": 7}, "input"),
        ("/v1/messages", {}, "max_tokens"),
        ("/rerank", {"query": "a"}, "documents"),
        ("/rerank", {"query": 1, "documents": ["a"]}, "query"),
        ("/rerank", {"query": "a", "documents": ["a"], "top_n": "two"}, "top_n"),
        ("/score", {"text_2": "a"}, "text_1"),
        ("/detokenize", {"tokens": [1, 300]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
    ],
)
def test_what_is_missing_is_named(
    mistral: SimProcess, path: str, body: dict[str, Any], param: str
) -> None:
    answer = mistral.ask(path, model="mistral", **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
