"""The engine that everything is measured against: a raw protocol, faster than any proxy.

Run as a program of its own. What it answers is said in the prompt, which every proxy passes on:
`FULL n` streams n chunks without pause, `PACED n` one every 20 ms, `DIE` closes the connection,
`FAIL` is a 500, `SEQ n` is noted for GET /order; all else gets one completion.
"""

import argparse
import asyncio
import json
import re
from typing import Final, cast

import uvloop

PACE_SECONDS: Final = 0.02
"""A token every 20 ms: what a 7B model on an L4 gives each of some streams."""

_PROMPT: Final = re.compile(rb"\b(FULL|PACED|SEQ|DIE|FAIL)(?: (\d+))?\b")


def _answer(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    value = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "model": "mistral",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


_COMPLETION: Final = _answer(
    b"200 OK",
    json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1764000000,
            "model": "mistral",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "A plain answer. " * 8},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 12, "completion_tokens": 32, "total_tokens": 44},
        }
    ).encode(),
)
_FAILURE: Final = _answer(
    b"500 Internal Server Error", b'{"error":{"message":"no","type":"x","param":null,"code":500}}'
)
_NOTHING: Final = _answer(b"200 OK", b"{}")
_MODELS: Final = _answer(
    b"200 OK", b'{"object":"list","data":[{"id":"mistral","object":"model","owned_by":"vllm"}]}'
)
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_TOKEN: Final = _chunk(_event({"content": " token"}, None))
_STREAM_END: Final = _chunk(_event({}, "stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

EVENTS_BESIDE_TOKENS: Final = 2
"""At the end of a stream: the reason why it finished, and [DONE]."""


class State:
    """What the engine remembers."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.streams = 0


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._left = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        """End the stream, if one runs."""
        self._transport = None
        if self._left:
            self._left = 0
            self._state.streams -= 1

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._buffer = data = self._buffer + data if self._buffer else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            if at >= 0:
                whole = end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
            elif b"\r\ntransfer-encoding:" in head:
                whole = data.find(b"0\r\n\r\n", end) + 5
                if whole < end:
                    break
            else:
                whole = end + 4
            if len(data) < whole:
                break
            request, data = data[:whole], data[whole:]
            self._buffer = data
            self._respond(request)

    def _respond(self, request: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if request.startswith(b"GET"):
            transport.write(self._page(request))
            return
        match = _PROMPT.search(request)
        if match is None:
            transport.write(_COMPLETION)
            return
        number = int(match[2] or b"0")
        match match[1]:
            case b"SEQ":
                self._state.order.append(number)
                transport.write(_COMPLETION)
            case b"DIE":
                transport.abort()
            case b"FAIL":
                transport.write(_FAILURE)
            case b"FULL":
                self._begin_stream(number)
                self._loop.call_soon(self._full)
            case b"PACED":
                self._begin_stream(number)
                self._due = self._loop.time()
                self._paced()

    def _page(self, request: bytes) -> bytes:
        if request.startswith(b"GET /order"):
            return _answer(b"200 OK", json.dumps(self._state.order).encode())
        if request.startswith(b"GET /streams"):
            return _answer(b"200 OK", json.dumps(self._state.streams).encode())
        if b"/models" in request[:40]:
            return _MODELS
        return _NOTHING

    def _begin_stream(self, tokens: int) -> None:
        assert self._transport is not None
        self._left = tokens
        self._state.streams += 1
        self._transport.write(_STREAM_HEAD)

    def _full(self) -> None:
        """Write one chunk, and the next one when everybody else had a turn."""
        if self._token():
            self._loop.call_soon(self._full)

    def _paced(self) -> None:
        if self._token():
            self._due += PACE_SECONDS
            self._loop.call_at(self._due, self._paced)

    def _token(self) -> bool:
        if self._transport is None or not self._left:
            return False
        self._left -= 1
        if self._left:
            self._transport.write(_TOKEN)
            return True
        self._state.streams -= 1
        self._transport.write(_TOKEN + _STREAM_END)
        return False


async def serve(port: int) -> None:
    """Serve until killed."""
    state = State()
    server = await asyncio.get_running_loop().create_server(
        lambda: Engine(state), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))
