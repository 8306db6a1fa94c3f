"""The model's name in an answer becomes the one asked for, and nothing else changes."""

import json
import time
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelserving_gateway.api.answer_model import AnswerModel, answer_model, is_rewritable

ALIAS = 'mistralai/Mistral "7B" é'
NAMES = st.sampled_from(["model", "response", "message", "x", '\\"model', '"model":"mistral"', ""])
TEXTS = st.sampled_from(["mistral", "coder", '"model":"mistral"', '\\"model\\": \\"mistral\\"', ""])
JSON = st.recursive(
    st.none() | st.integers() | TEXTS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)
SPACE = st.text(" \t\r\n", max_size=2)


def rendered(value: Any, space: str) -> bytes:
    separators = (f"{space},{space}", f"{space}:{space}")
    return (space + json.dumps(value, separators=separators) + space).encode()


def expected(value: Any) -> Any:
    """What the answer should be: the name replaced in the first place where an API says it."""
    value = deepcopy(value)
    if not isinstance(value, dict):
        return value
    for name, inner in value.items():
        if name == "model" and inner == "mistral":
            value["model"] = ALIAS
            break
        inner = inner if name in ("response", "message") and isinstance(inner, dict) else {}
        if inner.get("model") == "mistral":
            inner["model"] = ALIAS
            break
    return value


@given(JSON, SPACE)
@example({"model": "mistral"}, " ")
@example({'"model': "mistral", "a": [{"model": "mistral"}]}, "")
@example({"response": {"message": {"model": "mistral"}, "model": "mistral"}}, "")
@example({"model": "mistral", "response": {"model": "mistral"}}, "")
@example({"model": ["mistral"], "message": [{"model": "mistral"}]}, "")
@example(["model", "mistral", {"model": "mistral"}], "")
def test_the_name_is_replaced_where_an_api_says_it_and_nowhere_else(value: Any, space: str) -> None:
    rewritten = AnswerModel(ALIAS, "mistral").in_body(rendered(value, space))
    assert rewritten == rendered(expected(value), space)


@given(st.lists(JSON, max_size=4), st.sampled_from(["", " "]))
def test_in_events_too(values: list[Any], space: str) -> None:
    def events(values: list[Any]) -> bytes:
        lines = (b"event: x\nid: 1\ndata: " + rendered(each, space) for each in values)
        return b"\n\n".join((b': state="model": "mistral"', *lines, b"data: [DONE]", b""))

    model, values = AnswerModel(ALIAS, "mistral"), [*values, *values]
    rewritten = model.in_events(events(values)) + model.in_events(events(values))
    assert rewritten == 2 * events([expected(each) for each in values])


@given(st.binary(max_size=80) | st.text('{}[]":model,mistral\\\n', max_size=80).map(str.encode))
def test_what_is_no_json_does_no_harm(content: bytes) -> None:
    model = AnswerModel("mistral", "mistral")
    assert model.in_body(content) == content
    assert model.in_events(content) == content


def test_the_beginning_of_a_large_answer_is_enough() -> None:
    begun = b'{"object":"list","model":"mistral","data":[{"embedding":[0.1,'
    assert AnswerModel("gpt-4", "mistral").in_body(begun) == begun.replace(b"mistral", b"gpt-4")


@pytest.mark.parametrize(
    ("api", "event"),
    [
        ("chat", 'data: {"id":"c","object":"chat.completion.chunk","model":"%s","choices":[]}'),
        ("responses", 'data: {"type":"response.created","response":{"id":"r","model":"%s"}}'),
        ("anthropic", 'data: {"type":"message_start","message":{"id":"m","model":"%s"}}'),
    ],
)
def test_the_events_of_each_api_are_known(api: str, event: str) -> None:
    lines = ("event: e\n" + event + "\n\n").replace("%s", "mistral").encode()
    assert AnswerModel("gpt-4", "mistral").in_events(lines) == lines.replace(b"mistral", b"gpt-4")


def test_events_that_begin_alike_may_go_on_otherwise() -> None:
    events = [
        b'data: {"id":"1","model":"mistral","choices":[{"text":"a"}]}\n\n',
        b'data: {"id":"1","model":"mistral"}\n\n',
        b'data: {"id":"1","model":"mistral-large"}\n\n',
        b'data: {"id":"1","model":"mistral","choices":[{"text":"mistral","model":"mistral"}]}\n\n',
    ]
    model = AnswerModel("gpt-4", "mistral")
    for event in events:
        assert model.in_events(event) == event.replace(b'"mistral"', b'"gpt-4"', 1)


def test_the_input_of_a_tool_is_the_models_own() -> None:
    body = b'{"model":"coder","content":[{"type":"tool_use","input":{"model":"mistral"}}]}'
    assert AnswerModel("gpt-4", "mistral").in_body(body) == body


def test_nothing_is_to_be_done_where_the_declared_name_was_asked_for() -> None:
    assert answer_model("mistral", "mistral") is None
    assert answer_model("gpt-4", "mistral") is not None


@pytest.mark.parametrize(
    ("content_type", "encoding", "rewritable"),
    [
        (b"application/json; charset=utf-8", None, True),
        (b"text/event-stream", b"identity", True),
        (b"application/json", b"gzip", False),
        (b"text/plain", None, False),
        (None, None, False),
    ],
)
def test_only_readable_json_is_rewritten(
    content_type: bytes | None, encoding: bytes | None, rewritable: bool
) -> None:
    assert is_rewritable(content_type, encoding) is rewritable


def test_a_string_that_is_cut_off_is_looked_through_once() -> None:
    cut = b'{"name":"mistral","' + b'\\"mistral' * 100_000 + b"\\"
    begun = time.process_time()
    assert AnswerModel("gpt-4", "mistral").in_body(cut) == cut
    assert time.process_time() - begun < 1
