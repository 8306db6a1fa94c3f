"""The stand-in's HTTP surface is vLLM's."""

import base64
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.unit.engines.conftest import SimProcess, eventually


def events(text: str) -> list[Any]:
    """The payloads of a stream of server-sent events."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_chat_completion_names_its_model_and_repeats_what_was_asked(mistral: SimProcess) -> None:
    answer = mistral.ask(model="mistral").json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].startswith("mistral: hello there")
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 16, "total_tokens": 18}


def test_max_tokens_bounds_the_answer(mistral: SimProcess) -> None:
    answer = mistral.ask(model="mistral", max_tokens=2).json()
    assert answer["choices"][0]["message"]["content"] == "mistral: hello"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_ignore_eos_makes_the_answer_as_long_as_asked(mistral: SimProcess) -> None:
    answer = mistral.ask(model="mistral", max_tokens=50, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 50


def test_an_alias_answers_under_the_first_served_name(mistral: SimProcess) -> None:
    assert mistral.ask(model="tiny-mistral").json()["model"] == "mistral"


def test_a_streamed_chat_ends_with_its_reason_its_usage_and_done(mistral: SimProcess) -> None:
    response = mistral.ask(
        model="mistral", stream=True, max_tokens=3, stream_options={"include_usage": True}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, counted, done = events(response.text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert said == "mistral: hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3 + ["length"]
    assert counted["choices"] == []
    assert counted["usage"]["completion_tokens"] == 3
    assert done == "[DONE]"


def test_a_streamed_text_completion_has_text_chunks(mistral: SimProcess) -> None:
    response = mistral.ask(
        "/v1/completions", model="mistral", prompt="once", max_tokens=2, stream=True
    )
    *chunks, done = events(response.text)
    assert [chunk["object"] for chunk in chunks] == ["text_completion"] * 2
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "mistral: once"
    assert done == "[DONE]"


def test_chunks_arrive_one_by_one_at_the_pace_of_the_engine(mistral: SimProcess) -> None:
    body = {
        "model": "mistral",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "max_tokens": 3,
        "vllm_xargs": {"sim_seconds_per_token": 0.1},
    }
    with httpx.stream("POST", mistral.url + "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert any("mistral:" in line for line in lines)
        assert mistral.metric("num_requests_running") == 1  # the rest is still to come
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_a_picture_counts_as_part_of_the_prompt(mistral: SimProcess) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    content = [{"type": "text", "text": "what is this"}, picture]
    answer = mistral.ask(model="mistral", messages=[{"role": "user", "content": content}]).json()
    assert "(1 image)" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == 4


def test_the_models_are_the_served_names(mistral: SimProcess) -> None:
    listed = httpx.get(mistral.url + "/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["mistral", "tiny-mistral"]


def test_embeddings_come_as_numbers_or_as_base64(mistral: SimProcess) -> None:
    body = {"model": "mistral", "input": ["a", "b"]}
    plain = mistral.ask("/v1/embeddings", **body).json()["data"]
    packed = mistral.ask("/v1/embeddings", encoding_format="base64", **body).json()["data"]
    assert plain[0]["embedding"] != plain[1]["embedding"]
    for number, encoded in zip(plain, packed, strict=True):
        values = struct.unpack("<8f", base64.b64decode(encoded["embedding"]))
        assert list(values) == number["embedding"]


@pytest.mark.parametrize(
    ("body", "status", "kind", "word"),
    [
        ({"model": "nope"}, 404, "NotFoundError", "`nope` does not exist"),
        ({"messages": "hello"}, 400, "BadRequestError", "messages"),
        ({"messages": []}, 400, "BadRequestError", "messages"),
        ({"messages": [{"content": "no role"}]}, 400, "BadRequestError", "role"),
        ({"max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ({"max_tokens": "many"}, 400, "BadRequestError", "max_tokens"),
        ({"max_tokens": 1000}, 400, "BadRequestError", "context length is 100"),
        ({"n": 2}, 400, "BadRequestError", "n must be 1"),
    ],
)
def test_a_request_that_vllm_rejects_is_rejected(
    mistral: SimProcess, body: dict[str, Any], status: int, kind: str, word: str
) -> None:
    response = mistral.ask(**body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["code"]) == (kind, status)
    assert word in error["message"]


@pytest.mark.parametrize("content", [b"{bad", b"[1]", b"\xff\xfe", b""])
def test_a_body_that_is_no_object_is_a_bad_request(mistral: SimProcess, content: bytes) -> None:
    response = httpx.post(mistral.url + "/v1/chat/completions", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "BadRequestError"


def test_requests_beyond_the_slots_wait_and_are_counted(mistral: SimProcess) -> None:
    url = mistral.url + "/v1/completions"
    slow = {"prompt": "x", "stream": True, "vllm_xargs": {"sim_seconds_per_token": 5}}
    with ThreadPoolExecutor() as pool:
        with httpx.stream("POST", url, json=slow), httpx.stream("POST", url, json=slow):
            third = pool.submit(mistral.ask, model="mistral", max_tokens=1)
            eventually(lambda: mistral.metric("num_requests_waiting") == 1)
            assert mistral.metric("num_requests_running") == 2
            assert not third.done()
        # The two streams are closed, and their slots with them.
        assert third.result().status_code == 200


def test_a_client_that_leaves_frees_its_slot(mistral: SimProcess) -> None:
    body = {"model": "mistral", "max_tokens": 16, "vllm_xargs": {"sim_seconds_per_token": 5}}
    for stream in (True, False):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                mistral.url + "/v1/completions",
                json={**body, "prompt": "x", "stream": stream},
                timeout=0.2,
            )
    eventually(lambda: mistral.metric("num_requests_running") == 0)


def test_metrics_carry_the_model_and_count_tokens(mistral: SimProcess) -> None:
    before = mistral.metric("generation_tokens_total")
    mistral.ask(model="tiny-mistral", max_tokens=5)
    assert mistral.metric("generation_tokens_total") == before + 5
    exposed = httpx.get(mistral.url + "/metrics").text
    assert 'vllm:num_requests_waiting{engine="0",model_name="mistral"} 0.0' in exposed


@pytest.mark.parametrize("path", ["/sleep", "/wake_up"])
def test_there_is_no_sleep_outside_development_mode(mistral: SimProcess, path: str) -> None:
    assert httpx.post(mistral.url + path).status_code == 404


def test_health_and_version_answer(mistral: SimProcess) -> None:
    assert httpx.get(mistral.url + "/health").status_code == 200
    assert httpx.get(mistral.url + "/version").json() == {"version": "0.32.0+sim"}
