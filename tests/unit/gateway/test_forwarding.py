"""A request for the model that is active now: what reaches the engine, and what comes back."""

import asyncio
import gzip
import json

import httpx
import pytest

from tests.unit.gateway.conftest import CHAT, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, echo, serving, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/completions", "/embeddings"], ids=lambda path: path[1:]
)
@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_a_request_for_the_active_model_reaches_the_engine_as_it_is(
    start: Start, engine: Engine, prefix: str, path: str
) -> None:
    gateway = await start(active(engine))
    content = b'{ "model" : "mistral",\t"messages": [ {"role":"user", "content":"caf\\u00e9"} ]}'
    answer = await gateway.client.post(prefix + path, content=content)
    assert answer.status_code == 200
    assert answer.json() == {"model": "mistral"}
    assert engine.requests[0].path == "/v1" + path
    assert engine.requests[0].body == content


async def test_an_alias_reaches_the_engine_as_the_models_name(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine))
    content = b'{"user": "model", "model":"mistralai/Mistral-7B", "n":1.0}'
    await gateway.client.post(CHAT, content=content)
    assert engine.requests[0].body == b'{"user": "model", "model":"mistral", "n":1.0}'


async def test_a_stream_is_passed_on_chunk_by_chunk(start: Start, engine: Engine) -> None:
    go_on = asyncio.Event()

    async def in_two_halves(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b"data: 1\n\n")
        await go_on.wait()
        await connection.chunk(b"data: 2\n\n")
        await connection.chunk(b"")

    engine.behaviour = in_two_halves
    gateway = await start(active(engine))
    async with gateway.client.stream("POST", CHAT, json={"model": "mistral"}) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"data: 1\n\n"
        go_on.set()
        assert await anext(chunks) == b"data: 2\n\n"
        assert await anext(chunks, None) is None


async def test_a_compressed_answer_passes_untouched_with_its_encoding(
    start: Start, engine: Engine
) -> None:
    packed = gzip.compress(b'{"model": "mistral"}')

    async def compressed(connection: Connection) -> None:
        await connection.head(
            content_type="application/json",
            content_encoding="gzip",
            content_length=str(len(packed)),
        )
        await connection.send(packed)

    engine.behaviour = compressed
    gateway = await start(active(engine))
    async with gateway.client.stream("POST", CHAT, json={"model": "mistral"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert b"".join([chunk async for chunk in answer.aiter_raw()]) == packed


async def test_headers_travel_end_to_end_and_hop_by_hop_ones_do_not(
    start: Start, engine: Engine
) -> None:
    async def with_headers(connection: Connection) -> None:
        await connection.head(
            content_length="2", x_engine="vllm", keep_alive="timeout=5", x_request_id="other"
        )
        await connection.send(b"{}")

    engine.behaviour = with_headers
    gateway = await start(active(engine))
    answer = await gateway.client.post(
        CHAT,
        json={"model": "mistral"},
        headers={
            "authorization": "Bearer key",
            "traceparent": "00-1-2-3",
            "connection": "close, x-only-for-you",
            "x-only-for-you": "1",
            "te": "trailers",
            "x-request-id": "abc",
        },
    )
    got = engine.requests[0].headers
    assert got["authorization"] == "Bearer key"
    assert got["traceparent"] == "00-1-2-3"
    assert got["x-request-id"] == "abc"
    assert not {"te", "x-only-for-you", "connection"} & got.keys()
    assert answer.headers["x-engine"] == "vllm"
    assert answer.headers.get_list("x-request-id") == ["abc"]
    assert "keep-alive" not in answer.headers


async def test_the_engine_gets_no_header_that_the_client_did_not_send(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    body = b'{"model":"mistral"}'
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert engine.requests[0].headers.keys() == {"host", "content-length", "x-request-id"}
    writer.close()


async def test_an_error_of_the_engine_is_passed_on(start: Start, engine: Engine) -> None:
    async def too_long(connection: Connection) -> None:
        await connection.answer(b'{"error": {"message": "too long"}}', status=400)

    engine.behaviour = too_long
    gateway = await start(active(engine))
    answer = await gateway.ask()
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")
    assert len(engine.requests) == 1


async def test_more_than_a_hundred_requests_run_at_once(start: Start, engine: Engine) -> None:
    everybody = asyncio.Barrier(150)

    async def together(connection: Connection) -> None:
        async with asyncio.timeout(5):
            await everybody.wait()
        await echo(connection)

    engine.behaviour = together
    gateway = await start(active(engine))
    answers = await asyncio.gather(*(gateway.ask() for _ in range(150)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("status", [200, 500], ids=["answer", "error"])
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_client_that_leaves_amid_the_answer_closes_the_engines_connection(
    start: Start, engine: Engine, kind: str, status: int
) -> None:
    left = asyncio.Event()

    async def endless(connection: Connection) -> None:
        await connection.head(status, content_type=kind, transfer_encoding="chunked")
        await connection.chunk(b"data: 1\n\n")
        await connection.client_left()
        left.set()

    engine.behaviour = endless
    gateway = await start(active(engine))
    asking = gateway.asking(stream=True)
    await eventually(lambda: engine.requests)
    asking.cancel()
    await asyncio.wait_for(left.wait(), 5)
    await eventually(lambda: gateway.gateway.in_flight == 0)


async def test_a_client_that_leaves_before_the_answer_closes_the_engines_connection(
    start: Start, engine: Engine
) -> None:
    left = asyncio.Event()

    async def thinking(connection: Connection) -> None:
        await connection.client_left()
        left.set()

    engine.behaviour = thinking
    gateway = await start(active(engine))
    asking = gateway.asking()
    await eventually(lambda: engine.requests)
    asking.cancel()
    await asyncio.wait_for(left.wait(), 5)
    assert len(engine.requests) == 1


async def test_connections_are_kept_but_not_beyond_their_endpoint(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    for _ in range(3):
        await gateway.ask()
    assert engine.connections == 1
    cluster.set_status("l4", targetModel="coder")
    await eventually(lambda: not engine.open_connections)
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    assert (await gateway.ask()).status_code == 200
    assert engine.connections == 2


async def test_a_resident_model_is_never_remembered_beyond_the_watch(
    start: Start, engine: Engine
) -> None:
    """Bug 1 of the field notes: instant 502s after a swap, until the proxy was restarted."""
    coder = await Engine().start()
    cluster = active(engine)
    gateway = await start(cluster)
    assert (await gateway.ask("mistral")).status_code == 200
    await engine.stop()
    cluster.set_status("l4", activeModel="coder", endpoint=coder.url)
    assert (await gateway.ask("coder")).json() == {"model": "coder"}
    held = gateway.asking("mistral")
    await gateway.held(1)
    await engine.start()
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    assert (await held).json() == {"model": "mistral"}
    await coder.stop()


async def test_a_large_plain_answer_is_streamed_with_its_length(
    start: Start, engine: Engine
) -> None:
    body = json.dumps({"data": "x" * 6_000_000}).encode()

    async def large(connection: Connection) -> None:
        await connection.answer(body)

    engine.behaviour = large
    gateway = await start(active(engine))
    answer = await gateway.ask()
    assert answer.content == body
    assert answer.headers["content-length"] == str(len(body))


async def test_a_stream_is_read_line_by_line_by_the_ordinary_httpx_client(
    start: Start, engine: Engine
) -> None:
    engine.behaviour = stream
    gateway = await start(active(engine))
    url = f"http://127.0.0.1:{gateway.gateway.port}{CHAT}"
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", url, json={"model": "mistral"}) as answer,
    ):
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines == ['data: {"n": 0}', 'data: {"n": 1}', 'data: {"n": 2}', "data: [DONE]"]
