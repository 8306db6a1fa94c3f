"""A request for the model that is active now: what reaches the engine, and what comes back."""

import asyncio
import gzip
import json
import socket
import zlib

import httpx
import pytest

from tests.unit.gateway.conftest import CHAT, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, echo, serving, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


CONTENT = (
    b'{ "model" : "mistral",\t"messages": [ {"role":"user",'
    b' "content":"caf\\u00e9 \xf0\x9f\x90\x8b"} ],'
    b' "tools": [{"type":"function","function":{"name":"f","parameters":{"model":{}}}}],'
    b' "logprobs":true,"stream_options":{"include_usage":true},'
    b' "seed": 123456789012345678901234567,'
    b' "temperature":0.10, "unknown_to_openai": [null, 1e-7]}\n'
)


@pytest.mark.parametrize(
    ("path", "engine_path"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/responses", "/v1/responses"),
        ("/embeddings", "/v1/embeddings"),
        ("/rerank", "/v1/rerank"),
        ("/score", "/v1/score"),
        ("/tokenize", "/tokenize"),
        ("/detokenize", "/detokenize"),
        ("/messages", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
    ],
)
async def test_a_request_for_the_active_model_reaches_the_engine_as_it_is(
    start: Start, engine: Engine, path: str, engine_path: str
) -> None:
    gateway = await start(active(engine))
    for prefix in ("/v1", ""):
        answer = await gateway.client.post(prefix + path, content=CONTENT)
        assert answer.status_code == 200
        assert answer.json() == {"model": "mistral"}
        got = engine.requests.pop()
        assert (got.method, got.path, got.body) == ("POST", engine_path, CONTENT)


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
async def test_a_form_reaches_the_engine_with_the_models_name_and_the_file_as_it_is(
    start: Start, engine: Engine, path: str
) -> None:
    async def transcript(connection: Connection) -> None:
        await connection.answer(b'{"text":"hello"}')

    engine.behaviour = transcript
    gateway = await start(active(engine))
    form = gateway.client.build_request(
        "POST",
        path,
        data={"model": "gpt-4", "language": "en"},
        files={"file": ("a.wav", bytes(range(256)) * 1000, "audio/wav")},
    )
    sent = await form.aread()
    answer = await gateway.client.send(form)
    assert answer.json() == {"text": "hello"}
    assert engine.requests[0].path == path
    assert engine.requests[0].headers["content-type"] == form.headers["content-type"]
    assert engine.requests[0].body == sent.replace(b"gpt-4", b"mistral")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_body_reaches_the_engine_plain(
    start: Start, engine: Engine, coding: str
) -> None:
    gateway = await start(active(engine))
    packed = gzip.compress(CONTENT) if coding == "gzip" else zlib.compress(CONTENT)
    answer = await gateway.client.post(CHAT, content=packed, headers={"content-encoding": coding})
    assert answer.status_code == 200
    assert engine.requests[0].body == CONTENT
    assert "content-encoding" not in engine.requests[0].headers
    assert engine.requests[0].headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 9000",
        b"transfer-encoding: chunked",
        b"content-encoding: gzip\r\ncontent-length: 9000",
    ],
)
async def test_clients_that_announce_bodies_and_send_none_lock_nobody_out(
    start: Start, engine: Engine, framing: bytes
) -> None:
    gateway = await start(active(engine), max_body_bytes=10_000, max_held_bytes=10_000)
    writers = []
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % framing)
        writers.append(writer)
    await eventually(lambda: gateway.gateway.in_flight == 10)
    assert (await gateway.ask()).status_code == 200
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("packed", [False, True])
async def test_bodies_count_by_what_they_take_while_they_come_and_when_unpacked(
    start: Start, engine: Engine, packed: bool
) -> None:
    go_on = asyncio.Event()

    async def waiting(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = waiting
    gateway = await start(active(engine), max_body_bytes=10_000, max_held_bytes=10_000)
    content = json.dumps({"model": "mistral", "x": "x" * 8000}).encode()
    headers = {"content-encoding": "gzip"} if packed else {}

    async def ask() -> httpx.Response:
        sent = gzip.compress(content) if packed else content
        answer: httpx.Response = await gateway.client.post(CHAT, content=sent, headers=headers)
        return answer

    running = asyncio.create_task(ask())
    await eventually(lambda: engine.requests)
    refused = await ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "bodies_full")
    go_on.set()
    assert (await running).status_code == 200
    assert (await ask()).status_code == 200


async def test_a_client_that_expects_to_be_told_to_go_on_is_told(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        b"content-length: %d\r\n\r\n" % len(CONTENT)
    )
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(CONTENT)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert engine.requests[0].body == CONTENT
    assert "expect" not in engine.requests[0].headers
    writer.close()


@pytest.mark.parametrize("packets", [1, 2, 40])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_offers_http2_keeps_its_body(
    start: Start, engine: Engine, packets: int, chunked: bool
) -> None:
    """Java's HttpClient and curl offer it with the first request of each connection."""
    gateway = await start(active(engine))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(CONTENT)
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT) if chunked else CONTENT
    request = (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        b"%b\r\n\r\n" % framing
    ) + body
    requests = request + request  # The second one is pipelined: it follows in the same packet.
    size = len(requests) // packets + 1
    for position in range(0, len(requests), size):
        writer.write(requests[position : position + size])
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(20) == b'{"model": "mistral"}'
    assert [each.body for each in engine.requests] == [CONTENT] * 2
    assert not {"upgrade", "http2-settings"} & engine.requests[0].headers.keys()
    writer.close()


async def test_the_answer_names_the_model_as_the_client_did(start: Start, engine: Engine) -> None:
    async def completion(connection: Connection) -> None:
        await connection.answer(
            b'{"id":"1", "model": "mistral", "text":"\\"model\\":\\"mistral\\""}'
        )

    engine.behaviour = completion
    gateway = await start(active(engine))
    answer = await gateway.ask("gpt-4")
    assert answer.content == b'{"id":"1", "model": "gpt-4", "text":"\\"model\\":\\"mistral\\""}'
    assert answer.headers["x-modelserving-model"] == "mistral"
    assert "accept-encoding" not in engine.requests[0].headers
    assert (await gateway.ask("mistral")).json()["model"] == "mistral"
    assert "accept-encoding" in engine.requests[1].headers


@pytest.mark.parametrize(
    ("path", "event"),
    [
        (CHAT, b'data: {"id":"c","model":"mistral","choices":[]}\n\n'),
        ("/v1/responses", b'event: a\ndata: {"type":"a","response":{"model":"mistral"}}\n\n'),
        ("/v1/messages", b'event: b\ndata: {"type":"b","message":{"model":"mistral"}}\n\n'),
    ],
)
async def test_every_event_of_a_stream_names_the_model_as_the_client_did(
    start: Start, engine: Engine, path: str, event: bytes
) -> None:
    async def in_pieces(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        for position in range(0, len(event), 7):
            await connection.chunk(event[position : position + 7])
        await connection.chunk(b"data: [DONE]\n\n")
        await connection.chunk(b"")

    engine.behaviour = in_pieces
    gateway = await start(active(engine))
    answer = await gateway.client.post(path, json={"model": "gpt-4", "stream": True})
    assert answer.content == event.replace(b"mistral", b"gpt-4") + b"data: [DONE]\n\n"


async def test_a_transcript_as_text_is_never_rewritten(start: Start, engine: Engine) -> None:
    text = b'they said "model": "mistral"'

    async def transcript(connection: Connection) -> None:
        await connection.answer(text, content_type="text/plain")

    engine.behaviour = transcript
    gateway = await start(active(engine))
    assert (await gateway.ask("gpt-4")).content == text


async def test_every_header_of_an_api_passes_and_none_that_is_for_the_gateway(
    start: Start, engine: Engine
) -> None:
    async def twice(connection: Connection) -> None:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
            b"x-modelserving-model: forged\r\nopenai-processing-ms: 3\r\n\r\n{}"
        )

    engine.behaviour = twice
    gateway = await start(active(engine))
    passed = {
        "accept": "text/event-stream",
        "anthropic-beta": "tools",
        "anthropic-version": "2023-06-01",
        "baggage": "a=1",
        "endpoint-load-metrics-format": "JSON",
        "openai-organization": "o",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "user-agent": "me",
        "x-data-parallel-rank": "0",
        "x-session-id": "s",
    }
    ours = {
        "x-modelserving-priority": "low",
        "x-modelserving-swap": "allow",
        "x-modelserving-anything": "1",
    }
    answer = await gateway.client.post(CHAT, json={"model": "mistral"}, headers=passed | ours)
    got = engine.requests[0].headers
    assert passed.items() <= got.items()
    assert not [name for name in got if name.startswith("x-modelserving-")]
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers.get_list("x-modelserving-model") == ["mistral"]
    assert answer.headers["openai-processing-ms"] == "3"


async def test_anthropics_clients_get_errors_in_their_own_shape(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    for path in ("/v1/messages", "/messages/count_tokens"):
        answer = await gateway.client.post(path, json={"model": "gpt-5"})
        assert answer.status_code == 404
        body = answer.json()
        assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
        assert (body["error"]["code"], body["error"]["param"]) == ("model_not_found", "model")
    assert "type" not in (await gateway.ask("gpt-5")).json()
    for method, path, kind in (
        ("GET", "/v1/messages", "invalid_request_error"),
        ("POST", "/v1/messages/batches", "not_found_error"),
    ):
        answer = await gateway.client.request(method, path)
        assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", kind)


async def test_a_stream_of_anthropics_ends_with_an_error_event_of_theirs(
    start: Start, engine: Engine
) -> None:
    async def dying(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        await connection.chunk(b"event: message_start\ndata: {}\n\n")
        connection.die()

    engine.behaviour = dying
    gateway = await start(active(engine))
    answer = await gateway.client.post("/v1/messages", json={"model": "mistral", "stream": True})
    last = answer.text.strip().split("\n\n")[-1].strip().split("\n")
    assert last[0] == "event: error"
    body = json.loads(last[1].removeprefix("data: "))
    assert (body["type"], body["error"]["type"]) == ("error", "api_error")
    assert body["error"]["code"] == "upstream_lost"


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
    """Seen elsewhere (docs/lessons.md): 502s after a swap, until the proxy was restarted."""
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


@pytest.mark.parametrize("said", [b"data: 1", b""], ids=["no line end", "nothing"])
async def test_a_stream_that_ends_without_a_line_end_is_passed_on_as_it_is(
    start: Start, engine: Engine, said: bytes
) -> None:
    async def says(connection: Connection) -> None:
        await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
        if said:
            await connection.chunk(said)
        await connection.chunk(b"")

    engine.behaviour = says
    gateway = await start(active(engine))
    answer = await gateway.ask(stream=True)
    assert (answer.status_code, answer.content) == (200, said)


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
