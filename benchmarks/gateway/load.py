"""The load: raw HTTP/1.1 connections in closed loops, cheap enough to outrun what is measured.

Nothing here knows which proxy it talks to, nor judges what it has measured.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httptools

PATH: Final = "/v1/chat/completions"


def chat(prompt: str, *, model: str = "mistral", stream: bool = False) -> bytes:
    """Return a whole request for a chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. " * 4},
            {"role": "user", "content": prompt},
        ],
        "max_tokens": 256,
        "temperature": 0.7,
    }
    if stream:
        body["stream"] = True
    return request("POST", PATH, json.dumps(body).encode())


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a whole request, with the headers that OpenAI's client sends."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
        "content-type: application/json\r\nuser-agent: OpenAI/Python 2.0.0\r\n"
        "authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n"
        f"x-stainless-lang: python\r\nx-stainless-retry-count: 0\r\ncontent-length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


@dataclass
class Figures:
    """What one run of a load has seen; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    events: int = 0
    errors: int = 0
    seconds: float = 0.0


class _Connection(asyncio.Protocol):
    """Sends a request, and the next one as soon as the answer is whole, until `until`."""

    def __init__(self, content: bytes, until: float, figures: Figures) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._content = content
        self._until = until
        self._figures = figures
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if not self.done.done():
            self._figures.errors += 1
            self.done.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self._content)

    def _whole(self, now: float) -> None:
        if now < self._until:
            self._send()
            return
        self.finish()

    def finish(self) -> None:
        """Stop, whatever is still to come."""
        if not self.done.done():
            self.done.set_result(None)
        if self._transport is not None:
            self._transport.abort()


class _Plain(_Connection):
    """Plain answers: their end is looked for without parsing the head."""

    _buffer = b""

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        at = data.find(b"ength: ", 0, end)
        if end < 0:
            whole = False
        elif at >= 0:
            whole = len(data) >= end + 4 + int(data[at + 7 : data.index(b"\r", at)])
        else:
            whole = data.endswith(b"0\r\n\r\n")
        if not whole:
            self._buffer = data
            return
        self._buffer = b""
        now = time.perf_counter()
        self._figures.latencies.append(now - self._sent_at)
        if data[9:12] != b"200":
            self._figures.errors += 1
        self._whole(now)


class _Stream(_Connection):
    """Event streams: each event is counted, and the gap before it kept."""

    def __init__(self, content: bytes, until: float, figures: Figures) -> None:
        super().__init__(content, until, figures)
        self._parser = httptools.HttpResponseParser(self)
        self._last: float | None = None
        self._tail = b""
        self._new = 0
        self._ended = False

    def data_received(self, data: bytes) -> None:
        self._new = 0
        self._parser.feed_data(data)
        now = time.perf_counter()
        figures = self._figures
        figures.events += self._new
        if self._new and self._last is not None:
            figures.gaps.append(now - self._last)
            figures.gaps.extend([0.0] * (self._new - 1))
        if self._new:
            self._last = now
        if self._ended:
            self._ended, self._last, self._tail = False, None, b""
            if self._parser.get_status_code() != 200:
                figures.errors += 1
            self._parser = httptools.HttpResponseParser(self)
            self._whole(now)

    def on_body(self, body: bytes) -> None:
        """Count the ends of events; one may be split over two parts."""
        self._new += (self._tail + body).count(b"\n\n")
        self._tail = b"\n" if body.endswith(b"\n") and not body.endswith(b"\n\n") else b""

    def on_message_complete(self) -> None:
        """Note the end."""
        self._ended = True


async def get(port: int, path: str) -> bytes:
    """Return the body of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return await reader.readexactly(length)
    finally:
        writer.close()


async def plain(port: int, clients: int, seconds: float) -> Figures:
    """Ask for plain completions, so many clients at once, each the next when it has the last."""
    return await _run(_Plain, port, chat("Say something."), clients, seconds, seconds + 20)


async def streams(
    port: int, clients: int, prompt: str, seconds: float, most_seconds: float
) -> Figures:
    """Ask for streams until `seconds` are over; after `most_seconds` they are cut off."""
    content = chat(prompt, stream=True)
    return await _run(_Stream, port, content, clients, seconds, most_seconds)


async def _run(
    kind: Callable[[bytes, float, Figures], _Connection],
    port: int,
    content: bytes,
    clients: int,
    seconds: float,
    most_seconds: float,
) -> Figures:
    loop = asyncio.get_running_loop()
    figures = Figures()
    began = time.perf_counter()
    connections = []
    for _ in range(clients):
        _, connection = await loop.create_connection(
            lambda: kind(content, began + seconds, figures), "127.0.0.1", port
        )
        connections.append(connection)
    await asyncio.wait([each.done for each in connections], timeout=most_seconds)
    figures.seconds = time.perf_counter() - began
    for connection in connections:
        connection.finish()
    return figures
