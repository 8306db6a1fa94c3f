"""API keys from a Secret: who may ask what, as the official clients see it, and how they change."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio
import yaml
from openai.types.chat import ChatCompletionMessageParam
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from tests.cluster.conftest import Forwards, Make
from tests.cluster.gateways import gateway_with
from tests.cluster.kubernetes import World
from tests.harness.servings import SimModel, sim_modelserving

SECRET: Final = "model-keys"
SEARCH, ADS, LATER = "ms-key-of-search", "ms-key-of-ads", "ms-key-that-comes-later"
WHO: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "who are you"}]
ARRIVES_SECONDS: Final = 60
"""The kubelet brings a change at the Pod's next look, which an annotation makes come at once."""


def entry(name: str, key: str, **more: Any) -> dict[str, Any]:
    """Return a key's entry of the Secret."""
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **more}


def secret(*entries: dict[str, Any]) -> str:
    """Return the Secret's manifest."""
    content = yaml.safe_dump(list(entries))
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {"keys.yaml": content},
    }
    return yaml.safe_dump(manifest)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """Two models, of which one is active and stays so."""
    models = (SimModel("mistral"), SimModel("coder"))
    name: str = await made(sim_modelserving("keyed", image=sim_image, models=models))
    return name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pod(world: World, serving: str) -> AsyncIterator[str]:
    """A gateway that asks for keys."""
    entries = (
        entry("search", SEARCH, models=["mistral"]),
        entry("ads", ADS, requestsPerMinute=2),
    )
    await world.kubectl("apply", "--filename", "-", input=secret(*entries))
    values = {"apiKeys": {"existingSecret": SECRET}}
    async with gateway_with(world, values) as pod:
        yield pod


@pytest.fixture
async def url(forwards: Forwards, pod: str) -> str:
    """Its address."""
    return forwards.url(pod, 8080)


def client_of(url: str, key: str) -> openai.AsyncOpenAI:
    """Return OpenAI's client with a key."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


async def test_a_key_opens_the_models_that_it_names(url: str) -> None:
    async with client_of(url, SEARCH) as client:
        answer = await client.chat.completions.create(model="mistral", messages=WHO)
        assert (answer.choices[0].message.content or "").startswith("mistral: who are you")
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="coder", messages=WHO)
        assert [model.id async for model in client.models.list()] == ["mistral"]


async def test_anthropics_client_gives_its_key_in_another_header(url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=SEARCH, max_retries=0) as claude:
        message = await claude.messages.create(
            model="mistral", max_tokens=8, messages=[{"role": "user", "content": "who are you"}]
        )
        assert message.content[0].type == "text"
        assert message.content[0].text.startswith("mistral: who are you")
    async with anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(
                model="mistral", max_tokens=8, messages=[{"role": "user", "content": "hello"}]
            )


async def test_without_a_valid_key_nothing_is_answered_or_told(url: str) -> None:
    async with client_of(url, "ms-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="mistral", messages=WHO)
        with pytest.raises(openai.AuthenticationError):
            # Not even whether a model exists.
            await client.chat.completions.create(model="gemma", messages=WHO)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with httpx.AsyncClient(base_url=url) as plain:
        assert (await plain.get("/v1/models")).status_code == 401
        # The kubelet has no key.
        assert (await plain.get("/healthz")).status_code == 200


async def test_more_requests_than_a_key_may_have_are_told_to_wait(url: str) -> None:
    async with client_of(url, ADS) as client:
        for _ in range(2):
            await client.chat.completions.create(model="mistral", messages=WHO)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="mistral", messages=WHO)
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


async def test_a_changed_secret_takes_effect_without_a_restart(
    world: World, pod: str, url: str
) -> None:
    entries = (entry("later", LATER),)
    await world.kubectl("apply", "--filename", "-", input=secret(*entries))
    await world.kubectl("annotate", "pod", pod, "look-now=yes")
    async with client_of(url, LATER) as client:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(openai.AuthenticationError),
            wait=wait_fixed(0.5),
            stop=stop_after_delay(ARRIVES_SECONDS),
        ):
            with attempt:
                await client.models.list()
    async with client_of(url, SEARCH) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    (shown,) = (
        each
        for each in await world.objects("/api/v1/namespaces/{}/pods")
        if each["metadata"]["name"] == pod
    )
    assert shown["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_keys_are_in_no_log(world: World, pod: str, url: str) -> None:
    log = await world.kubectl("logs", pod)
    assert "later" in log or "search" in log, "requests are logged under the key's name"
    assert [key for key in (SEARCH, ADS, LATER, "ms-wrong") if key in log] == []
