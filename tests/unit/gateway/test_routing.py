"""Where a request goes, and how a catalog is read."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api import surface
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.cluster.catalog import Catalog, read_serving
from modelserving_gateway.turns.routing import Decision, Forward, Hold, Refuse, Target, decide
from tests.unit.gateway.fakes import serving

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
URL = "http://10.0.0.1:8000"


def failed(model: str, seconds: float | None) -> dict[str, Any]:
    retry = {} if seconds is None else {"nextRetryTime": (NOW + timedelta(0, seconds)).isoformat()}
    return {"models": [{"name": model, "state": "Failed", "reason": "CrashLoop", **retry}]}


def failed_for_good(model: str) -> dict[str, Any]:
    return {"models": [{**failed(model, None)["models"][0], "failures": 1}]}


def repaired(body: dict[str, Any]) -> dict[str, Any]:
    """Return the ModelServing with a spec that is newer than what the status tells of."""
    status = {"observedGeneration": 1, **body["status"]}
    return {**body, "metadata": {**body["metadata"], "generation": 2}, "status": status}


def not_ready(reason: str) -> dict[str, Any]:
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": reason,
        "message": "spec.models: too big",
        "lastTransitionTime": "2026-11-24T11:00:00Z",
    }
    return {"conditions": [condition]}


def catalog(*servings: dict[str, Any]) -> Catalog:
    return Catalog.of(read_serving(body) for body in servings)


def deleting(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "deletionTimestamp": "2026-11-24T11:00:00Z"}}


def served(*names: str) -> Forward:
    return Forward(tuple(Target(URL, name, 92) for name in names))


X: dict[str, list[str]] = {"x": []}
XY: dict[str, list[str]] = {"x": [], "y": []}
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
    "failed for good": ([serving("a", X, status=failed_for_good("x"))], "model_load_failed"),
    "failed for good in the first": (
        [serving("a", X, status=failed_for_good("x")), serving("b", X)],
        Hold("b"),
    ),
    "failed for good, and repaired since": (
        [repaired(serving("a", X, status=failed_for_good("x")))],
        Hold(None),
    ),
    "failed for good, and not repaired by the change": (
        [repaired(serving("a", X, status={**failed_for_good("x"), "observedGeneration": 2}))],
        "model_load_failed",
    ),
    "failed for good in the first, repaired in the second": (
        [
            serving("a", X, status=failed_for_good("x")),
            repaired(serving("b", X, status=failed_for_good("x"))),
        ],
        Hold(None),
    ),
    "repaired in the first, stopped in the second": (
        [repaired(serving("a", X, status=failed_for_good("x"))), serving("b", X)],
        Hold("b"),
    ),
    "repaired, and another is pinned": (
        [repaired(serving("a", XY, status=failed_for_good("x"), spec={"activeModel": "y"}))],
        "model_pinned",
    ),
    "failed, its retry is told though the spec has changed": (
        [repaired(serving("a", X, status=failed("x", 60)))],
        "model_load_failed",
    ),
    "refused, never tried": ([serving("a", X, status=failed("x", None))], Hold("a")),
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
    "stuck on its way to the model": (
        [
            serving("a", X, status={"targetModel": "x", **not_ready("PodStuckTerminating")}),
            serving("b", X),
        ],
        Hold("b"),
    ),
    "stuck everywhere": ([serving("a", X, status=not_ready("NodeNotReady"))], Hold("a")),
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
        [serving("a", X, status=not_ready("InvalidSpec"))],
        "model_serving_invalid",
    ),
    "refused by the operator, and repaired since": (
        [repaired(serving("a", X, status=not_ready("InvalidSpec")))],
        Hold(None),
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


PINNED = {"activeModel": "y"}
SEVERAL: dict[str, tuple[list[dict[str, Any]], str, bytes | None]] = {
    "a retry before a failure for good": (
        [serving("a", X, status=failed_for_good("x")), serving("b", X, status=failed("x", 8))],
        "model_load_failed",
        b"8",
    ),
    "the earlier of two retries": (
        [serving("a", X, status=failed("x", 50)), serving("b", X, status=failed("x", 9))],
        "model_load_failed",
        b"9",
    ),
    "a retry, however late, before a pin": (
        [serving("a", XY, spec=PINNED), serving("b", X, status=failed("x", 300))],
        "model_load_failed",
        b"60",
    ),
    "a pin before a failure for good": (
        [serving("a", X, status=failed_for_good("x")), serving("b", XY, spec=PINNED)],
        "model_pinned",
        b"60",
    ),
    "an invalid spec before a deletion": (
        [deleting(serving("a", X)), serving("b", X, spec={"node": {}})],
        "model_serving_invalid",
        b"60",
    ),
    "a deletion before a failure for good": (
        [serving("a", X, status=failed_for_good("x")), deleting(serving("b", X))],
        "model_serving_deleted",
        None,
    ),
}


@pytest.mark.parametrize(("servings", "code", "retry_after"), SEVERAL.values(), ids=SEVERAL)
def test_of_several_problems_the_one_that_ends_soonest_is_told(
    servings: list[dict[str, Any]], code: str, retry_after: bytes | None
) -> None:
    decision = decide(catalog(*servings), "x", NOW)
    assert isinstance(decision, Refuse)
    headers = dict(decision.error.headers())
    assert (decision.error.code, headers.get(b"retry-after")) == (code, retry_after)
    assert b"x-should-retry" not in headers


def test_trying_again_is_pointless_only_where_every_modelserving_has_failed_for_good() -> None:
    both = catalog(*(serving(name, X, status=failed_for_good("x")) for name in "ab"))
    decision = decide(both, "x", NOW)
    assert isinstance(decision, Refuse)
    assert (b"x-should-retry", b"false") in decision.error.headers()


def wanted(body: dict[str, Any], *demands: tuple[str, str, int]) -> dict[str, Any]:
    """Return the ModelServing with demand in it: (requester, model, age in seconds)."""
    entries = [
        {
            "requester": requester,
            "renewTime": NOW.isoformat(),
            "models": [
                {"name": model, "waiting": 1, "since": (NOW - timedelta(seconds=age)).isoformat()}
            ],
        }
        for requester, model, age in demands
    ]
    return {**body, "spec": {**body["spec"], "requests": entries}}


def loads_in(seconds: float) -> dict[str, Any]:
    return {"models": [{"name": "x", "state": "Stopped", "loadSeconds": seconds}]}


OTHER_URL = "http://10.0.0.2:8000"
PLACES: dict[str, tuple[list[dict[str, Any]], dict[str, int], str]] = {
    "a free GPU before an idle model": (
        [serving("a", XY, active="y", endpoint=URL), serving("b", XY)],
        {},
        "b",
    ),
    "an idle model before a busy one": (
        [
            serving("a", XY, active="y", endpoint=URL),
            serving("b", XY, active="y", endpoint=OTHER_URL),
        ],
        {URL: 1},
        "b",
    ),
    "a busy model where others want theirs too": (
        [
            wanted(serving("a", XY, active="y", endpoint=URL), ("g", "y", 1)),
            serving("b", XY, active="y", endpoint=OTHER_URL),
        ],
        {},
        "b",
    ),
    "not where another model is on its way": (
        [serving("a", XY, status={"targetModel": "y"}), serving("b", XY, active="y", endpoint=URL)],
        {URL: 5},
        "a",
    ),
    "an idle model before another that is on its way": (
        [serving("a", XY, status={"targetModel": "y"}), serving("b", XY, active="y", endpoint=URL)],
        {},
        "b",
    ),
    "where it loads fastest": (
        [serving("a", X, status=loads_in(20)), serving("b", X, status=loads_in(9))],
        {},
        "b",
    ),
    "not measured counts as half a minute": (
        [serving("a", X, status=loads_in(31)), serving("b", X)],
        {},
        "b",
    ),
    "a free GPU that loads slowly before a busy one that loads fast": (
        [
            serving("a", XY, active="y", endpoint=URL, status=loads_in(9)),
            serving("b", X, status=loads_in(90)),
        ],
        {URL: 3},
        "b",
    ),
    "where a gateway wants it already": (
        [
            serving("a", XY),
            wanted(serving("b", XY, active="y", endpoint=URL), ("g", "x", 1)),
        ],
        {URL: 3},
        "b",
    ),
    "where gateways have wanted it the longest": (
        [wanted(serving("a", X), ("g", "x", 1)), wanted(serving("b", X), ("h", "x", 2))],
        {},
        "b",
    ),
    "not where it is wanted but nothing can be swapped": (
        [
            wanted(serving("a", X, status=not_ready("ServingNodeNotReady")), ("g", "x", 1)),
            serving("b", XY, active="y", endpoint=URL),
        ],
        {URL: 3},
        "b",
    ),
    "not where it is wanted but has failed": (
        [
            wanted(serving("a", X, status=failed("x", 60)), ("g", "x", 1)),
            serving("b", X, active="y", endpoint=URL),
        ],
        {URL: 3},
        "b",
    ),
}


@pytest.mark.parametrize(("servings", "in_flight", "expected"), PLACES.values(), ids=PLACES)
def test_a_model_that_is_active_nowhere_is_wanted_where_a_swap_costs_least(
    servings: list[dict[str, Any]], in_flight: dict[str, int], expected: str
) -> None:
    assert decide(catalog(*servings), "x", NOW, in_flight) == Hold(expected)


LOADS = st.dictionaries(st.sampled_from([URL, OTHER_URL]), st.integers(0, 9))


@given(LOADS, LOADS, st.sampled_from(["a", "b"]), st.integers(0, 9), st.integers(0, 9))
def test_gateways_that_see_each_others_demand_agree_whatever_runs_through_each(
    one: dict[str, int], other: dict[str, int], where: str, age: int, other_age: int
) -> None:
    """Both have published, maybe at different places; from then on they choose the same."""
    elsewhere = "b" if where == "a" else "a"
    bodies = {
        "a": serving("a", XY, active="y", endpoint=URL),
        "b": serving("b", XY, active="y", endpoint=OTHER_URL),
    }
    bodies[where] = wanted(bodies[where], ("g", "x", age))
    bodies[elsewhere] = wanted(bodies[elsewhere], ("h", "x", other_age))
    seen = catalog(*bodies.values())
    if age != other_age:
        assert decide(seen, "x", NOW, one) == decide(seen, "x", NOW, other)


def test_a_request_may_go_to_every_place_that_serves_its_model() -> None:
    both = catalog(
        serving("a", X, active="x", endpoint=URL), serving("b", X, active="x", endpoint=URL)
    )
    assert decide(both, "x", NOW) == served("a", "b")


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
