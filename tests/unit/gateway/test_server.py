"""What a client may do to the server before and beside the application, over raw sockets."""

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from tests.unit.gateway.conftest import CHAT, Running, Start, ended, eventually, running
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url))


class Raw:
    """A client that writes bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, gateway: Running, **options: Any) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", gateway.gateway.port, **options))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer with a content-length."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def error(self) -> tuple[int, str]:
        """Read an answer that ends the connection; returns its status and error code."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        async with asyncio.timeout(5):
            assert await self.reader.read() == b""
        return status, error["code"]


def chat(**fields: Any) -> bytes:
    body = json.dumps({"model": "mistral", **fields}).encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        CHAT.encode(),
        len(body),
        body,
    )


LARGE_HEADS = {
    "one header": b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 3000 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 500 + b"\r\n",
    "a target": b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n",
    "a header without an end": b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 3000,
    "headers without an end": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 500,
}


@pytest.mark.parametrize("head", LARGE_HEADS.values(), ids=LARGE_HEADS)
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_head_above_the_limit_is_a_431(start: Start, head: bytes, pieces: int) -> None:
    gateway = await start(FakeCluster(), max_header_bytes=2000)
    client = await Raw.to(gateway)
    size = len(head) // pieces + 1
    for begin in range(0, len(head), size):
        client.send(head[begin : begin + size])
        await asyncio.sleep(0.01)
    client.send(b"more" * 1000)
    assert await client.error() == (431, "headers_too_large")


async def test_a_head_below_the_limit_is_served_whatever_its_body(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), max_header_bytes=300)
    client = await Raw.to(gateway)
    for _ in range(2):
        client.send(chat(prompt="x" * 100_000))
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("sent", [b"G", b"GET /healthz HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_come_to_an_end_is_a_408(start: Start, sent: bytes) -> None:
    gateway = await start(FakeCluster(), header_timeout_seconds=0.15)
    client = await Raw.to(gateway)
    client.send(sent)
    assert await client.error() == (408, "headers_too_slow")


async def test_a_slow_head_is_timed_from_its_first_byte(start: Start) -> None:
    gateway = await start(FakeCluster(), header_timeout_seconds=0.15)
    client = await Raw.to(gateway)
    began = asyncio.get_running_loop().time()
    client.send(b"GET /healthz HTTP/1.1\r\n")
    answering = asyncio.create_task(client.error())
    while not answering.done():
        client.send(b"x: y\r\n")
        await asyncio.wait({answering}, timeout=0.03)
    assert answering.result() == (408, "headers_too_slow")
    assert asyncio.get_running_loop().time() - began < 1


async def test_a_connection_without_a_request_may_be_idle_for_longer_than_a_head(
    start: Start,
) -> None:
    gateway = await start(FakeCluster(), header_timeout_seconds=0.05)
    client = await Raw.to(gateway)
    for _ in range(2):
        await asyncio.sleep(0.15)
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 200


MALFORMED = {
    "no http": b"hello\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a bad header": b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\ncontent-length: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\n\r\n",
    "a target of another kind": b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
    "a bad chunk": b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_http_is_a_400_in_openais_shape(start: Start, data: bytes) -> None:
    gateway = await start(FakeCluster(serving()))
    await eventually(lambda: gateway.cluster.watches_opened)
    client = await Raw.to(gateway)
    client.send(data)
    assert await client.error() == (400, "malformed_request")


async def test_refusals_beside_the_application_are_counted(start: Start) -> None:
    gateway = await start(FakeCluster())
    client = await Raw.to(gateway)
    client.send(b"hello\r\n\r\n")
    await client.error()
    text = (await gateway.client.get("/metrics")).text
    assert 'modelserving_gateway_rejected_total{reason="malformed_request"} 1.0' in text


async def test_requests_sent_ahead_are_answered_in_their_order(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat() + b"GET /healthz HTTP/1.1\r\n\r\n" + chat() + b"rubbish\r\n\r\n")
    bodies = [json.loads((await client.answer())[2]) for _ in range(3)]
    assert bodies == [{"model": "mistral"}, {"status": "alive"}, {"model": "mistral"}]
    assert len(engine.requests) == 2


async def test_rubbish_behind_a_request_does_not_touch_its_answer(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat() + b"rubbish\r\n\r\n")
    status, headers, body = await client.answer()
    assert (status, json.loads(body)) == (200, {"model": "mistral"})
    assert headers["connection"] == "close"
    assert await client.reader.read() == b""


async def test_a_client_that_leaves_ends_all_that_it_has_sent_ahead(
    start: Start, engine: Engine
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.client_left()

    engine.behaviour = hang
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat(prompt="x" * 200_000) + chat())
    await eventually(lambda: engine.requests)
    client.writer.transport.abort()
    await eventually(lambda: gateway.gateway.in_flight == 0)
    await eventually(lambda: not engine.open_connections)
    assert len(engine.requests) == 1


async def test_a_client_that_sends_many_requests_ahead_gets_some_answers_and_no_more(
    start: Start,
) -> None:
    gateway = await start(FakeCluster())
    client = await Raw.to(gateway)
    client.send(b"GET /healthz HTTP/1.1\r\n\r\n" * 100_000)
    answers = 0
    async with asyncio.timeout(5):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (await client.answer())[0] == 200:
                answers += 1
    assert 0 < answers <= 32


TRAILERS = b"x-modelserving-priority: nonsense\r\nauthorization: Bearer stolen\r\nx-t: 1\r\n"


async def test_trailers_are_no_headers(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    body = b'{"model": "mistral"}'
    client.send(
        b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n%b\r\n"
        % (CHAT.encode(), len(body), body, TRAILERS)
    )
    assert (await client.answer())[0] == 200
    assert not {"authorization", "x-t"} & engine.requests[0].headers.keys()


ENDLESS = {
    "trailers": b"0\r\n" + b"x: y\r\n" * 5000,
    "a trailer": b"0\r\nx: " + b"y" * 30_000,
    "an extension of a chunk": b"1;x=" + b"y" * 30_000,
}


@pytest.mark.parametrize("path", [CHAT, "/nowhere"])
@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
async def test_what_follows_a_body_without_an_end_is_bounded(
    start: Start, path: str, endless: bytes
) -> None:
    gateway = await start(FakeCluster(serving()), max_header_bytes=2000)
    await eventually(lambda: gateway.cluster.watches_opened)
    client = await Raw.to(gateway)
    client.send(b"POST %b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
    if path == "/nowhere":
        assert (await client.answer())[0] == 404
    sent = 0
    for begin in range(0, len(endless), 1000):
        client.send(endless[begin : begin + 1000])
        await asyncio.sleep(0.001)
        sent += 1000
    if path != "/nowhere":
        assert (await client.error())[0] == 431
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            await client.reader.read()  # Either way it is closed.


async def test_there_are_no_more_connections_than_there_may_be(
    start: Start, engine: Engine
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.client_left()

    engine.behaviour = hang
    gateway = await start(active(engine), max_connections=3)
    clients = [await Raw.to(gateway) for _ in range(3)]
    for client in clients:
        client.send(chat())
    await eventually(lambda: len(engine.requests) == 3)
    refused = await Raw.to(gateway)
    refused.send(chat())
    assert await refused.error() == (503, "too_many_connections")
    refused.writer.close()
    clients[0].writer.close()
    connections = gateway.gateway._server.server_state.connections
    await eventually(lambda: len(connections) == 2)
    client = await Raw.to(gateway)
    client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert (await client.answer())[0] == 200
    for client in clients:
        client.writer.close()


async def test_idle_connections_make_room_for_one_that_has_something_to_say(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine), max_connections=5)
    idle = [await Raw.to(gateway) for _ in range(8)]
    for _ in range(3):
        client = await Raw.to(gateway)
        client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 200
    assert await idle[0].reader.read() == b""


async def test_a_large_request_sent_ahead_does_not_hide_that_its_client_leaves(
    start: Start, engine: Engine
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.client_left()

    engine.behaviour = hang
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat())
    await eventually(lambda: engine.requests)
    client.send(chat(prompt="x" * 400_000))
    await asyncio.sleep(0.1)
    client.writer.close()
    await eventually(lambda: gateway.gateway.in_flight == 0)
    await eventually(lambda: not engine.open_connections)


async def test_requests_sent_ahead_with_bodies_are_answered_or_dropped_but_never_left_waiting(
    start: Start, engine: Engine
) -> None:
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat() * 40)
    answers = 0
    async with asyncio.timeout(5):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (await client.answer())[0] == 200:
                answers += 1
    assert answers == len(engine.requests) == 17


@pytest.mark.parametrize("path", [b"/nowhere", CHAT.encode()])
async def test_a_client_that_still_sends_gets_to_read_why_it_was_refused(
    start: Start, engine: Engine, path: bytes
) -> None:
    gateway = await start(active(engine))
    size = 8_000_000
    wish = b"x-modelserving-swap: perhaps\r\n"
    client = await Raw.to(gateway)
    client.send(
        b"POST %b HTTP/1.1\r\n%bconnection: close\r\ncontent-length: %d\r\n\r\n"
        % (path, wish, size)
    )
    await asyncio.sleep(0.05)
    client.send(b"x" * size)
    await client.writer.drain()
    assert (await client.answer())[0] == (404 if path == b"/nowhere" else 400)


async def test_an_answer_before_the_body_that_was_announced_ends_the_connection(
    start: Start,
) -> None:
    gateway = await start(FakeCluster())
    client = await Raw.to(gateway)
    client.send(b"POST /nowhere HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (404, "close")


async def test_an_answer_without_content_says_nothing_of_a_length(
    start: Start, engine: Engine
) -> None:
    async def nothing(connection: Connection) -> None:
        await connection.head(status=204)

    engine.behaviour = nothing
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat())
    head = (await client.reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 204 ")
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head


async def test_the_date_is_that_of_the_answer(start: Start, engine: Engine) -> None:
    cluster = FakeCluster(serving())
    gateway = await start(cluster)
    asking = gateway.asking()
    await gateway.held(1)
    gateway.gateway._server.server_state.default_headers = [(b"date", b"later")]
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    assert (await asking).headers["date"] == "later"


async def test_a_client_of_http_1_0_gets_no_chunks(start: Start, engine: Engine) -> None:
    engine.behaviour = stream
    gateway = await start(active(engine))
    client = await Raw.to(gateway)
    client.send(chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert "transfer-encoding" not in head
    assert "connection: close" in head
    assert (await client.reader.read()).endswith(b"\n\ndata: [DONE]\n\n")


async def test_the_socket_notices_a_client_whose_host_is_gone(start: Start) -> None:
    gateway = await start(FakeCluster())
    await Raw.to(gateway)
    connections = gateway.gateway._server.server_state.connections
    await eventually(lambda: connections)
    (connection,) = connections
    option = connection.transport.get_extra_info("socket").getsockopt
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
    assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


async def pours(connection: Connection) -> None:
    """Stream without an end."""
    await connection.head(content_type="text/event-stream", transfer_encoding="chunked")
    with suppress(ConnectionError):
        while True:
            await connection.chunk(b"data: " + b"x" * 50_000 + b"\n\n")


async def test_a_client_that_takes_nothing_is_let_go_of(start: Start, engine: Engine) -> None:
    engine.behaviour = pours
    gateway = await start(active(engine), stalled_client_seconds=0.3)
    client = await Raw.to(gateway, limit=1024)
    client.send(chat(stream=True))
    await eventually(lambda: gateway.gateway.in_flight)
    await eventually(lambda: gateway.gateway.in_flight == 0)
    await eventually(lambda: not engine.open_connections)
    client.writer.close()


async def test_an_answer_that_nobody_takes_counts_as_memory_and_keeps_no_turn(
    start: Start, engine: Engine
) -> None:
    size = 4_000_000

    async def large(connection: Connection) -> None:
        await connection.answer(b"x" * size)

    async def answer_bytes() -> float:
        text = (await gateway.client.get("/metrics")).text
        (line,) = (each for each in text.splitlines() if each.startswith(_ANSWER_BYTES))
        return float(line.split()[1])

    engine.next = [large]
    gateway = await start(active(engine), max_in_flight=1)
    client = await Raw.to(gateway, limit=1024)
    client.send(chat())
    await eventually(lambda: engine.requests)
    assert (await gateway.ask()).status_code == 200
    assert await answer_bytes() == size
    client.writer.transport.abort()
    await eventually(lambda: gateway.gateway.in_flight == 0)
    assert await answer_bytes() == 0


_ANSWER_BYTES = "modelserving_gateway_answer_bytes "


async def test_a_client_that_is_only_slow_gets_everything(start: Start, engine: Engine) -> None:
    size = 12_000_000

    async def large(connection: Connection) -> None:
        await connection.answer(b"x" * size)

    engine.behaviour = large
    gateway = await start(active(engine), stalled_client_seconds=0.3)
    client = await Raw.to(gateway, limit=65_536)
    client.send(chat())
    received = 0
    async with asyncio.timeout(15):
        while received < size:
            part = await client.reader.read(size // 20)
            assert part
            received += len(part)
            await asyncio.sleep(0.02)


async def test_an_answer_to_head_says_its_length_and_has_no_body(start: Start) -> None:
    gateway = await start(FakeCluster())
    client = await Raw.to(gateway)
    client.send(b"HEAD /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n")
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert "content-length: 19" in head
    assert (await client.answer())[2] == b'{"status": "alive"}'


async def test_everything_works_on_uvloop_too() -> None:
    async def scenario() -> None:
        engine = await Engine().start()
        async with running(active(engine), stalled_client_seconds=0.3) as gateway:
            client = await Raw.to(gateway)
            for _ in range(3):
                client.send(chat())
                assert (await client.answer())[0] == 200
            client.send(b"hello\r\n\r\n")
            assert await client.error() == (400, "malformed_request")
            engine.behaviour = pours
            client = await Raw.to(gateway, limit=1024)
            client.send(chat(stream=True))
            await eventually(lambda: gateway.gateway.in_flight)
            await eventually(lambda: gateway.gateway.in_flight == 0)
            await eventually(lambda: not engine.open_connections)
        await ended([gateway])
        await engine.stop()

    def in_that_loop() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())

    await asyncio.to_thread(in_that_loop)
