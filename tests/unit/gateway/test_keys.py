"""API keys at a running gateway: who gets in, what each may do, and where the key never goes."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from modelserving_gateway.access import key_file
from modelserving_gateway.access.keys import Keys
from tests.unit.gateway.conftest import CHAT, Running, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, echo, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALICE = "ms-alice-0123456789"
BOB = "ms-bob-0123456789"


def entry(name: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


class Secret:
    """A Secret as a kubelet mounts it: a file in a directory that `..data` points to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._version = 0
        self.file = directory / "keys.yaml"

    def write(self, content: bytes) -> None:
        self._version += 1
        version = self._directory / f"..{self._version}"
        version.mkdir()
        (version / "keys.yaml").write_bytes(content)
        (self._directory / "..new").symlink_to(version.name)
        os.replace(self._directory / "..new", self._directory / "..data")
        if not self.file.is_symlink():
            self.file.symlink_to("..data/keys.yaml")

    def put(self, *entries: dict[str, Any]) -> None:
        self.write(json.dumps(entries).encode())


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Secret:
    monkeypatch.setattr(key_file, "POLL_SECONDS", 0.01)
    return Secret(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(engine: Engine) -> AsyncIterator[FakeCluster]:
    yield FakeCluster(serving(active="mistral", endpoint=engine.url))


async def gateway_with(
    start: Start, cluster: FakeCluster, secret: Secret, *entries: dict[str, Any]
) -> Running:
    secret.put(*entries)
    gateway: Running = await start(cluster, keys_file=str(secret.file))
    async with asyncio.timeout(5):
        while (await gateway.client.get("/readyz")).status_code != 200:
            pass
    return gateway


async def ask(gateway: Running, key: str, model: str = "mistral") -> httpx.Response:
    return await gateway.client.post(CHAT, json={"model": model}, headers=bearer(key))


async def test_a_valid_key_gets_in_and_goes_no_further_than_the_gateway(
    start: Start,
    cluster: FakeCluster,
    engine: Engine,
    secret: Secret,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    assert (await ask(gateway, ALICE)).status_code == 200
    answer = await gateway.client.post(
        "/v1/messages", json={"model": "mistral"}, headers={"x-api-key": ALICE}
    )
    assert answer.status_code == 200
    for request in engine.requests:
        assert not {"authorization", "x-api-key"} & request.headers.keys()
        assert ALICE not in str(request.headers)
    logged = capsys.readouterr().out
    assert '"key":"alice"' in logged
    assert ALICE not in logged


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/audio/transcriptions", "/tokenize", "/v1/messages"]
)
async def test_without_a_valid_key_nothing_is_read_nor_forwarded(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret, path: str
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    for headers in ({}, bearer(BOB), {"x-api-key": ALICE + "x"}):
        answer = await gateway.client.post(path, content=b"not even a body", headers=headers)
        assert error(answer) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        anthropic = path == "/v1/messages"
        kind = "authentication_error" if anthropic else "invalid_request_error"
        assert answer.json()["error"]["type"] == kind
        assert ("type" in answer.json()) is anthropic
    assert not engine.requests


async def test_an_unknown_key_is_told_apart_before_its_body_has_come(
    start: Start, cluster: FakeCluster, secret: Secret
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_a_key_sees_and_uses_its_own_models_only(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await gateway_with(
        start, cluster, secret, entry("alice", ALICE, models=["mistral"]), entry("bob", BOB)
    )
    client = gateway.client
    listed = (await client.get("/v1/models", headers=bearer(ALICE))).json()["data"]
    assert [each["id"] for each in listed] == ["mistral", "gpt-4", "mistralai/Mistral-7B"]
    everything = (await client.get("/v1/models", headers=bearer(BOB))).json()["data"]
    assert len(everything) == 4
    assert (await client.get("/v1/models/gpt-4", headers=bearer(ALICE))).status_code == 200
    one = await client.get("/v1/models/coder", headers=bearer(ALICE))
    assert error(one) == (403, "model_not_allowed")
    assert error(await ask(gateway, ALICE, "coder")) == (403, "model_not_allowed")
    assert (await ask(gateway, ALICE, "gpt-4")).status_code == 200


async def test_a_key_does_not_fall_back_to_a_model_that_it_may_not_use(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await gateway_with(
        start, cluster, secret, entry("alice", ALICE, models=["coder"]), entry("bob", BOB)
    )
    wishes = {"x-modelserving-fallback": "mistral", "x-modelserving-swap": "never"}

    async def ask_for_coder(key: str) -> httpx.Response:
        return await gateway.client.post(
            CHAT, json={"model": "coder"}, headers={**bearer(key), **wishes}
        )

    assert (await ask_for_coder(BOB)).headers["x-modelserving-model"] == "mistral"
    assert error(await ask_for_coder(ALICE)) == (409, "model_not_active")
    assert len(engine.requests) == 1


async def test_a_key_is_told_nothing_of_models_that_it_may_not_use(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    cluster.put(serving("other", {"llava": []}, active="llava", endpoint="http://10.0.0.1:8000"))
    gateway = await gateway_with(
        start, cluster, secret, entry("alice", ALICE, models=["coder"]), entry("bob", BOB)
    )
    everything = (await gateway.client.get("/status", headers=bearer(BOB))).text
    assert all(each in everything for each in ("mistral", "llava", engine.url, "10.0.0.1"))

    held = asyncio.create_task(ask(gateway, ALICE, "coder"))
    await eventually(lambda: gateway.gateway.in_flight == 1)
    answer = await gateway.client.get("/status", headers=bearer(ALICE))
    (l4,) = answer.json()["modelservings"]
    assert (l4["name"], l4["active"]) == ("l4", None)
    assert [(model["name"], model["held"]) for model in l4["models"]] == [("coder", 1)]
    assert answer.json()["held"] == 1
    held.cancel()

    refused = await gateway.client.post(
        CHAT,
        json={"model": "coder"},
        headers={**bearer(ALICE), "x-modelserving-swap": "never"},
    )
    assert error(refused) == (409, "model_not_active")
    for told in (answer.text, refused.text):
        assert not [each for each in ("mistral", "llava", "gpt-4", "http:") if each in told]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 401),
        ("/v1/models/mistral", 401),
        ("/status", 401),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/openapi.json", 200),
    ],
)
async def test_what_tells_of_models_needs_a_key_and_what_probes_ask_does_not(
    start: Start, cluster: FakeCluster, secret: Secret, path: str, status: int
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    assert (await gateway.client.get(path)).status_code == status
    assert (await gateway.client.get(path, headers=bearer(ALICE))).status_code == 200


async def test_requests_in_flight_are_counted_while_they_are_held_or_run(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    go_on = asyncio.Event()

    async def waiting(connection: Connection) -> None:
        await go_on.wait()
        await echo(connection)

    engine.behaviour = waiting
    gateway = await gateway_with(
        start, cluster, secret, entry("alice", ALICE, maxInFlight=2), entry("bob", BOB)
    )
    running = asyncio.create_task(ask(gateway, ALICE))
    held = asyncio.create_task(ask(gateway, ALICE, "coder"))
    await eventually(lambda: gateway.gateway.in_flight == 2)
    refused = await ask(gateway, ALICE)
    assert error(refused) == (429, "too_many_in_flight")
    assert int(refused.headers["retry-after"]) >= 1
    others = asyncio.create_task(ask(gateway, BOB))
    held.cancel()
    await eventually(lambda: gateway.gateway.in_flight == 2)
    go_on.set()
    assert (await running).status_code == (await others).status_code == 200
    assert (await ask(gateway, ALICE)).status_code == 200


async def test_requests_per_minute_are_counted_for_each_key(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await gateway_with(
        start, cluster, secret, entry("alice", ALICE, requestsPerMinute=2), entry("bob", BOB)
    )
    assert [(await ask(gateway, ALICE)).status_code for _ in range(2)] == [200, 200]
    refused = await ask(gateway, ALICE)
    assert error(refused) == (429, "rate_limit_exceeded")
    assert 50 < int(refused.headers["retry-after"]) <= 60
    assert (await ask(gateway, BOB)).status_code == 200
    assert len(engine.requests) == 3


async def test_keys_are_read_again_when_the_secret_changes(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    assert (await ask(gateway, BOB)).status_code == 401
    secret.put(entry("bob", BOB))
    async with asyncio.timeout(5):
        while (await ask(gateway, BOB)).status_code == 401:
            pass
    assert (await ask(gateway, ALICE)).status_code == 401


async def keys_invalid(gateway: Running) -> bool:
    text = (await gateway.client.get("/metrics")).text
    return "modelserving_gateway_keys_invalid 1.0" in text


@pytest.mark.parametrize(
    "content", [b"", b"- name: alice", b"\xff", b"x" * 2_000_000], ids=["empty", "no hash", "", "x"]
)
async def test_a_broken_secret_leaves_the_last_good_keys_in_force_and_is_mended_by_the_next(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret, content: bytes
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    assert not await keys_invalid(gateway)
    secret.write(content)
    async with asyncio.timeout(5):
        while not await keys_invalid(gateway):
            pass
    assert (await ask(gateway, ALICE)).status_code == 200
    secret.put(entry("bob", BOB))
    async with asyncio.timeout(5):
        while await keys_invalid(gateway):
            pass
    assert (await ask(gateway, BOB)).status_code == 200


async def test_a_file_that_went_away_and_came_back_is_in_order_again(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await gateway_with(start, cluster, secret, entry("alice", ALICE))
    away = secret.file.with_name("away")
    os.replace(secret.file, away)
    async with asyncio.timeout(5):
        while not await keys_invalid(gateway):
            pass
    assert (await ask(gateway, ALICE)).status_code == 200
    os.replace(away, secret.file)
    async with asyncio.timeout(5):
        while await keys_invalid(gateway):
            pass


async def test_a_file_that_has_not_changed_is_not_read_again(secret: Secret) -> None:
    taken: list[Keys] = []
    file = key_file.KeyFile(secret.file, taken.append, lambda _: None)
    for entries, expected in (([entry("alice", ALICE)], 1), ([], 2)):
        secret.put(*entries)
        for _ in range(3):
            await file.look()
        assert len(taken) == expected


async def test_a_secret_that_cannot_be_read_at_the_start_opens_nothing(
    start: Start, cluster: FakeCluster, engine: Engine, secret: Secret
) -> None:
    gateway = await start(cluster, keys_file=str(secret.file))
    async with asyncio.timeout(5):
        while not await keys_invalid(gateway):
            pass
    for answer in (await ask(gateway, ALICE), await gateway.client.get("/v1/models")):
        assert error(answer) == (503, "keys_unreadable")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await gateway.client.get("/readyz")).status_code == 503
    assert (await gateway.client.get("/healthz")).status_code == 200
    assert not engine.requests
    secret.put(entry("alice", ALICE))
    async with asyncio.timeout(5):
        while (await ask(gateway, ALICE)).status_code != 200:
            pass


async def test_without_keys_a_clients_own_credentials_pass_to_the_engine(
    start: Start, cluster: FakeCluster, engine: Engine
) -> None:
    gateway = await start(cluster)
    assert (await ask(gateway, "whatever")).status_code == 200
    assert engine.requests[0].headers["authorization"] == "Bearer whatever"
