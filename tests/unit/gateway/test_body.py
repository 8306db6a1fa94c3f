"""The body's model is found and replaced without touching any other byte."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.body import Body
from modelserving_gateway.api.body import read_body as read_any_body
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.surface import Form

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text() | st.just("model"), JSON, max_size=6)
SPACE = st.text(" \t\r\n", max_size=3)


LIMIT = 33_554_432


def read_body(content: bytes, content_encoding: bytes | None = None) -> Body:
    return read_any_body(content, Form.JSON, b"application/json", content_encoding, LIMIT)


def rendered(value: dict[str, Any], space: str, *, ascii_only: bool) -> bytes:
    separators = (f"{space},{space}", f"{space}:{space}")
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    return (space + text + space).encode("utf-8", "surrogatepass")


@given(OBJECTS, st.text(min_size=1), SPACE, st.booleans())
def test_the_model_is_what_a_json_parser_finds(
    fields: dict[str, Any], model: str, space: str, ascii_only: bool
) -> None:
    fields = {**fields, "model": model}
    try:
        content = rendered(fields, space, ascii_only=ascii_only)
        content.decode()
    except UnicodeDecodeError:
        return
    body = read_body(content)
    assert body.model == model
    assert body.for_model(model) is content


@given(OBJECTS, st.text(min_size=1), SPACE)
def test_replacing_the_model_changes_nothing_else(
    fields: dict[str, Any], model: str, space: str
) -> None:
    before = {**fields, "model": model, "after": fields}
    content = rendered(before, space, ascii_only=True)
    replaced = read_body(content).for_model("mistral")
    assert replaced == rendered({**before, "model": "mistral"}, space, ascii_only=True)


@given(st.binary(max_size=200) | st.text('{}[]":,model \\u0', max_size=60).map(str.encode))
def test_arbitrary_bytes_are_read_or_refused_with_400(content: bytes) -> None:
    with suppress(ApiError):
        assert read_body(content).model


@given(JSON)
def test_what_is_no_object_with_a_model_is_refused(value: Any) -> None:
    if isinstance(value, dict) and isinstance(value.get("model"), str) and value["model"]:
        return
    with pytest.raises(ApiError):
        read_body(json.dumps(value).encode())


def test_of_a_model_given_twice_the_last_one_decides() -> None:
    body = read_body(b'{"model": "a", "x": {"model": "c"}, "model": "b"}')
    assert body.model == "b"
    assert body.for_model("z") == b'{"model": "a", "x": {"model": "c"}, "model": "z"}'


def test_a_byte_order_mark_is_read_over_and_kept() -> None:
    body = read_body(b'\xef\xbb\xbf{"model": "a"}')
    assert body.model == "a"
    assert body.for_model("a") == b'\xef\xbb\xbf{"model": "a"}'
    assert body.for_model("b") == b'\xef\xbb\xbf{"model": "b"}'


def test_a_name_that_is_escaped_is_the_same_name() -> None:
    body = read_body(b'{"m\\u006fdel": "mistra\\u006c"}')
    assert body.model == "mistral"
    assert body.for_model("coder") == b'{"m\\u006fdel": "coder"}'


@pytest.mark.parametrize("number", [b"1" * 9_000, b"-0.0", b"1e999", b"1.10", b"NaN"], ids=len)
def test_numbers_of_any_size_survive(number: bytes) -> None:
    body = read_body(b'{"n":' + number + b',"model":"a"}')
    assert body.for_model("b") == b'{"n":' + number + b',"model":"b"}'


@pytest.mark.parametrize(
    ("fields", "stream"),
    [
        ('"stream": true', True),
        ('"stream": false', False),
        ('"stream": null', False),
        ('"stream": "true"', False),
        ('"stream": 1', False),
        ('"stream": [true]', False),
        ('"x": {"stream": true}', False),
        ('"stream": false, "stream": true', True),
    ],
)
def test_whether_events_are_asked_for_is_read(fields: str, stream: bool) -> None:
    assert read_body(f'{{"model": "a", {fields}}}'.encode()).stream is stream


def test_a_small_body_that_would_parse_to_a_gigabyte_is_refused_before_it_is_parsed() -> None:
    bomb = b'{"model":"mistral","a":[' + b"{}," * 2_000_000 + b"{}]}"
    tracemalloc.start()
    with pytest.raises(ApiError, match="values"):
        read_body(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(bomb)


def test_a_prompt_of_many_token_ids_is_no_bomb() -> None:
    content = json.dumps({"model": "mistral", "prompt": list(range(128_000))}).encode()
    assert read_body(content).model == "mistral"
