"""What the API server is asked to write, by its own account: nothing at rest, little for a swap.

Its metrics count everybody, so these tests wait until nothing else of the cluster is going on.
QUIET_SECONDS makes the quiet time longer (`make quiet`: ten minutes).
"""

import asyncio
import itertools
import os
import re
from collections import Counter
from typing import Any

import httpx
import pytest_asyncio

from tests.cluster.asking import ask, text_of
from tests.cluster.conftest import Make
from tests.cluster.kubernetes import World, is_at_rest
from tests.harness.servings import SimModel, sim_modelserving

NAME = "thrifty"

QUIET_SECONDS = float(os.environ.get("QUIET_SECONDS", "60"))

WRITES_OF_OURS = 16
"""One swap: 2 writes of Deployments, 2 Events, and a status write for each step that a person sees;
13 were seen. docs/operator.md says the same."""

WRITES_IN_A_CROWD = 20
"""One swap, and what is written later about generations that only demand has made: at most each 5 s
while the crowd comes and goes; 14 were seen."""

WRITES_IN_ALL = 60
"""One swap, with what gateways, controllers, scheduler and kubelet write about it: the demand, the
status of two Deployments and two Pods, and their Events; 45 were seen."""

_WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
_RESOURCES = ("modelservings", "deployments", "services", "events", "pods")
_LINE = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<count>\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def written(world: World) -> Counter[str]:
    """Return how often each resource was written, as the API server counts it."""
    async with httpx.AsyncClient(base_url=world.api, timeout=30) as client:
        text = (await client.get("/metrics")).raise_for_status().text
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        labels = dict(_LABEL.findall(found["labels"]))
        if labels["verb"] in _WRITES and labels["resource"] in _RESOURCES:
            what = "/".join(filter(None, (labels["resource"], labels.get("subresource", ""))))
            counts[f"{labels['verb']} {what}"] += int(float(found["count"]))
    return counts


async def of_ours(operator: httpx.AsyncClient) -> Counter[str]:
    """Return the operator's own count of its writes."""
    text = (await operator.get("/metrics")).raise_for_status().text
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("modelserving_api_requests_total"):
            labels = dict(_LABEL.findall(line))
            if labels["verb"] in ("create", "apply", "patch", "delete"):
                counts[f"{labels['verb']} {labels['resource']}"] += int(float(line.split()[-1]))
    return counts


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """Two models; mistral by default, slow enough that others come while it answers."""
    manifest = sim_modelserving(
        NAME,
        image=sim_image,
        models=(
            SimModel("mistral", env={"SIM_SECONDS_PER_TOKEN": "0.1"}),
            SimModel("coder", gpu_memory="11Gi"),
        ),
    )
    name: str = await made(manifest)
    return name


async def until_quiet(world: World) -> str:
    """Wait until nothing is going on in the whole cluster; return the active model."""
    await world.until(
        "/api/v1/namespaces",
        lambda all_: not any("deletionTimestamp" in each["metadata"] for each in all_),
        what="no namespace is being removed",
        within=180,
    )
    await world.until(
        "/api/v1/pods",
        lambda pods: all(_settled(pod) for pod in pods),
        what="no Pod comes or goes",
        within=180,
    )
    at_rest = await world.until_serving(
        NAME,
        is_at_rest,
        what="nothing is going on",
        within=150,
    )
    # Controllers finish their status, and recorders their Events, within a second or two.
    before = await written(world)
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(2)
            now = await written(world)
            if now == before:
                return str(at_rest["status"]["activeModel"])
            before = now


def _settled(pod: dict[str, Any]) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" or pod["status"]["phase"] in ("Succeeded", "Failed")


async def test_at_rest_nothing_is_written(world: World, serving: str) -> None:
    await until_quiet(world)
    before = await written(world)
    await asyncio.sleep(QUIET_SECONDS)
    assert await written(world) - before == Counter()


async def test_a_crowd_adds_little_to_the_writes_of_a_swap(
    world: World, serving: str, gateways: list[httpx.AsyncClient], operator: httpx.AsyncClient
) -> None:
    active = await until_quiet(world)
    other = "coder" if active == "mistral" else "mistral"
    ours_before = await of_ours(operator)

    async with asyncio.TaskGroup() as crowd:
        asked = []
        for _, gateway in zip(range(50), itertools.cycle(gateways), strict=False):
            asked.append(crowd.create_task(ask(gateway, other, "good day")))
            # They keep arriving for as long as a swap takes.
            await asyncio.sleep(0.1)
    assert all(text_of(each.result()).startswith(other) for each in asked)
    assert await until_quiet(world) == other

    ours = await of_ours(operator) - ours_before
    print(f"ours {ours.total()}: {ours}")
    assert 0 < ours.total() <= WRITES_IN_A_CROWD, ours


async def test_a_swap_costs_a_stated_number_of_writes(
    world: World, serving: str, gateway: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    active = await until_quiet(world)
    other = "coder" if active == "mistral" else "mistral"
    before, ours_before = await written(world), await of_ours(operator)

    assert text_of(await ask(gateway, other, "good day")).startswith(other)
    assert await until_quiet(world) == other

    in_all, ours = await written(world) - before, await of_ours(operator) - ours_before
    print(f"ours {ours.total()}: {ours}\nin all {in_all.total()}: {in_all}")
    assert 0 < ours.total() <= WRITES_OF_OURS, ours
    assert ours.total() <= in_all.total() <= WRITES_IN_ALL, in_all
    # Two Deployments are scaled once each, and nothing else of theirs is touched.
    assert ours["apply deployments"] + ours["patch deployments"] == 2
    assert ours["apply services"] == 0
