"""The real vLLM on a CPU, with three tiny models: text, code and a picture through the gateway."""

import base64
import io

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from tests.cluster.asking import CHAT, HELD_HEADER, ask, text_of, whole_stream
from tests.cluster.conftest import Make
from tests.cluster.kubernetes import World, is_serving
from tests.harness.cluster import Cluster
from tests.harness.engines.engine_images import build_vllm_cpu
from tests.harness.engines.tiny_models import ensure_models
from tests.harness.servings import vllm_cpu_modelserving

pytestmark = pytest.mark.vllm

NAME = "real"
LOAD_SECONDS = 400
"""20 s on an idle machine with two cores; several times that while it is busy."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(cluster: Cluster, made: Make) -> str:
    """The three tiny models, mistral by default."""
    ensure_models(cluster.models)
    image = build_vllm_cpu()
    cluster.load(image)
    name: str = await made(vllm_cpu_modelserving(NAME, image=image), within=LOAD_SECONDS)
    return name


def square(colour: str) -> str:
    """Return a picture of one colour as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (28, 28), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


async def test_mistral_answers(gateway: httpx.AsyncClient, serving: str) -> None:
    answer = await ask(gateway, "mistral", "Who are you?", tokens=64, temperature=0)
    assert "mistral" in text_of(answer)
    assert answer.json()["usage"]["completion_tokens"] > 0


async def test_coder_is_swapped_in_and_answers_in_a_stream(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    streamed = await whole_stream(gateway, "coder", "Write a function.", tokens=64, temperature=0)
    assert streamed.done
    assert streamed.errors == []
    assert "return" in "".join(streamed.tokens)
    await world.until_serving(
        serving, lambda each: is_serving(each, "coder"), what="coder serves", within=30
    )


async def test_llava_is_swapped_in_and_sees_the_picture(
    gateway: httpx.AsyncClient, serving: str
) -> None:
    content = [
        {"type": "text", "text": "Which colour is it?"},
        {"type": "image_url", "image_url": {"url": square("red")}},
    ]
    body = {
        "model": "llava",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 64,
        "temperature": 0,
    }
    answer = await gateway.post(CHAT, json=body, timeout=LOAD_SECONDS)
    assert "red" in text_of(answer)
    assert float(answer.headers[HELD_HEADER]) > 0
