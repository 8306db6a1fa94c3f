"""Specs that break the contract: refused with the field named, and nothing half-applied."""

import asyncio
import copy
import json
from typing import Any

import httpx
import pytest

from tests.cluster.asking import ask, text_of
from tests.cluster.conftest import Make, apply
from tests.cluster.gpus import FIRST
from tests.cluster.kubernetes import (
    DEPLOYMENTS,
    SERVICES,
    World,
    condition,
    is_serving,
)
from tests.harness.process import CommandError
from tests.harness.servings import sim_modelserving
from tests.unit.api.specs import INVALID, Case, Refusal

BY_SCHEMA = [each for each in INVALID if each.refusal is Refusal.SCHEMA]
BY_RULE = [each for each in INVALID if each.refusal is Refusal.RULE]


def manifest(name: str, case: Case) -> dict[str, Any]:
    """Return a ModelServing with a spoilt spec; no model of it is loaded by default."""
    spec = case.spec()
    if spec.get("defaultModel") == "mistral":
        del spec["defaultModel"]
    return {
        "apiVersion": "modelserving.dev/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": name},
        "spec": spec,
    }


async def refusal_by_server(world: World, body: dict[str, Any]) -> str:
    """Return the API server's message, or nothing when it takes the object."""
    url = f"{world.api}/apis/modelserving.dev/v1alpha1/namespaces/{world.namespace}/modelservings"
    async with httpx.AsyncClient() as client:
        answer = await client.post(url, json=body)
    return "" if answer.is_success else str(answer.json()["message"])


async def is_stored(world: World, body: dict[str, Any], field: str) -> bool:
    """Apply an object as a person does; a server that refuses it must name the field."""
    try:
        await apply(world, body)
    except CommandError as error:
        if field not in error.output:
            raise
        return False
    return True


async def test_the_server_refuses_by_its_schema_and_names_the_field(world: World) -> None:
    messages = await asyncio.gather(
        *(refusal_by_server(world, manifest("refused", case)) for case in BY_SCHEMA)
    )
    told = {case.id: message for case, message in zip(BY_SCHEMA, messages, strict=True)}
    assert [name for name, message in told.items() if not message] == []
    unnamed = {
        case.id: told[case.id]
        for case in BY_SCHEMA
        if case.field.split(".")[-1].split("[")[0] not in told[case.id]
    }
    assert unnamed == {}


async def test_kubectl_apply_tells_a_person_what_is_wrong(world: World) -> None:
    wrong = manifest("refused", next(each for each in INVALID if each.id == "a size in GB"))
    with pytest.raises(CommandError, match=r"spec\.models.*gpuMemory"):
        await apply(world, wrong)


async def test_what_rules_forbid_is_refused_by_the_server_or_else_by_the_operator(
    world: World,
) -> None:
    """A server that does not know CEL stores the object; the operator then says what is wrong."""
    names = [f"invalid-{index}" for index in range(len(BY_RULE))]
    refused = await asyncio.gather(
        *(
            refusal_by_server(world, manifest(name, case))
            for name, case in zip(names, BY_RULE, strict=True)
        )
    )
    for name, case, by_server in zip(names, BY_RULE, refused, strict=True):
        if by_server:
            assert "Invalid value" in by_server, case.id
            continue
        found = await world.until_serving(
            name,
            lambda each: condition(each, "Ready").get("reason") == "InvalidSpec",
            what=f"{case.id}: Ready=False, reason=InvalidSpec",
        )
        ready = condition(found, "Ready")
        assert ready["status"] == "False"
        assert case.field in ready["message"], case.id
        assert case.words in ready["message"], case.id
        assert await world.engines(DEPLOYMENTS, name) == [], case.id
        assert await world.engines(SERVICES, name) == [], case.id
    await world.kubectl("delete", "ms", *names, "--ignore-not-found", "--timeout=60s")


async def test_an_edit_that_breaks_a_running_one_is_told_and_changes_nothing(
    world: World, made: Make, gateway: httpx.AsyncClient, sim_image: str
) -> None:
    good = sim_modelserving("edited", image=sim_image)
    name = await made(good, gpu=FIRST)  # where the manifest itself has it
    before = await world.engines(DEPLOYMENTS, name)
    wrong = copy.deepcopy(good)
    wrong["spec"]["models"][1]["gpuMemory"] = "80Gi"
    wrong["spec"]["engine"]["env"].append({"name": "SIM_TOKENS", "value": "3"})
    if not await is_stored(world, wrong, "gpuMemory"):
        return  # a server that knows CEL
    told = await world.until_serving(
        name,
        lambda each: condition(each, "Ready").get("reason") == "InvalidSpec",
        what="Ready=False, reason=InvalidSpec",
    )
    assert "spec.models[1].gpuMemory" in condition(told, "Ready")["message"]
    after = await world.engines(DEPLOYMENTS, name)
    assert [each["metadata"]["generation"] for each in after] == [
        each["metadata"]["generation"] for each in before
    ]
    await apply(world, good)
    await world.until_serving(
        name, lambda each: is_serving(each, "mistral"), what="mistral serves again"
    )
    assert text_of(await ask(gateway, "mistral", "good day")).startswith("mistral: good day")


async def test_an_unknown_field_never_reaches_the_operator(world: World, sim_image: str) -> None:
    """A server drops it or refuses it; in neither case is it half-applied."""
    wrong = sim_modelserving("unknown-field", image=sim_image, default_model=None)
    wrong["spec"]["defaultModle"] = "mistral"
    message = await refusal_by_server(world, wrong)
    if message:
        assert "defaultModle" in message
        return
    stored = await world.serving("unknown-field")
    assert "defaultModle" not in json.dumps(stored["spec"])
    await world.kubectl("delete", "ms", "unknown-field", "--timeout=60s")
