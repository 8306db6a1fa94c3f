"""Each invalid spec is refused with its field named, by the server and by the operator alike."""

import copy
from typing import Any

import pytest

from modelserving_api import InvalidSpecError, ModelServing
from modelserving_api.crd import custom_resource_definition
from modelserving_api.resource import NAME_LIMIT
from tests.unit.api import api_server
from tests.unit.api.specs import INVALID, MANIFEST, VALID_SPEC, Case, Refusal

ROOT_SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC_SCHEMA = ROOT_SCHEMA["properties"]["spec"]


def parse(spec: Any) -> ModelServing:
    return ModelServing.parse({**MANIFEST, "spec": spec})


def without_rules(schema: Any) -> Any:
    """The schema as a server older than CEL keeps it."""
    if isinstance(schema, list):
        return [without_rules(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_rules(value)
        for key, value in schema.items()
        if key != "x-kubernetes-validations"
    }


def cases(*refusals: Refusal) -> pytest.MarkDecorator:
    chosen = [each for each in INVALID if each.refusal in refusals]
    return pytest.mark.parametrize("case", chosen, ids=[each.id for each in chosen])


def test_a_valid_spec_is_accepted_by_server_and_operator() -> None:
    assert api_server.problems(SPEC_SCHEMA, VALID_SPEC) == []
    assert [model.name for model in parse(VALID_SPEC).spec.models] == ["mistral", "coder", "llava"]


@cases(Refusal.SCHEMA, Refusal.RULE, Refusal.OPERATOR_ALONE)
def test_the_operator_refuses_with_a_message_that_names_the_field(case: Case) -> None:
    with pytest.raises(InvalidSpecError) as refused:
        parse(case.spec())
    named = [each for each in refused.value.problems if each.startswith(case.field)]
    assert named, refused.value.problems
    assert any(case.words in each for each in named), named


@cases(Refusal.SCHEMA, Refusal.RULE, Refusal.SERVER_ALONE)
def test_a_server_that_knows_cel_refuses(case: Case) -> None:
    assert api_server.problems(SPEC_SCHEMA, case.spec())


@cases(Refusal.SCHEMA, Refusal.SERVER_ALONE)
def test_a_server_that_does_not_know_cel_refuses_by_its_schema(case: Case) -> None:
    assert api_server.problems(without_rules(SPEC_SCHEMA), case.spec())


@cases(Refusal.RULE)
def test_a_rule_is_what_refuses_where_the_schema_cannot(case: Case) -> None:
    assert api_server.problems(without_rules(SPEC_SCHEMA), case.spec()) == []


@cases(Refusal.SERVER_ALONE)
def test_what_every_server_refuses_does_not_break_the_operator(case: Case) -> None:
    parse(case.spec())


def test_a_name_that_is_too_long_for_a_label_is_refused_by_server_and_operator() -> None:
    def named(length: int) -> dict[str, Any]:
        return {**MANIFEST, "metadata": {"name": "m" * length}, "spec": VALID_SPEC}

    assert api_server.problems(ROOT_SCHEMA, named(NAME_LIMIT)) == []
    ModelServing.parse(named(NAME_LIMIT))
    assert api_server.problems(ROOT_SCHEMA, named(NAME_LIMIT + 1))
    with pytest.raises(InvalidSpecError, match=r"metadata\.name"):
        ModelServing.parse(named(NAME_LIMIT + 1))


def test_every_problem_is_told_at_once() -> None:
    spec = copy.deepcopy(VALID_SPEC)
    spec["defaultModel"] = "gemma"
    spec["models"][2]["gpuMemory"] = "25Gi"
    with pytest.raises(InvalidSpecError) as refused:
        parse(spec)
    assert [each.split(":")[0] for each in refused.value.problems] == [
        "spec.defaultModel",
        "spec.models[2].gpuMemory",
    ]
    assert "; " in str(refused.value)


def test_a_model_exactly_as_big_as_the_card_is_accepted() -> None:
    spec = copy.deepcopy(VALID_SPEC)
    spec["models"][0]["gpuMemory"] = "24576Mi"
    assert api_server.problems(SPEC_SCHEMA, spec) == []
    parse(spec)


def test_a_pin_and_the_gateways_demand_are_accepted() -> None:
    spec = copy.deepcopy(VALID_SPEC)
    spec["activeModel"] = "llava"
    spec["requests"] = [
        {
            "requester": "modelserving-gateway-5c7d-x2k4p",
            "renewTime": "2026-11-24T10:00:00.123456Z",
            "models": [{"name": "coder", "waiting": 2, "since": "2026-11-24T09:59:58Z"}],
        }
    ]
    assert api_server.problems(SPEC_SCHEMA, spec) == []
    assert parse(spec).spec.requests[0].models[0].waiting == 2
