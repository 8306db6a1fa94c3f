"""Deleting a ModelServing leaves nothing, and nobody waits for it in vain."""

import asyncio

import httpx

from modelserving_api.names import SERVING_LABEL
from tests.cluster.asking import ask, error_of
from tests.cluster.conftest import Make
from tests.cluster.kubernetes import DEPLOYMENTS, PODS, SERVICES, SERVINGS, World
from tests.harness.servings import sim_modelserving

NAME = "short-lived"


async def test_nothing_is_left_and_a_held_request_is_answered(
    world: World, made: Make, gateway: httpx.AsyncClient, sim_image: str
) -> None:
    await made(sim_modelserving(NAME, image=sim_image))
    assert len(await world.engines(PODS, NAME)) == 1
    held = asyncio.create_task(ask(gateway, "coder", "good day"))
    await world.until_serving(
        NAME, lambda each: bool(each["spec"].get("requests")), what="the demand is published"
    )
    await world.kubectl("delete", "modelserving", NAME, "--timeout=60s")
    async with asyncio.timeout(10):
        error = error_of(await held, 503)
    assert error["code"] == "model_serving_deleted"
    for path in (SERVINGS, DEPLOYMENTS, SERVICES, PODS):
        selector = "" if path == SERVINGS else f"{SERVING_LABEL}={NAME}"
        await world.until(
            path,
            lambda items: not any(NAME in each["metadata"]["name"] for each in items),
            what=f"nothing is left in {path}",
            within=180,
            selector=selector,
        )


async def test_a_model_of_a_deleted_modelserving_does_not_exist(
    world: World, gateway: httpx.AsyncClient
) -> None:
    assert (await gateway.get("/v1/models")).json()["data"] == []
    assert error_of(await ask(gateway, "coder", "good day"), 404)["code"] == "model_not_found"
