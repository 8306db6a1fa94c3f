"""What people do to the operator's objects with kubectl is put back, told, and costs no request."""

import asyncio
import json
from typing import Any, Final

import httpx
import pytest_asyncio

from modelserving_api.names import MODEL_LABEL
from tests.cluster.asking import ask, stream, text_of
from tests.cluster.conftest import Make
from tests.cluster.kubernetes import DEPLOYMENTS, EVENTS, PODS, SERVICES, World, is_serving
from tests.harness.servings import SimModel, sim_modelserving

NAME: Final = "handled"
BACK_SECONDS: Final = 150
"""A swap of the model to itself, of 10 s here; a slow machine must not fail the test."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving(made: Make, sim_image: str) -> str:
    """A slow model that serves, and another one."""
    models = [SimModel("mistral", env={"SIM_SECONDS_PER_TOKEN": "0.1"}), SimModel("coder")]
    name: str = await made(sim_modelserving(NAME, image=sim_image, models=models))
    return name


async def deployment(world: World, model: str) -> dict[str, Any]:
    """Return a model's Deployment, or an empty object."""
    found = await world.objects(DEPLOYMENTS)
    return next((each for each in found if each["metadata"]["name"] == f"{NAME}-{model}"), {})


async def until_told(world: World, reason: str, *words: str) -> None:
    """Wait for an Event about the ModelServing that has the words."""

    def is_told(events: list[dict[str, Any]]) -> bool:
        return any(
            each["reason"] == reason
            and each["involvedObject"]["name"] == NAME
            and all(word in each["message"] for word in words)
            for each in events
        )

    await world.until(EVENTS, is_told, what=f"an Event {reason} with {words}")


async def until_serving_anew(world: World, swaps: int, reason: str) -> dict[str, Any]:
    """Wait until the model has been swapped to itself for the reason."""
    now = await world.until_serving(
        NAME,
        lambda each: is_serving(each, "mistral") and each["status"]["swapsSucceeded"] > swaps,
        what=f"mistral serves again after {reason}",
        within=BACK_SECONDS,
    )
    last = now["status"]["lastSwap"]
    assert (last["from"], last["to"], last["reason"]) == ("mistral", "mistral", reason)
    return now


async def swaps_so_far(world: World) -> int:
    """Return how many swaps have succeeded, when nothing is going on."""
    now = await world.until_serving(
        NAME, lambda each: is_serving(each, "mistral"), what="mistral serves", within=BACK_SECONDS
    )
    return int(now["status"]["swapsSucceeded"])


async def test_a_second_engine_that_is_scaled_up_never_runs_and_is_put_back(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    """Its Pod is not placed beside the one that serves, which is not disturbed."""
    scaled = False
    ran: list[str] = []
    async for streamed in stream(gateway, "mistral", "go", tokens=40, ignore_eos=True):
        if not scaled and streamed.tokens:
            scaled = True
            await world.kubectl("scale", f"deployment/{NAME}-coder", "--replicas=1")
        ran += [
            pod["metadata"]["name"]
            for pod in await world.engines(PODS, NAME)
            if "coder" in pod["metadata"]["name"] and pod["status"].get("podIP")
        ]
    assert streamed.errors == []
    assert len(streamed.tokens) == 40
    assert ran == []
    await until_told(world, "ScaledByHand", f"{NAME}-coder", "mistral serves")
    assert (await deployment(world, "coder"))["spec"]["replicas"] == 0


async def test_edited_objects_of_a_stopped_model_are_put_back(world: World, serving: str) -> None:
    name = f"{NAME}-coder"
    declared = image_of(await deployment(world, "coder"))
    await asyncio.gather(
        world.kubectl("set", "image", f"deployment/{name}", "engine=other:1"),
        world.kubectl("patch", "service", name, "--type=merge", "--patch", ANOTHER_MODEL),
    )
    await until_told(world, "EditedByHand", f"Deployment {name}", "containers[engine].image")
    await until_told(world, "EditedByHand", f"Service {name}", "selector")
    await world.until(
        DEPLOYMENTS,
        lambda items: any(
            each["metadata"]["name"] == name and image_of(each) == declared for each in items
        ),
        what="the Deployment is as declared",
    )
    await world.until(
        SERVICES,
        lambda items: any(
            each["metadata"]["name"] == name and each["spec"]["selector"][MODEL_LABEL] == "coder"
            for each in items
        ),
        what="the Service is as declared",
    )


ANOTHER_MODEL: Final = json.dumps({"spec": {"selector": {MODEL_LABEL: "mistral"}}})


def image_of(deployment: dict[str, Any]) -> str:
    """Return the image of the engine."""
    (engine,) = deployment["spec"]["template"]["spec"]["containers"]
    return str(engine["image"])


async def test_what_people_add_to_an_object_is_theirs(world: World, serving: str) -> None:
    name = f"{NAME}-coder"
    await world.kubectl("annotate", "deployment", name, "example.com/owner=me")
    await world.kubectl("patch", "deployment", name, "--type=merge", "--patch", A_ZONE)
    # The operator has looked at it by the time that it has put back something else.
    await world.kubectl("set", "image", f"deployment/{name}", "engine=other:2")
    after = await world.until(
        DEPLOYMENTS,
        lambda items: any(
            each["metadata"]["name"] == name and not image_of(each).startswith("other")
            for each in items
        ),
        what="the image is put back",
    )
    (kept,) = (each for each in after if each["metadata"]["name"] == name)
    assert kept["metadata"]["annotations"]["example.com/owner"] == "me"
    assert kept["spec"]["template"]["spec"]["nodeSelector"]["zone"] == "a"


A_ZONE: Final = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}}}}})


async def test_deleted_objects_of_a_stopped_model_come_back(world: World, serving: str) -> None:
    name = f"{NAME}-coder"
    await world.kubectl("delete", "deployment,service", name, "--wait=false")
    await until_told(world, "DeletedByHand", f"Deployment {name}")
    await until_told(world, "DeletedByHand", f"Service {name}")
    for path in (DEPLOYMENTS, SERVICES):
        await world.until(
            path,
            lambda items: any(each["metadata"]["name"] == name for each in items),
            what=f"{name} is there again",
        )
    assert is_serving(await world.serving(NAME), "mistral")


async def test_an_edited_engine_that_serves_is_replaced_by_what_is_declared(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    swaps = await swaps_so_far(world)
    await world.kubectl("set", "env", f"deployment/{NAME}-mistral", "SIM_LOAD_SECONDS=0.4")
    asked = asyncio.create_task(ask(gateway, "mistral", "good day"))
    await until_serving_anew(world, swaps, "EditedByHand")
    assert text_of(await asked).startswith("mistral: good day")
    (engine,) = (await deployment(world, "mistral"))["spec"]["template"]["spec"]["containers"]
    assert {"name": "SIM_LOAD_SECONDS", "value": "0.3"} in engine["env"]


async def test_a_deleted_deployment_of_the_model_that_serves_comes_back(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    swaps = await swaps_so_far(world)
    await world.kubectl("delete", "deployment", f"{NAME}-mistral", "--wait=false")
    await until_serving_anew(world, swaps, "DeletedByHand")
    assert text_of(await ask(gateway, "mistral", "good day")).startswith("mistral: good day")


async def test_an_engine_that_is_scaled_away_comes_back(
    world: World, gateway: httpx.AsyncClient, serving: str
) -> None:
    swaps = await swaps_so_far(world)
    await world.kubectl("scale", f"deployment/{NAME}-mistral", "--replicas=0")
    asked = asyncio.create_task(ask(gateway, "mistral", "good day"))
    await until_serving_anew(world, swaps, "ScaledByHand")
    assert text_of(await asked).startswith("mistral: good day")
