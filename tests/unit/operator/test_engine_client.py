"""What the operator makes of an engine's HTTP, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelserving_api.spec import CompletionCheck
from modelserving_operator import engine_client
from modelserving_operator.actions import Probe
from modelserving_operator.engine_client import EngineClient
from modelserving_operator.observation import ProbeResult

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def engine(**routes: Answer) -> AsyncIterator[str]:
    """Run an engine that answers on these paths of /v1, and give its URL."""
    app = web.Application()
    for path, answer in routes.items():
        app.router.add_post(f"/v1/{path}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def probed(url: str, check: CompletionCheck | None = None) -> ProbeResult:
    client = EngineClient()
    try:
        return await client.probe(Probe("coder", "p1", url, check or CompletionCheck()))
    finally:
        await client.close()


def completion(body: dict[str, Any], text: str = "hello you", logprob: float = -0.5) -> Any:
    told = {"token_logprobs": [logprob] * 4} if "logprobs" in body else None
    choice = {"text": text, "logprobs": told}
    return {"model": "coder", "choices": [choice], "usage": {"completion_tokens": 4}}


def refusing(status: int, unless: Callable[[dict[str, Any]], bool] = lambda _: False) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if unless(body):
            return web.json_response(completion(body))
        return web.json_response({"error": {"message": "not that"}}, status=status)

    return answer


async def embed(_: web.Request) -> web.Response:
    return web.json_response({"data": [{"embedding": [0.5]}]})


async def test_a_plain_answer_is_enough_and_no_engine_compiles_anything_for_us() -> None:
    async with engine(completions=refusing(500, lambda body: "logprobs" not in body)) as url:
        assert (await probed(url)).ok


@pytest.mark.parametrize(("logprob", "ok"), [(-0.5, True), (-9999.0, False)])
async def test_one_token_over_and_over_is_asked_for_its_probability(
    logprob: float, ok: bool
) -> None:
    async def repeat(request: web.Request) -> web.Response:
        return web.json_response(completion(await request.json(), "!!!!", logprob))

    async with engine(completions=repeat) as url:
        assert (await probed(url)).ok == ok


@pytest.mark.parametrize(("status", "ok"), [(400, True), (500, False)])
async def test_an_engine_that_tells_no_probabilities_is_believed_and_one_that_fails_is_not(
    status: int, ok: bool
) -> None:
    async def repeat(request: web.Request) -> web.Response:
        body = await request.json()
        if "logprobs" in body:
            return web.json_response({"error": {"message": "nan"}}, status=status)
        return web.json_response(completion(body, "!!!!"))

    async with engine(completions=repeat) as url:
        assert (await probed(url)).ok == ok


@pytest.mark.parametrize("status", [400, 404])
async def test_a_model_that_only_embeds_is_asked_for_that(status: int) -> None:
    async with engine(completions=refusing(status), embeddings=embed) as url:
        assert (await probed(url)).ok


async def test_a_text_is_not_expected_of_embeddings() -> None:
    async with engine(completions=refusing(404), embeddings=embed) as url:
        result = await probed(url, CompletionCheck(expected_text="Paris"))

    assert not result.ok
    assert "404" in result.message


async def test_an_engine_that_fails_is_told_with_what_it_said() -> None:
    async with engine(completions=refusing(500)) as url:
        result = await probed(url)

    assert not result.ok
    assert "500" in result.message
    assert "not that" in result.message


async def test_an_answer_that_is_no_json_is_a_finding() -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async with engine(completions=nonsense) as url:
        result = await probed(url)

    assert (result.ok, result.pod_uid) == (False, "p1")


async def test_an_engine_that_trickles_does_not_hold_the_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_client, "_WHOLE_PROBE_SECONDS", 0.3)

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for letter in json.dumps(completion({})) * 10:
            await response.write(letter.encode())
            await asyncio.sleep(0.1)
        return response

    async with engine(completions=trickle) as url:
        result = await probed(url)

    assert not result.ok
    assert "TimeoutError" in result.message


async def test_an_engine_that_is_not_there_is_a_finding() -> None:
    assert not (await probed("http://127.0.0.1:9")).ok
