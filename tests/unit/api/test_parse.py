"""Parsing meets anything that JSON can say and answers with a resource or an InvalidSpecError."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api import InvalidSpecError, ModelServing
from modelserving_api.names import ConditionType
from modelserving_api.resource import parse_spec, parse_status
from modelserving_api.status import ModelServingStatus, ModelState
from tests.unit.api.specs import MANIFEST, VALID_SPEC

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["mistral", "24Gi", "/mnt/models/x", "2026-11-24T10:00:00Z"])
)
FIELDS = st.text(max_size=8) | st.sampled_from(
    ["node", "engine", "models", "name", "source", "gpuMemory", "hostPath", "path", "image"]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)


def paths(node: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value below a node."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node))
    found: list[tuple[str | int, ...]] = []
    for key, value in items:
        found.append((*prefix, key))
        if isinstance(value, dict | list):
            found.extend(paths(value, (*prefix, key)))
    return found


def replaced(root: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy of a JSON value with one place in it changed."""
    root = copy.deepcopy(root)
    node = root
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return root


def refusal(body: dict[str, Any]) -> InvalidSpecError | None:
    """Return why an object is refused, or None. Whatever else is raised fails the test."""
    try:
        ModelServing.parse(body)
    except InvalidSpecError as error:
        return error
    return None


@given(JSON)
def test_any_spec_is_parsed_or_refused_with_its_fields(spec: Any) -> None:
    refused = refusal({**MANIFEST, "spec": spec})
    assert refused is not None  # nobody writes a whole valid spec by chance
    assert refused.problems
    assert all(each.startswith("spec") for each in refused.problems)


@given(path=st.sampled_from(paths(VALID_SPEC)), value=JSON)
def test_any_value_at_any_place_of_a_valid_spec_is_parsed_or_refused(
    path: tuple[str | int, ...], value: Any
) -> None:
    refused = refusal({**MANIFEST, "spec": replaced(VALID_SPEC, path, value)})
    assert refused is None or refused.problems


@given(st.dictionaries(FIELDS | st.sampled_from(["metadata", "spec", "status"]), JSON, max_size=4))
def test_any_object_is_parsed_or_refused(body: dict[str, Any]) -> None:
    refused = refusal(body)
    assert refused is not None
    assert refused.problems


@given(JSON)
def test_a_status_that_nobody_of_this_version_wrote_counts_as_empty(status: Any) -> None:
    assert isinstance(parse_status(status), ModelServingStatus)


def test_an_invalid_spec_is_told_without_its_values() -> None:
    """The value of an environment variable may be a secret."""
    env = [{"name": "9LIVES", "value": "hunter2"}, {"name": "TOKEN", "value": ["hunter2"]}]
    with pytest.raises(InvalidSpecError) as refused:
        parse_spec({**VALID_SPEC, "engine": {"image": "vllm", "env": env}})
    assert len(refused.value.problems) == 2
    assert "hunter2" not in str(refused.value)


def test_metadata_is_taken_over() -> None:
    body = {**MANIFEST, "spec": VALID_SPEC}
    body["metadata"] = {
        **MANIFEST["metadata"],
        "resourceVersion": "17",
        "deletionTimestamp": "2026-11-24T10:00:00Z",
    }
    resource = ModelServing.parse(body)
    assert (resource.name, resource.namespace, resource.uid) == ("l4", "default", "u")
    assert resource.generation == 1
    assert resource.deleting


@pytest.mark.parametrize("metadata", [["l4"], "l4", {"name": 4}, {"generation": "first"}])
def test_metadata_that_no_server_would_send_is_refused(metadata: Any) -> None:
    with pytest.raises(InvalidSpecError, match="metadata"):
        ModelServing.parse({"metadata": metadata, "spec": VALID_SPEC})


def test_fields_of_a_newer_operators_status_are_read_over() -> None:
    status = parse_status(
        {
            "activeModel": "mistral",
            "sleeping": ["coder"],
            "models": [{"name": "mistral", "state": "Ready", "warmth": 3}],
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Serving",
                    "message": "",
                    "lastTransitionTime": "2026-11-24T10:00:00Z",
                }
            ],
        }
    )
    assert status.model("mistral").state is ModelState.READY
    assert status.model("coder").state is ModelState.STOPPED
    ready = status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.reason == "Serving"
    assert status.condition(ConditionType.DEGRADED) is None


def test_a_parsed_spec_never_changes() -> None:
    spec = parse_spec(VALID_SPEC)
    with pytest.raises(ValueError, match="frozen"):
        spec.active_model = "coder"  # type: ignore[misc]


def test_a_name_that_could_not_become_a_label_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"metadata\.name"):
        ModelServing.parse({"metadata": {"name": "x" * 64}, "spec": VALID_SPEC})
