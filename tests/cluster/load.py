"""Clients that ask steadily, and what came of each of their requests. Asserts nothing.

They are OpenAI's own client. One that retries goes on until it is answered, as a person's program
would; one that does not says what became of its only try.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import httpx
import openai

TOKENS: Final = 12
PAUSE_SECONDS: Final = 0.1
"""Between two requests of one client, so that the machine has room for the swaps."""

TIMEOUT_SECONDS: Final = 240
"""A request that takes longer than that is lost: 20 swaps."""


class Outcome(StrEnum):
    """What came of a request."""

    ANSWERED = "answered"
    CONNECTION = "the connection failed"
    CUT = "the connection failed amid the answer, or amid the comments before it"
    REFUSED = "an error was answered"
    WRONG = "the answer was not right"


@dataclass(frozen=True)
class Asked:
    """One request."""

    model: str
    streamed: bool
    began: float
    seconds: float
    outcome: Outcome
    detail: str = ""


@dataclass
class Received:
    """What has come of an answer so far."""

    begun: bool = False
    """Whether the head of a stream is there: from then on no client library asks again."""
    tokens: list[str] = field(default_factory=list)


@dataclass
class Client:
    """One client that asks one model through one address."""

    name: str
    url: str
    model: str
    streamed: bool
    retries: bool
    asked: list[Asked] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop`; the last request is waited for."""
        retries = 10 if self.retries else 0
        async with openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=retries, timeout=TIMEOUT_SECONDS
        ) as client:
            for number in itertools.count():
                if stop.is_set():
                    return
                await self._ask_until_answered(client, f"{self.name}-{number}")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_until_answered(self, client: openai.AsyncOpenAI, text: str) -> None:
        while True:
            outcome = await self._ask(client, text)
            # The client library tries again by itself, but not what has been cut off.
            if outcome is not Outcome.CUT or not self.retries:
                return

    async def _ask(self, client: openai.AsyncOpenAI, text: str) -> Outcome:
        began = time.monotonic()
        outcome, detail = await self._outcome(client, text)
        seconds = time.monotonic() - began
        self.asked.append(Asked(self.model, self.streamed, began, seconds, outcome, detail))
        return outcome

    async def _outcome(self, client: openai.AsyncOpenAI, text: str) -> tuple[Outcome, str]:
        received = Received()
        try:
            reason = await self._answer(client, text, received)
        except (openai.APIConnectionError, httpx.TransportError) as error:
            outcome = Outcome.CUT if received.begun else Outcome.CONNECTION
            return outcome, repr(error.__cause__ or error)
        except openai.APIError as error:
            return Outcome.REFUSED, repr(error)
        answer = "".join(received.tokens)
        if reason != "length" or not answer.startswith(f"{self.model}: {text}"):
            return Outcome.WRONG, f"{reason}: {answer}"
        return Outcome.ANSWERED, ""

    async def _answer(
        self, client: openai.AsyncOpenAI, text: str, received: Received
    ) -> str | None:
        """Ask, and note what comes. Returns why the answer ended."""
        asking = client.chat.completions
        if not self.streamed:
            answer = await asking.create(
                model=self.model, messages=[{"role": "user", "content": text}], max_tokens=TOKENS
            )
            received.tokens.append(answer.choices[0].message.content or "")
            return answer.choices[0].finish_reason
        reason = None
        async with await asking.create(
            model=self.model,
            messages=[{"role": "user", "content": text}],
            max_tokens=TOKENS,
            stream=True,
        ) as stream:
            received.begun = True
            async for chunk in stream:
                received.tokens.append(chunk.choices[0].delta.content or "")
                reason = chunk.choices[0].finish_reason or reason
        return reason


def mixed(name: str, url: str, models: Iterator[str] | list[str], *, retries: bool) -> list[Client]:
    """Return for each model a client that streams and one that does not."""
    return [
        Client(f"{name}-{model}-{streamed}", url, model, streamed, retries)
        for model in models
        for streamed in (True, False)
    ]


@asynccontextmanager
async def steady(clients: list[Client]) -> AsyncIterator[None]:
    """Let the clients ask while the context lasts, and wait for the last answer of each.

    Raises TimeoutError when an answer never comes.
    """
    stop = asyncio.Event()
    tasks = [asyncio.create_task(client.run(stop), name=client.name) for client in clients]
    with _cancelled_in_the_end(tasks):
        yield
        stop.set()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await asyncio.gather(*tasks)


@contextmanager
def _cancelled_in_the_end(tasks: list[asyncio.Task[None]]) -> Iterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def outcomes(clients: list[Client]) -> Counter[Outcome]:
    """Count what came of all requests of the clients."""
    return Counter(each.outcome for client in clients for each in client.asked)


def told(clients: list[Client]) -> str:
    """Return what was not answered, for a person."""
    lines = [
        f"{client.name}: {each.outcome}: {each.detail}"
        for client in clients
        for each in client.asked
        if each.outcome is not Outcome.ANSWERED
    ]
    return "\n".join(lines[:20])
