"""The generated CRD is structural, bounded, up to date, and says what people rely on."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelserving_api.crd import HEADER, custom_resource_definition, main, structural_schema
from modelserving_api.spec import ModelServingSpec

ROOT = Path(__file__).parents[3]
CRD = custom_resource_definition()
VERSION = CRD["spec"]["versions"][0]
ROOT_SCHEMA = VERSION["schema"]["openAPIV3Schema"]

STRUCTURAL_KEYWORDS = {
    *("type", "description", "default", "enum", "format", "pattern", "required", "properties"),
    *("items", "additionalProperties", "nullable", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "maxProperties", "x-kubernetes-list-type"),
    *("x-kubernetes-list-map-keys", "x-kubernetes-validations"),
}
"""The part of apiextensions/v1 JSONSchemaProps that we use; anything else is a surprise."""


def nodes(schema: dict[str, Any], path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, schema) of a schema and of everything below it."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


ALL = list(nodes(ROOT_SCHEMA))
IN_SPEC = [(path, node) for path, node in ALL if path.startswith("$.spec")]


def test_the_walk_sees_the_deepest_fields() -> None:
    paths = {path for path, _ in ALL}
    assert "$.spec.models[].engine.env[].valueFrom.secretKeyRef.key" in paths
    assert "$.status.lastSwap.parts.probeSeconds" in paths


def test_nothing_but_structural_keywords_is_generated() -> None:
    strange = {path: set(node) - STRUCTURAL_KEYWORDS for path, node in ALL}
    assert {path: keys for path, keys in strange.items() if keys} == {}


def test_every_node_has_one_type() -> None:
    known = {"object", "array", "string", "integer", "number", "boolean"}
    assert [path for path, node in ALL if node.get("type") not in known] == []


def test_no_node_has_both_properties_and_additional_properties() -> None:
    """The API server forbids it in a structural schema."""
    assert [p for p, node in ALL if {"properties", "additionalProperties"} <= set(node)] == []


def test_every_list_says_how_it_is_merged() -> None:
    untyped = [
        path
        for path, node in ALL
        if node["type"] == "array" and not node.get("x-kubernetes-list-type")
    ]
    assert untyped == []


def test_every_list_of_named_things_is_a_map_with_required_keys() -> None:
    for path, node in ALL:
        if node["type"] != "array" or node["items"]["type"] != "object":
            continue
        if path.endswith(".tolerations"):
            continue  # A toleration has no name: core/v1 treats the list as atomic, too.
        assert node["x-kubernetes-list-type"] == "map", path
        keys = node["x-kubernetes-list-map-keys"]
        assert set(keys) <= set(node["items"]["required"]), path
        for key in keys:
            assert node["items"]["properties"][key]["type"] == "string", path


def is_bounded(node: dict[str, Any]) -> bool:
    """Whether the server can bound what a rule over this node may cost."""
    if node["type"] == "array":
        return "maxItems" in node
    if "additionalProperties" in node:
        return "maxProperties" in node
    if node["type"] == "string":
        literal = re.fullmatch(r"\^\([A-Za-z|]+\)\$", node.get("pattern", ""))
        return bool({"maxLength", "enum", "format"} & set(node)) or literal is not None
    return True


def test_everything_that_a_rule_may_walk_is_bounded() -> None:
    assert [path for path, node in IN_SPEC if not is_bounded(node)] == []


def test_every_number_of_the_spec_is_a_bounded_integer() -> None:
    for path, node in IN_SPEC:
        assert node["type"] != "number", f"{path}: no floats in spec"
        if node["type"] == "integer":
            assert {"minimum", "maximum"} <= set(node), path


def test_rules_stand_at_nodes_that_are_there_and_have_messages() -> None:
    ruled = {path: node for path, node in ALL if "x-kubernetes-validations" in node}
    assert set(ruled) == {
        "$",
        "$.spec",
        "$.spec.engine",
        "$.spec.engine.env[]",
        "$.spec.engine.resources",
        "$.spec.engine.volumes[]",
        "$.spec.models[].engine.env[]",
        "$.spec.models[].engine.resources",
        "$.spec.models[].source",
    }
    for node in ruled.values():
        assert node["type"] == "object"
        assert all(set(rule) == {"rule", "message"} for rule in node["x-kubernetes-validations"])


def test_a_pin_has_no_default() -> None:
    assert "default" not in ROOT_SCHEMA["properties"]["spec"]["properties"]["activeModel"]


def test_defaults_obey_their_own_schema() -> None:
    for path, node in ALL:
        if "default" in node and "enum" in node:
            assert node["default"] in node["enum"], path
        if "default" in node and node["type"] == "integer" and "minimum" in node:
            assert node["minimum"] <= node["default"] <= node["maximum"], path
        if "default" in node and "pattern" in node:
            assert re.search(node["pattern"], node["default"]), path


def test_it_is_namespaced_with_a_status_subresource_and_a_short_name() -> None:
    assert CRD["metadata"]["name"] == "modelservings.modelserving.dev"
    assert CRD["spec"]["scope"] == "Namespaced"
    assert CRD["spec"]["names"]["shortNames"] == ["ms"]
    assert VERSION["subresources"] == {"status": {}}


def test_kubectl_get_shows_what_people_look_for() -> None:
    columns = [
        each["name"] for each in VERSION["additionalPrinterColumns"] if "priority" not in each
    ]
    assert columns == ["Active", "Target", "Ready", "Reason", "Last swap", "Age"]


@pytest.mark.parametrize(
    "copy", ["crds/modelserving.yaml", "charts/modelserving/crds/modelserving.yaml"]
)
def test_the_committed_copy_is_what_the_generator_writes(
    copy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main()
    generated = capsys.readouterr().out
    assert generated.startswith(HEADER)
    assert (ROOT / copy).read_text() == generated, "run `make generate`"
    assert yaml.safe_load(generated) == CRD


def test_a_field_called_title_or_default_survives_the_generator() -> None:
    schema = {
        "type": "object",
        "title": "Dropped",
        "properties": {
            "title": {"type": "string", "title": "Dropped"},
            "default": {"type": "string"},
        },
    }
    assert structural_schema(schema) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "default": {"type": "string"}},
    }


def test_the_generator_does_not_change_what_it_is_given() -> None:
    schema = ModelServingSpec.model_json_schema(by_alias=True)
    structural_schema(schema)
    assert schema == ModelServingSpec.model_json_schema(by_alias=True)
