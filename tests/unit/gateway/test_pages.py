"""What the gateway tells about itself: models, status, health, readiness, metrics."""

import asyncio
import re
from typing import Any

import pytest

from tests.unit.gateway.conftest import Start, eventually
from tests.unit.gateway.fakes import Engine, FakeCluster, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine) -> FakeCluster:
    return FakeCluster(
        serving(
            active="mistral",
            endpoint=engine.url,
            status={
                "models": [
                    {"name": "mistral", "state": "Ready", "loadSeconds": 12.5},
                    {"name": "coder", "state": "Failed", "reason": "CrashLoop", "message": "boom"},
                ],
                "lastSwap": {
                    "id": "1",
                    "from": "coder",
                    "to": "mistral",
                    "reason": "Requested",
                    "message": "1 request waits for mistral",
                    "outcome": "Succeeded",
                    "startedTime": "2026-11-24T10:00:00Z",
                    "finishedTime": "2026-11-24T10:00:09Z",
                    "seconds": 9.0,
                },
            },
        )
    )


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_every_declared_model_and_alias_is_listed_with_its_state(
    start: Start, engine: Engine, prefix: str
) -> None:
    gateway = await start(active(engine))
    listing = (await gateway.client.get(prefix + "/models")).json()
    assert listing["object"] == "list"
    models = {model["id"]: model for model in listing["data"]}
    assert list(models) == ["coder", "mistral", "gpt-4", "mistralai/Mistral-7B"]
    assert all(
        model["object"] == "model" and model["created"] == 1795514400 and model["owned_by"]
        for model in models.values()
    )
    mistral = models["mistral"]["modelserving"]
    assert (mistral["name"], mistral["state"], mistral["active"]) == ("l4", "Ready", True)
    assert mistral["aliases"] == ["gpt-4", "mistralai/Mistral-7B"]
    assert models["gpt-4"]["modelserving"]["alias_of"] == "mistral"
    assert models["coder"]["modelserving"]["state"] == "Failed"
    assert models["coder"]["modelserving"]["servings"][0]["message"] == "boom"


@pytest.mark.parametrize("name", ["mistral", "mistralai/Mistral-7B", "mistralai%2FMistral-7B"])
async def test_a_single_model_is_found_by_name_or_alias(
    start: Start, engine: Engine, name: str
) -> None:
    gateway = await start(active(engine))
    answer = await gateway.client.get(f"/v1/models/{name}")
    assert answer.status_code == 200
    assert answer.json()["modelserving"]["active"] is True


async def test_a_single_model_that_is_not_declared_is_404(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine))
    answer = await gateway.client.get("/v1/models/gpt-5")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_models_of_several_modelservings_are_merged(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    cluster.put(serving("other", {"mistral": [], "llava": []}))
    gateway = await start(cluster)
    models = {each["id"]: each for each in (await gateway.client.get("/models")).json()["data"]}
    assert "llava" in models
    places = models["mistral"]["modelserving"]["servings"]
    assert [(place["name"], place["active"]) for place in places] == [
        ("l4", True),
        ("other", False),
    ]


async def test_status_tells_what_is_active_and_what_is_held(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    cluster.set_status("l4", activeModel="mistral", targetModel="coder", endpoint=engine.url)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await gateway.held(1)
    (l4,) = (status := await gateway.status())["modelservings"]
    assert (l4["active"], l4["target"], l4["endpoint"]) == ("mistral", "coder", engine.url)
    coder = next(model for model in l4["models"] if model["name"] == "coder")
    assert coder["held"] == 1
    assert coder["oldest_wait_seconds"] >= 0
    assert status["in_flight"] == 1
    asking.cancel()


async def test_readiness_needs_a_listing(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    cluster.failing_lists = 3
    gateway = await start(cluster)
    for path in ("/readyz", "/v1/models"):
        assert (await gateway.client.get(path)).status_code == 503
    early = await gateway.ask()
    assert (early.status_code, early.json()["error"]["code"]) == (503, "gateway_starting")
    assert (await gateway.client.get("/healthz")).status_code == 200
    async with asyncio.timeout(10):
        while (await gateway.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await gateway.ask()).status_code == 200
    assert cluster.lists == 4


def sample(text: str, name: str, **labels: str) -> float | None:
    for line in text.splitlines():
        if match := re.fullmatch(r"modelserving_gateway_(\w+)(?:\{(.*)\})? (\S+)", line):
            given = dict(re.findall(r'(\w+)="([^"]*)"', match.group(2) or ""))
            if match.group(1) == name and labels.items() <= given.items():
                return float(match.group(3))
    return None


async def test_metrics_count_what_happens_and_never_by_a_name_that_a_client_made_up(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    gateway = await start(cluster)
    await gateway.ask("mistral")
    await gateway.ask("made-up")
    asking = gateway.asking("coder", messages="x" * 100)
    await eventually(lambda: cluster.demand())
    text = (await gateway.client.get("/metrics")).text
    assert sample(text, "queue_length", model="coder") == 1
    assert (sample(text, "queue_bytes", model="coder") or 0) > 100
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    await asking
    await eventually(lambda: cluster.withdrawn)

    text = (await gateway.client.get("/metrics")).text
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {
        ("requests_total", (("model", "mistral"), ("status", "200"))): 1,
        ("requests_total", (("model", "coder"), ("status", "200"))): 1,
        ("requests_total", (("model", ""), ("status", "404"))): 1,
        ("rejected_total", (("reason", "model_not_found"),)): 1,
        ("held_seconds_count", (("model", "coder"),)): 1,
        ("held_seconds_count", (("model", "mistral"),)): None,
        ("time_to_first_byte_seconds_count", (("model", "mistral"),)): 1,
        ("requests_in_flight", (("model", "coder"),)): 0,
        ("queue_length", (("model", "coder"),)): None,
        ("limit", (("bound", "max_held_requests"),)): 1000,
        ("swap_requests_total", (("modelserving", "l4"), ("model", "coder"))): 1,
        ("demand_writes_total", (("modelserving", "l4"), ("outcome", "written"))): 2,
    }
    found = {key: sample(text, key[0], **dict(key[1])) for key in expected}
    assert found == expected
    assert "made-up" not in text
    assert "process_resident_memory_bytes" in text


async def test_each_request_that_is_no_engines_leaves_one_line_and_probes_leave_none(
    start: Start, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await start(active(engine))
    async with asyncio.timeout(5):
        while (await gateway.client.get("/readyz")).status_code != 200:
            pass
    capsys.readouterr()
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models", "/sleep", "/" + "x" * 1000):
        await gateway.client.get(path, headers={"x-request-id": path[:10]})
    logged = [line for line in capsys.readouterr().out.splitlines() if "request" in line]
    assert len(logged) == 3
    assert all(
        id_ in line and status in line
        for line, id_, status in zip(
            logged, ("/v1/models", "/sleep", "/xxxxxxxxx"), ("200", "404", "404"), strict=True
        )
    )
    assert all(len(line) < 1000 for line in logged)
