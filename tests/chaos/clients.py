"""Clients under chaos: OpenAI's own, every attempt on record. Judges nothing.

They try again as OpenAI's library does, but one level above it, so that what it swallows is seen.
Unlike the library they never give up, and they ask again what was cut off amid an answer.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import httpx2
import openai

ATTEMPT_SECONDS: Final = 400.0
"""An attempt that has not ended by then is silent: longer than a round is waited for."""

_PLAIN_TOKENS: Final = 8
_STREAMED_TOKENS: Final = 80
"""At 0.02 s each 0.2 s and 1.6 s: at any moment in which an engine serves, some answers are half
given."""

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 8.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 120.0
"""The three of OpenAI's library."""

_RETRIED: Final = frozenset({408, 409, 429})
"""And all from 500 on, as in OpenAI's library."""


class Outcome(StrEnum):
    """What came of one attempt."""

    ANSWERED = "answered"
    ERROR = "answered with an error"
    ERROR_EVENT = "answered with an error event"
    REFUSED = "connection refused"
    LOST = "connection lost before the answer"
    CUT = "connection lost amid the answer"
    FINAL = "answered with an error that says not to ask again"
    WRONG = "answered wrongly"
    SILENT = "not answered"

    @property
    def ends(self) -> bool:
        """Whether the request is over: answered, or never going to be."""
        return self in {Outcome.ANSWERED, Outcome.FINAL, Outcome.WRONG, Outcome.SILENT}

    @property
    def of_the_connection(self) -> bool:
        """Whether nobody answered at all, not even with an error."""
        return self in {Outcome.REFUSED, Outcome.LOST, Outcome.CUT}


@dataclass(frozen=True)
class Attempt:
    """One HTTP request; times are of the monotonic clock."""

    client: str
    gateway: str
    """The gateway's Pod that was asked, or empty for their Service."""
    model: str
    began: float
    ended: float
    outcome: Outcome
    detail: str = ""
    retry_after: float = 0.0

    def __str__(self) -> str:
        took = f"{self.ended - self.began:.1f} s"
        return f"{self.client} ({self.model}): {self.outcome} after {took}: {self.detail}"


@dataclass
class Request:
    """What one client wants to know, however often it has to ask."""

    text: str
    began: float
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether the model answered in the end."""
        return bool(self.attempts) and self.attempts[-1].outcome is Outcome.ANSWERED


@dataclass
class Ledger:
    """What all the clients have asked, until it is taken out to be judged."""

    open: dict[str, Request] = field(default_factory=dict)
    """By its text, which is unique."""
    attempts: list[Attempt] = field(default_factory=list)
    ended: list[Request] = field(default_factory=list)
    answered: int = 0
    one_ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set for a moment when a request has ended."""

    def end(self, request: Request) -> None:
        """Note that a request is over, and wake whoever waits for that."""
        self.ended.append(request)
        self.answered += request.answered
        self.one_ended.set()
        self.one_ended.clear()

    def take_attempts(self) -> list[Attempt]:
        """Return the attempts that ended since the last call."""
        taken, self.attempts = self.attempts, []
        return taken

    def take_ended(self) -> list[Request]:
        """Return the requests that ended since the last call."""
        taken, self.ended = self.ended, []
        return taken

    def older_than(self, moment: float) -> list[Request]:
        """Return what was asked before a moment and is still open."""
        return [request for request in self.open.values() if request.began < moment]


@dataclass(frozen=True)
class Client:
    """One client that asks one model through one address."""

    name: str
    gateway: str
    url: str
    model: str
    ledger: Ledger

    async def run(self, stop: asyncio.Event, pause_seconds: float) -> None:
        """Ask, pause, ask again, until `stop`; the last request is asked to its end.

        Every other answer is streamed.
        """
        async with self._openai() as library:
            for number in itertools.count():
                if stop.is_set():
                    return
                await self._ask(library, f"{self.name}-{number}", streamed=number % 2 == 0)
                await _sleep_unless(stop, pause_seconds)

    async def once(self, *, streamed: bool) -> Request:
        """Ask once and return the request when it has ended."""
        async with self._openai() as library:
            return await self._ask(library, self.name, streamed=streamed)

    def _openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=ATTEMPT_SECONDS
        )

    async def _ask(self, library: openai.AsyncOpenAI, text: str, *, streamed: bool) -> Request:
        request = Request(text, time.monotonic())
        self.ledger.open[text] = request
        for number in itertools.count():
            attempt = await self._attempt(library, text, streamed=streamed)
            request.attempts.append(attempt)
            self.ledger.attempts.append(attempt)
            if attempt.outcome.ends:
                break
            await asyncio.sleep(attempt.retry_after or _pause(number))
        # Not when this is cancelled: what is open then has never been answered.
        del self.ledger.open[text]
        self.ledger.end(request)
        return request

    async def _attempt(self, library: openai.AsyncOpenAI, text: str, *, streamed: bool) -> Attempt:
        began = time.monotonic()
        tokens = _STREAMED_TOKENS if streamed else _PLAIN_TOKENS
        begun = asyncio.Event()
        outcome, detail, retry_after = Outcome.SILENT, "", 0.0
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                answering = _streamed if streamed else _plain
                answer, reason = await answering(library, self._question(text, tokens), begun)
        except TimeoutError:
            detail = "amid the answer" if begun.is_set() else "nothing came"
        except (openai.APIConnectionError, httpx2.TransportError) as error:
            outcome, detail = _of_connection(error, begun.is_set())
        except openai.APIStatusError as error:
            outcome, detail, retry_after = _of_status(error)
        except openai.APIError as error:
            outcome, detail = _of_event(error)
        else:
            right = (expected(self.model, text, tokens), "length")
            outcome = Outcome.ANSWERED if (answer, reason) == right else Outcome.WRONG
            detail = "" if outcome is Outcome.ANSWERED else f"{reason}: {answer}"
        return Attempt(
            self.name,
            self.gateway,
            self.model,
            began,
            time.monotonic(),
            outcome,
            detail,
            retry_after,
        )

    def _question(self, text: str, tokens: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "extra_body": {"ignore_eos": True},
        }


async def _plain(
    library: openai.AsyncOpenAI, question: dict[str, Any], _: asyncio.Event
) -> tuple[str, str | None]:
    """Return the answer and why it ended."""
    choice = (await library.chat.completions.create(**question)).choices[0]
    return choice.message.content or "", choice.finish_reason


async def _streamed(
    library: openai.AsyncOpenAI, question: dict[str, Any], begun: asyncio.Event
) -> tuple[str, str | None]:
    """Return the answer and why it ended; `begun` is set once the head of the stream is there."""
    tokens, reason = [], None
    async with await library.chat.completions.create(**question, stream=True) as stream:
        begun.set()
        async for chunk in stream:
            tokens.append(chunk.choices[0].delta.content or "")
            reason = chunk.choices[0].finish_reason or reason
    return "".join(tokens), reason


def expected(model: str, text: str, tokens: int) -> str:
    """Return what the stand-in engine answers to a text of one word."""
    return " ".join([f"{model}:", text, *(f"w{number}" for number in range(tokens - 2))])


def _of_connection(error: Exception, begun: bool) -> tuple[Outcome, str]:
    cause = error.__cause__ or error
    if begun:
        return Outcome.CUT, repr(cause)
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Outcome.REFUSED, repr(cause)
    return Outcome.LOST, repr(cause)


def _of_status(error: openai.APIStatusError) -> tuple[Outcome, str, float]:
    """Return what an error status is, how to call it, and the Retry-After in seconds."""
    status = error.status_code
    if not _is_openai_shaped(error.body):
        return Outcome.WRONG, f"{status} without OpenAI's error: {error.response.text[:300]}", 0.0
    detail = f"{status} {error.code}: {error.message}"
    after = error.response.headers.get("retry-after", "")
    seconds = float(after) if after.isdecimal() else 0.0
    if not is_retried(status, error.response.headers.get("x-should-retry"), seconds):
        return Outcome.FINAL, detail, 0.0
    return Outcome.ERROR, detail, seconds


def is_retried(status: int, should_retry: str | None, retry_after: float) -> bool:
    """Whether OpenAI's library asks again: what the server says about that comes first.

    `should_retry` is the header `x-should-retry`; `retry_after` is in seconds, 0 for none.
    """
    if retry_after > _LONGEST_RETRY_AFTER_SECONDS:
        return False
    if should_retry in {"true", "false"}:
        return should_retry == "true"
    return status in _RETRIED or status >= 500


def _of_event(error: openai.APIError) -> tuple[Outcome, str]:
    if not _is_openai_shaped(error.body):
        return Outcome.WRONG, f"an error event without OpenAI's error: {error.body}"
    return Outcome.ERROR_EVENT, f"event {error.code}: {error.message}"


def _is_openai_shaped(body: object) -> bool:
    """Whether it is what OpenAI has under `error`, and says something."""
    return (
        isinstance(body, dict)
        and {"message", "type", "code"} <= set(body)
        and isinstance(body["message"], str)
        and bool(body["message"])
    )


def _pause(tries: int) -> float:
    pause: float = min(_FIRST_PAUSE_SECONDS * 2 ** min(tries, 10), _LONGEST_PAUSE_SECONDS)
    return pause * (1 - 0.25 * random.random())


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


@asynccontextmanager
async def steady(
    clients: Iterable[Client], *, pause_seconds: float, patience: Callable[[], float]
) -> AsyncIterator[None]:
    """Let the clients ask while the context lasts, then let each finish what it has asked.

    That takes as long as `patience` says then, in seconds, at the most: what is not answered by
    then stays open in the ledger.
    """
    stop = asyncio.Event()
    tasks = [asyncio.create_task(client.run(stop, pause_seconds)) for client in clients]
    try:
        yield
        stop.set()
        finished, _ = await asyncio.wait(tasks, timeout=patience())
        for task in finished:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
