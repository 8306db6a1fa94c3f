"""The model of a form is found and replaced without touching any other byte of it."""

import tracemalloc
from contextlib import suppress
from email import message_from_bytes
from email.message import Message

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.body import Body, read_body
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.surface import Form

LIMIT = 33_554_432
BOUNDARY = "b0undary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}".encode()


def read(content: bytes, content_type: bytes = CONTENT_TYPE) -> Body:
    return read_body(content, Form.MULTIPART, content_type, None, LIMIT)


def part(value: bytes, disposition: str = 'form-data; name="model"') -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def refused(content: bytes, content_type: bytes = CONTENT_TYPE) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        read(content, content_type)
    return caught.value.status, caught.value.message


VALUES = st.binary(max_size=40) | st.sampled_from(
    [b"\r\n", b"\r\n--", b"--b0undary", b"\r\n--b0undar", b'name="model"\r\n\r\nx']
)
"""None of them holds the delimiter, which no writer of a form may choose either."""


@given(
    st.lists(st.tuples(st.sampled_from(["file", "prompt", "x"]), VALUES), max_size=4),
    st.integers(0, 4),
)
def test_replacing_the_model_changes_nothing_else(
    others: list[tuple[str, bytes]], place: int
) -> None:
    def rendered(model: bytes) -> bytes:
        parts = [
            part(value, f'form-data; name="{name}"' + '; filename="a.wav"' * (name == "file"))
            for name, value in others
        ]
        parts.insert(min(place, len(parts)), part(model))
        return form(*parts)

    body = read(rendered("mistralai/Mïstral".encode()))
    assert body.model == "mistralai/Mïstral"
    assert body.for_model("mistral") == rendered(b"mistral")
    assert body.for_model(body.model) is body.content


def test_what_an_http_client_sends_is_read_as_the_standard_library_reads_it() -> None:
    request = httpx.Request(
        "POST",
        "http://x/",
        data={"language": "en", "model": "gpt-4", "stream": "True", "temperature": "0.0"},
        files={"file": ('a "b".wav', bytes(range(256)) * 100, "audio/wav")},
    )
    content_type = request.headers["content-type"].encode()
    body = read(request.read(), content_type)
    assert (body.model, body.stream) == ("gpt-4", True)

    replaced = message_from_bytes(
        b"content-type: " + content_type + b"\r\n\r\n" + body.for_model("mistral")
    )
    values = {
        each.get_param("name", header="content-disposition"): each.get_payload(decode=True)
        for each in replaced.walk()
        if isinstance(each, Message) and not each.is_multipart()
    }
    assert values == {
        "language": b"en",
        "model": b"mistral",
        "stream": b"True",
        "temperature": b"0.0",
        "file": bytes(range(256)) * 100,
    }


@pytest.mark.parametrize(
    ("value", "stream"),
    [(b"true", True), (b"1", True), (b"false", False), (b"0", False), (b"", False), (b"x", False)],
)
def test_whether_events_are_asked_for_is_read_as_the_engine_does(
    value: bytes, stream: bool
) -> None:
    assert read(form(part(b"a"), part(value, 'form-data; name="stream"'))).stream is stream


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"", 415),
        (b"application/json", 415),
        (b"multipart/mixed; boundary=b0undary", 415),
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
        (b"multipart/form-data; boundary=" + b"x" * 71, 400),
        (b'multipart/form-data; x="; boundary=b0undary"', 400),
        (b"multipart/form-data; boundary=other", 400),
    ],
)
def test_a_content_type_that_names_no_usable_boundary_is_refused(
    content_type: bytes, status: int
) -> None:
    assert refused(form(part(b"a")), content_type)[0] == status


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="b0undary"',
        b"Multipart/Form-Data;charset=utf-8;BOUNDARY=b0undary",
        b'multipart/form-data; x="; boundary=no\\""; boundary=b0undary',
    ],
)
def test_a_boundary_is_found_however_it_is_written(content_type: bytes) -> None:
    assert read(form(part(b"a")), content_type).model == "a"


NO_FORMS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "begin with the boundary"),
    "JSON": (b'{"model":"a"}', "begin with the boundary"),
    "no parts": (form(), "provide a `model`"),
    "no model": (form(part(b"a", 'form-data; name="file"')), "provide a `model`"),
    "model empty": (form(part(b"")), "must not be empty"),
    "model twice": (form(part(b"a"), part(b"b")), "given twice"),
    "stream twice": (
        form(part(b"a"), *[part(b"1", "form-data; name=stream")] * 2),
        "given twice",
    ),
    "model a file": (form(part(b"a", 'form-data; name="model"; filename="m"')), "short text"),
    "model a file, encoded name": (
        form(part(b"a", "form-data; name=\"model\"; filename*=utf-8''m")),
        "short text",
    ),
    "model large": (form(part(b"a" * 5_000)), "short text"),
    "model not UTF-8": (form(part(b"\xff")), "UTF-8"),
    "a part without name": (form(part(b"a", "form-data")), "no name"),
    "an attachment": (form(part(b"a", 'attachment; name="model"')), "no name"),
    "garbage after the name": (form(part(b"a", 'form-data; name="model"x')), "no name"),
    "two names": (
        form(part(b"a", 'form-data; name=x\r\nContent-Disposition: form-data; name="model"')),
        "no name",
    ),
    "a part without headers": (form(f"--{BOUNDARY}\r\n\r\na\r\n".encode()), "no name"),
    "truncated in a part": (part(b"a")[:-2], "ends within a part"),
    "truncated in headers": (part(b"a")[:30], "do not end"),
    "endless headers": (f"--{BOUNDARY}\r\n".encode() + b"x: y\r\n" * 500_000, "do not end"),
    "headers that end late": (
        form(f"--{BOUNDARY}\r\n".encode() + b"x: y\r\n" * 2_000 + part(b"a")[12:]),
        "do not end",
    ),
    "bare line feeds": (form(part(b"a")).replace(b"\r\n", b"\n"), "not followed by a line end"),
    "100,000 parts": (form(*[part(b"a", "form-data; name=x")] * 100_000), "more than 1000 parts"),
}


@pytest.mark.parametrize(("content", "why"), NO_FORMS.values(), ids=NO_FORMS)
def test_what_is_no_form_with_a_model_is_refused_with_the_reason(content: bytes, why: str) -> None:
    status, message = refused(content)
    assert status == 400
    assert why in message


@given(st.binary(max_size=200) | st.lists(st.sampled_from([part(b"a"), b"--b0undary", b"\r\n"])))
def test_arbitrary_bytes_are_read_or_refused_with_400(content: bytes | list[bytes]) -> None:
    with suppress(ApiError):
        assert read(b"".join(content) if isinstance(content, list) else content).model


def test_a_large_file_is_not_copied_to_find_the_model() -> None:
    content = form(part(b"\r\n" * 8_000_000, 'form-data; name="file"; filename="a"'), part(b"a"))
    tracemalloc.start()
    body = read(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert body.model == "a"
    assert peak < 100_000
