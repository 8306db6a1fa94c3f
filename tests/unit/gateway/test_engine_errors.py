"""An engine's own error reaches each client in the shape of its API, and loses nothing it says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.engine_errors import in_shape
from modelserving_gateway.errors import Dialect
from tests.unit.gateway.conftest import CHAT, Start
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving

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
        await connection.answer(b"Internal Server Error", 500, "text/plain; charset=utf-8")

    engine.behaviour = bare
    gateway = await start(FakeCluster(serving(active="mistral", endpoint=engine.url)))
    for path, anthropic in ((CHAT, False), ("/v1/messages", True)):
        answer = await gateway.client.post(path, json={"model": "mistral"})
        assert answer.status_code == 500
        assert answer.headers.get_list("content-type") == ["application/json"]
        assert answer.json()["error"]["code"] == "engine_error"
        assert ("type" in answer.json()) is anthropic
