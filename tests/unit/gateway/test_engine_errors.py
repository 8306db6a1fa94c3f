"""An engine's own error reaches each client in the shape of its API, and loses nothing it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.errors import Dialect
from modelserving_gateway.engine.error_shape import in_shape, soon
from tests.unit.gateway.conftest import CHAT, Start
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving, stream

OPENAI = b'{"error":{"message":"too long","type":"BadRequestError","param":"prompt","code":400}}'
ANTHROPIC = b'{"type":"error","error":{"type":"not_found_error","message":"too long"}}'


@pytest.mark.parametrize(
    ("body", "dialect"), [(OPENAI, Dialect.OPENAI), (ANTHROPIC, Dialect.ANTHROPIC)]
)
def test_an_error_in_the_clients_shape_is_not_touched(body: bytes, dialect: Dialect) -> None:
    assert in_shape(400, body, dialect, "mistral") is body


def test_what_openais_error_says_is_said_to_anthropics_client() -> None:
    answer = json.loads(in_shape(400, OPENAI, Dialect.ANTHROPIC, "mistral"))
    assert answer == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "too long",
            "param": "prompt",
            "code": "engine_error",
        },
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"Internal Server Error", "The engine of `mistral` answered with status 500."),
        (b"", "The engine of `mistral` answered with status 500."),
        (b'{"detail":"Method Not Allowed"}', "Method Not Allowed"),
        (b'{"detail":[{"loc":["body"]}]}', "The engine of `mistral` answered with status 500."),
        (b'{"error":"broken"}', "The engine of `mistral` answered with status 500."),
        (b"[" * 100_000, "The engine of `mistral` answered with status 500."),
    ],
)
def test_an_error_without_a_shape_gets_one(body: bytes, message: str) -> None:
    for dialect in Dialect:
        error = json.loads(in_shape(500, body, dialect, "mistral"))["error"]
        assert (error["message"], error["code"]) == (message, "engine_error")


@pytest.mark.parametrize(
    ("given_value", "sent"),
    [
        (b"1", b"1"),
        (b"60", b"60"),
        (b"61", b"60"),
        (b"3600", b"60"),
        (b"9" * 10_000, b"60"),
        (b"Wed, 25 Nov 2026 07:28:00 GMT", b"60"),
        (b"", b"60"),
    ],
)
def test_an_engine_never_sends_a_client_away_for_longer_than_it_would_heed(
    given_value: bytes, sent: bytes
) -> None:
    assert soon([(b"x-a", b"1"), (b"retry-after", given_value)]) == [
        (b"x-a", b"1"),
        (b"retry-after", sent),
    ]


@given(st.binary(max_size=60) | st.text('{}[]":,error message', max_size=60).map(str.encode))
def test_whatever_an_engine_says_the_client_can_read_it(body: bytes) -> None:
    for dialect in Dialect:
        answer = json.loads(in_shape(500, body, dialect, "mistral"))
        assert answer["error"]["message"]
        assert ("type" in answer) is (dialect is Dialect.ANTHROPIC)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bare_error_of_the_engine_is_put_into_the_clients_shape(
    start: Start, engine: Engine
) -> None:
    async def bare(connection: Connection) -> None:
        await connection.send(
            b"HTTP/1.1 500 X\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 3600\r\n"
            b"content-length: 21\r\n\r\nInternal Server Error"
        )

    engine.behaviour = bare
    gateway = await start(FakeCluster(serving(active="mistral", endpoint=engine.url)))
    for path, anthropic in ((CHAT, False), ("/v1/messages", True)):
        answer = await gateway.client.post(path, json={"model": "mistral"})
        assert (answer.status_code, answer.headers["retry-after"]) == (500, "60")
        assert answer.headers.get_list("content-type") == ["application/json"]
        assert answer.json()["error"]["code"] == "engine_error"
        assert ("type" in answer.json()) is anthropic


@pytest.mark.asyncio(loop_scope="module")
async def test_what_an_engine_calls_its_errors_becomes_no_metric(
    start: Start, engine: Engine
) -> None:
    async def own_name(connection: Connection) -> None:
        await connection.answer(b'{"error":{"message":"no","code":"made-up-by-engine"}}', 400)

    engine.behaviour = own_name
    cluster = FakeCluster(serving())
    gateway = await start(cluster, hold_grace_seconds=0)
    asked = {"model": "mistral", "stream": True}
    async with gateway.client.stream("POST", CHAT, json=asked) as answer:
        assert answer.status_code == 200  # Its head is there, so the error comes as an event.
        cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
        assert b'"code": "made-up-by-engine"' in await answer.aread()
    text = (await gateway.client.get("/metrics")).text
    assert "made-up" not in text
    assert 'requests_total{model="mistral",status="400"} 1.0' in text


@pytest.mark.asyncio(loop_scope="module")
async def test_a_defect_amid_a_stream_is_told_counted_and_logged_as_one(
    start: Start,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise ZeroDivisionError

    engine.behaviour = stream
    gateway = await start(FakeCluster(serving(active="mistral", endpoint=engine.url)))
    monkeypatch.setattr("modelserving_gateway.passing.before_departure", broken)
    answer = await gateway.ask(stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    text = (await gateway.client.get("/metrics")).text
    assert 'requests_total{model="mistral",status="500"} 1.0' in text
    assert 'rejected_total{reason="internal_error"} 1.0' in text
    logged = capsys.readouterr().out
    assert "ZeroDivisionError" in logged
    assert '"status":500,"error":"internal_error"' in logged
