"""Where a request goes, and how a catalog is read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway import surface
from modelserving_gateway.catalog import Catalog, read_serving
from modelserving_gateway.errors import ApiError
from modelserving_gateway.routing import Decision, Forward, Hold, Refuse, Target, decide
from tests.unit.gateway.fakes import serving

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
URL = "http://10.0.0.1:8000"


def failed(model: str, seconds: float | None) -> dict[str, Any]:
    retry = {} if seconds is None else {"nextRetryTime": (NOW + timedelta(0, seconds)).isoformat()}
    return {"models": [{"name": model, "state": "Failed", "reason": "CrashLoop", **retry}]}


def catalog(*servings: dict[str, Any]) -> Catalog:
    return Catalog.of(read_serving(body) for body in servings)


def deleting(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "deletionTimestamp": "2026-11-24T11:00:00Z"}}


def served(*names: str) -> Forward:
    return Forward(tuple(Target(URL, name, 92) for name in names))


X: dict[str, list[str]] = {"x": []}
CASES: dict[str, tuple[list[dict[str, Any]], Decision | str]] = {
    "not declared": ([serving("a", {"y": []})], "model_not_found"),
    "no ModelServing at all": ([], "model_not_found"),
    "active": ([serving("a", X, active="x", endpoint=URL)], served("a")),
    "active without endpoint": ([serving("a", X, active="x")], Hold("a")),
    "endpoint without active": ([serving("a", X, endpoint=URL)], Hold("a")),
    "endpoint is no URL": ([serving("a", X, active="x", endpoint="10.0.0.1:8000")], Hold("a")),
    "endpoint with a bad port": ([serving("a", X, active="x", endpoint="http://h:x")], Hold("a")),
    "another is active": (
        [serving("a", {"x": [], "y": []}, active="y", endpoint=URL)],
        Hold("a"),
    ),
    "active in the second": (
        [serving("a", X), serving("b", X, active="x", endpoint=URL)],
        served("b"),
    ),
    "active nowhere": ([serving("b", X), serving("a", X)], Hold("a")),
    "target of the second": (
        [serving("a", X), serving("b", X, status={"targetModel": "x"})],
        Hold("b"),
    ),
    "failed in the first": (
        [serving("a", X, status=failed("x", 60)), serving("b", X)],
        Hold("b"),
    ),
    "failed": ([serving("a", X, status=failed("x", 60))], "model_load_failed"),
    "failed everywhere": (
        [serving("a", X, status=failed("x", 60)), serving("b", X, status=failed("x", 9))],
        "model_load_failed",
    ),
    "failed, retry due": ([serving("a", X, status=failed("x", -1))], Hold("a")),
    "failed, retry not known": ([serving("a", X, status=failed("x", None))], Hold("a")),
    "pinned": ([serving("a", X, spec={"activeModel": "x"})], Hold("a")),
    "another is pinned": (
        [serving("a", {"x": [], "y": []}, spec={"activeModel": "y"})],
        "model_pinned",
    ),
    "another is pinned, still served": (
        [serving("a", {"x": [], "y": []}, active="x", endpoint=URL, spec={"activeModel": "y"})],
        served("a"),
    ),
    "another is pinned in the first": (
        [serving("a", {"x": [], "y": []}, spec={"activeModel": "y"}), serving("b", X)],
        Hold("b"),
    ),
    "being deleted": ([deleting(serving("a", X))], "model_serving_deleted"),
    "invalid spec": ([serving("a", X, spec={"node": {}})], "model_serving_invalid"),
    "invalid by its own rules": (
        [serving("a", X, spec={"defaultModel": "z"})],
        "model_serving_invalid",
    ),
    "invalid spec, still served": (
        [serving("a", X, active="x", endpoint=URL, spec={"node": {}})],
        served("a"),
    ),
    "refused by the operator": (
        [
            serving(
                "a",
                X,
                status={
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": "False",
                            "reason": "InvalidSpec",
                            "message": "spec.models: too big",
                            "lastTransitionTime": "2026-11-24T11:00:00Z",
                        }
                    ]
                },
            )
        ],
        "model_serving_invalid",
    ),
}


@pytest.mark.parametrize(("servings", "expected"), CASES.values(), ids=CASES)
def test_a_request_is_forwarded_held_or_refused(
    servings: list[dict[str, Any]], expected: Decision | str
) -> None:
    decision = decide(catalog(*servings), "x", NOW)
    if isinstance(decision, Refuse):
        assert decision.error.code == expected
        assert decision.error.status == (404 if expected == "model_not_found" else 503)
    else:
        assert decision == expected


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (12.3, b"13"), (3600, b"60")])
def test_retry_after_is_a_whole_number_of_seconds_up_to_sixty(
    seconds: float, header: bytes
) -> None:
    decision = decide(catalog(serving("a", X, status=failed("x", seconds))), "x", NOW)
    assert isinstance(decision, Refuse)
    assert dict(decision.error.headers())[b"retry-after"] == header


def test_a_name_goes_before_an_alias_and_the_first_modelserving_decides_an_alias() -> None:
    both = catalog(
        serving("b", {"small": ["gpt", "big"]}), serving("a", {"big": [], "tiny": ["gpt"]})
    )
    assert both.model_called("big") == "big"
    assert both.model_called("gpt") == "tiny"
    assert both.model_called("Gpt") is None
    assert "big" not in both.aliases()


def test_a_catalog_is_the_same_however_it_came_about() -> None:
    a, b = (read_serving(serving(name, X)) for name in "ab")
    assert Catalog.of([a, b]) == Catalog().replacing(b).replacing(a)
    assert Catalog.of([a, b]).without("b") == Catalog.of([a])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "models", "aliases", "requests", "requester", "spec", "status"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
STATUS_KEYS = ["activeModel", "endpoint", "models", "lastSwap", "conditions", "targetModel"]


@given(
    st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), JSON)
    | st.fixed_dictionaries(
        {"status": st.dictionaries(st.sampled_from(STATUS_KEYS), JSON, max_size=4)}
    )
)
def test_whatever_the_api_holds_is_read_without_an_exception(body: dict[str, Any]) -> None:
    read = Catalog.of([read_serving(body)])
    for model in read.models():
        decide(read, model, NOW)


@given(
    st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True),
    st.dictionaries(st.sampled_from(["node", "engine", "swap", "defaultModel"]), JSON, min_size=1),
)
def test_a_declared_name_is_never_404_whatever_else_is_wrong(
    names: list[str], broken: dict[str, Any]
) -> None:
    read = catalog(serving("a", {name: [] for name in names}, spec=broken))
    for name in names:
        decision = decide(read, name, NOW)
        assert not isinstance(decision, Refuse) or decision.error.status == 503


@given(st.sampled_from(["GET", "POST", "PUT"]), st.text(max_size=30))
def test_only_the_allowlist_is_forwarded(method: str, path: str) -> None:
    try:
        found = surface.route(method, "/" + path)
    except ApiError:
        return
    assert not isinstance(found, surface.Forwarded) or path.removeprefix("v1/") in (
        "chat/completions",
        "completions",
        "embeddings",
    )
