"""The clients of the chaos suite see what really comes, from the real stand-in engine."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import openai
import pytest

from tests.chaos.clients import Client, Ledger, Outcome, is_retried, steady
from tests.harness.engines import gpu_lock
from tests.unit.engines.conftest import SimProcess, eventually


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimProcess]:
    directory = gpu_lock.prepare(tmp_path / "gpu")
    process = SimProcess(
        "coder", (), {"SIM_GPU_DIR": str(directory), "SIM_SECONDS_PER_TOKEN": "0.02"}
    )
    yield process
    process.close()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def client(engine: SimProcess, ledger: Ledger, model: str = "coder") -> Client:
    return Client("a", "", engine.url, model, ledger)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_right_answer_is_an_answer(
    engine: SimProcess, ledger: Ledger, streamed: bool
) -> None:
    request = await client(engine, ledger).once(streamed=streamed)
    assert [each.outcome for each in request.attempts] == [Outcome.ANSWERED]
    assert (ledger.answered, ledger.open) == (1, {})


async def test_an_answer_of_another_model_is_wrong(engine: SimProcess, ledger: Ledger) -> None:
    request = await client(engine, ledger, "tiny-coder").once(streamed=False)
    assert request.attempts[-1].outcome is Outcome.WRONG
    assert not request.answered


async def test_an_error_that_says_not_to_ask_again_is_final(
    engine: SimProcess, ledger: Ledger
) -> None:
    request = await client(engine, ledger, "unknown").once(streamed=False)
    assert [each.outcome for each in request.attempts] == [Outcome.FINAL]


@pytest.mark.parametrize("retry_after", [0, 60, 120, 121])
@pytest.mark.parametrize("should_retry", [None, "true", "false", "perhaps"])
@pytest.mark.parametrize("status", [400, 404, 408, 409, 429, 500, 503])
def test_what_is_asked_again_is_what_openais_library_asks_again(
    status: int, should_retry: str | None, retry_after: int
) -> None:
    headers = {"retry-after": str(retry_after)} if retry_after else {}
    if should_retry is not None:
        headers["x-should-retry"] = should_retry
    response = httpx2.Response(status, headers=headers)
    library = openai.AsyncOpenAI(api_key="none")
    assert is_retried(status, should_retry, retry_after) is library._should_retry(response)


@pytest.mark.parametrize(
    ("status", "should_retry", "outcomes"),
    [
        (503, "false", [Outcome.FINAL]),
        (404, "true", [Outcome.ERROR, Outcome.FINAL]),
        (503, None, [Outcome.ERROR, Outcome.FINAL]),
    ],
)
async def test_a_client_asks_again_or_not_as_the_server_says(
    ledger: Ledger, status: int, should_retry: str | None, outcomes: list[Outcome]
) -> None:
    told = {"x-should-retry": should_retry} if should_retry else {}
    async with answering([(status, told), (400, {})]) as url:
        request = await Client("a", "", url, "coder", ledger).once(streamed=False)
    assert [each.outcome for each in request.attempts] == outcomes


@asynccontextmanager
async def answering(answers: list[tuple[int, dict[str, str]]]) -> AsyncIterator[str]:
    """Serve one error of OpenAI's shape after the other, each with headers; yield the URL."""
    left = iter(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        # All of it: a connection that is closed with something unread is reset.
        (length,) = re.findall(rb"(?i)content-length: (\d+)", asked)
        await reader.readexactly(int(length))
        status, headers = next(left)
        body = json.dumps({"error": {"message": "no", "type": "server_error", "code": "no"}})
        sent = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        writer.write(f"HTTP/1.1 {status} told\r\n{head}\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_what_a_kill_cuts_off_is_seen_asked_again_and_open_until_it_is_answered(
    engine: SimProcess, ledger: Ledger
) -> None:
    asking = asyncio.create_task(client(engine, ledger).once(streamed=True))
    # A request runs before its head is sent; amid the answer is after a few of its tokens.
    await asyncio.to_thread(eventually, lambda: engine.metric("generation_tokens_total") > 2)
    engine.signal(signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: len(ledger.attempts) > 1)
    asking.cancel()
    await asyncio.wait([asking])
    assert [each.outcome for each in ledger.take_attempts()] == [Outcome.CUT, Outcome.REFUSED]
    assert list(ledger.open) == ["a"]
    assert ledger.answered == 0


async def test_steady_clients_finish_what_they_have_asked(
    engine: SimProcess, ledger: Ledger
) -> None:
    async with steady([client(engine, ledger)], pause_seconds=0.01, patience=lambda: 10):
        await asyncio.to_thread(eventually, lambda: ledger.answered > 2)
    assert ledger.open == {}
    assert {each.outcome for each in ledger.take_attempts()} == {Outcome.ANSWERED}
