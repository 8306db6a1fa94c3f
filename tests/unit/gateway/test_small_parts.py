"""Headers, server-sent events, departing engines, settings: small pure parts."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelserving_gateway.api import errors, headers, sse
from modelserving_gateway.engine.departing import Departure, before_departure, departure
from modelserving_gateway.main import main
from modelserving_gateway.settings import Settings

CHUNKS = st.lists(st.binary(max_size=20) | st.sampled_from([b"\n", b"data: x\n\n", b"\r\n"]))


@given(CHUNKS)
def test_whole_lines_pass_every_byte_in_order_and_only_whole_lines(chunks: list[bytes]) -> None:
    lines = sse.WholeLines()
    passed = b""
    for chunk in chunks:
        out = lines.feed(chunk)
        assert out == b"" or out.endswith(b"\n")
        passed += out
    assert passed + lines.finish() == b"".join(chunks)


def test_a_line_without_end_is_not_kept_back_for_ever() -> None:
    lines = sse.WholeLines()
    passed = sum(len(lines.feed(b"x" * 65_536)) for _ in range(32))
    assert passed > 1_000_000


def test_an_error_event_ends_a_started_event_and_is_one_of_its_own() -> None:
    event = sse.error_event(errors.upstream_lost("mistral")).decode()
    assert event.startswith("\ndata: ")
    assert event.endswith("\n\n")
    assert json.loads(event.strip().removeprefix("data: "))["error"]["code"] == "upstream_lost"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (None, "(CrashLoop)"),
        ("exited with code 3", "(CrashLoop: exited with code 3)"),
        (
            "exited with code 1; its last words: Traceback (most recent call last):\n"
            '  File "/usr/lib/x.py", line 1\n\ntorch.OutOfMemoryError: CUDA out of memory\n',
            "(CrashLoop: exited with code 1 … torch.OutOfMemoryError: CUDA out of memory)",
        ),
    ],
)
def test_clients_are_told_why_a_load_failed_without_the_traceback(
    message: str | None, expected: str
) -> None:
    error = errors.model_load_failed("coder", "CrashLoop", message, 5)
    assert error.message == f"The model `coder` could not be loaded {expected}."


def test_clients_do_not_retry_a_model_that_waits_for_a_change_of_its_spec() -> None:
    error = errors.model_load_failed("coder", "OutOfMemory", "CUDA out of memory", None)
    assert error.message.endswith("It is not tried again until its spec changes.")
    headers = dict(error.headers())
    assert headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in headers


@pytest.mark.parametrize(
    ("content_type", "encoding", "expected"),
    [
        (b"text/event-stream", None, True),
        (b"text/event-stream; charset=utf-8", None, True),
        (b"Text/Event-Stream", b"identity", True),
        (b"text/event-stream", b"gzip", False),
        (b"application/json", None, False),
        (None, None, False),
    ],
)
def test_a_readable_event_stream_is_recognised(
    content_type: bytes | None, encoding: bytes | None, expected: bool
) -> None:
    assert sse.is_event_stream(content_type, encoding) is expected


def test_headers_named_by_connection_end_here_whatever_their_case() -> None:
    given_headers = [(b"connection", b"close, X-Secret"), (b"x-secret", b"1"), (b"accept", b"*/*")]
    assert headers.to_engine(given_headers, b"id") == [
        (b"accept", b"*/*"),
        (b"x-request-id", b"id"),
    ]


def test_content_encoding_survives_both_ways() -> None:
    encoded = [(b"content-encoding", b"br"), (b"transfer-encoding", b"chunked")]
    assert headers.to_client(encoded) == [(b"content-encoding", b"br")]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, b"cannot schedule new futures after shutdown", Departure.NOT_BEGUN),
        (500, b"EngineCore encountered an issue. See stack trace", Departure.BROKEN_OFF),
        (500, b"list index out of range", None),
        (200, b'{"choices":[{"finish_reason":"abort"}]}', Departure.BROKEN_OFF),
        (200, rb'{"content":"\"finish_reason\":\"abort\"","finish_reason":"stop"}', None),
        (200, b"cannot schedule new futures after shutdown", None),
        (500, b" " * 20_000 + b"cannot schedule new futures after shutdown", None),
    ],
)
def test_an_engine_that_goes_away_is_recognised(
    status: int, body: bytes, expected: Departure | None
) -> None:
    assert departure(status, body) is expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (b'data: {"a":1}\n\n', None),
        (b'data: {"finish_reason":"abort"}\n\ndata: [DONE]\n\n', b""),
        (b'data: 1\n\ndata: {"finish_reason":"abort"}\n\n', b"data: 1\n\n"),
    ],
)
def test_a_stream_that_the_engine_gives_up_is_passed_on_up_to_that(
    events: bytes, expected: bytes | None
) -> None:
    assert before_departure(events) == expected


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVING_NAMESPACE", "models")
    monkeypatch.setenv("MODELSERVING_POD_NAME", "gateway-7d9-x")
    monkeypatch.setenv("MODELSERVING_MAX_BODY_BYTES", "1000")
    settings = Settings()
    assert (settings.namespace, settings.max_body_bytes) == ("models", 1000)
    assert settings.field_manager == "modelserving-gateway-gateway-7d9-x"


def test_a_field_manager_is_never_too_long_and_still_one_pods_own() -> None:
    names = ["a" * 200 + suffix for suffix in ("x", "y")]
    managers = {Settings(namespace="n", pod_name=name).field_manager for name in names}
    assert len(managers) == 2
    assert all(len(manager) <= 128 for manager in managers)


@pytest.mark.parametrize("name", ["", "UPPER", "a_b", "-a", "x" * 254])
def test_a_pod_name_that_cannot_be_a_requester_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings(namespace="n", pod_name=name)


def test_a_missing_setting_is_named_and_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MODELSERVING_NAMESPACE", raising=False)
    monkeypatch.setenv("MODELSERVING_POD_NAME", "g")
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "MODELSERVING_NAMESPACE" in capsys.readouterr().err


WITH_A_SECRET = """
import structlog
from modelserving_gateway.main import _configure_logging
from modelserving_gateway.settings import Settings

def fail(headers):
    raise ValueError("boom")

_configure_logging(Settings(namespace="n", pod_name="g"))
try:
    fail([("authorization", "Bearer ms-sec" + "ret")])
except ValueError:
    structlog.get_logger("x").exception("a defect")
"""


def test_the_log_of_a_defect_tells_where_it_was_and_not_what_was_asked() -> None:
    done = subprocess.run([sys.executable, "-c", WITH_A_SECRET], capture_output=True, check=True)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["event"] == "a defect"
    assert b'"name":"fail"' in line.replace(b'": "', b'":"')
    assert b"ms-secret" not in done.stdout + done.stderr
