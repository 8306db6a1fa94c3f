"""What demand is, when it is worth a write, and what is written."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api import ModelServingSpec
from modelserving_api.priority import Priority
from modelserving_gateway.cluster.catalog import Catalog, read_serving
from modelserving_gateway.cluster.demand import (
    Demand,
    entry_to_apply,
    removal_patch,
    seconds_until_write,
)
from modelserving_gateway.turns.queueing import Waiting
from modelserving_gateway.turns.wanted import demand_by_serving
from tests.unit.gateway.fakes import serving

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def waiting(**counts: int) -> dict[str, Waiting]:
    return {model: Waiting(count, 10, NOW) for model, count in counts.items()}


def test_the_entry_tells_the_most_urgent_class() -> None:
    wanted = {"a": Demand(2, NOW, Priority.LOW)}
    body = entry_to_apply(
        serving="l4", uid="u", requester="gateway-0", wanted=wanted, renew_time=NOW
    )
    spec = serving("l4", {"a": []})["spec"] | body["spec"]
    assert ModelServingSpec.model_validate(spec).requests[0].models[0].priority is Priority.LOW


def demands(**counts: int) -> dict[str, Demand]:
    return {model: Demand(count, NOW) for model, count in counts.items()}


def catalog(*servings: dict[str, Any]) -> Catalog:
    return Catalog.of(read_serving(body) for body in servings)


@pytest.mark.parametrize(
    ("published", "wanted", "age", "expected"),
    [
        pytest.param({}, {}, 99, None, id="nothing to tell"),
        pytest.param({}, {"a": 1}, 99, 0, id="appears: at once"),
        pytest.param({"a": 1}, {}, 99, 0, id="ends: at once"),
        pytest.param({"a": 1}, {"a": 1, "b": 1}, 99, 0, id="another model: at once"),
        pytest.param({"a": 1}, {"b": 1}, 99, 0, id="other model: at once"),
        pytest.param({}, {"a": 1}, 0.03, 0.07, id="appears right after a write: not ten a second"),
        pytest.param({"a": 1}, {}, 0.03, 0.07, id="ends right after a write"),
        pytest.param({"a": 1}, {"a": 1}, 4, 6, id="unchanged: renewed"),
        pytest.param({"a": 1}, {"a": 1}, 10, 0, id="renewal due"),
        pytest.param({"a": 1}, {"a": 1}, 500, 0, id="renewal overdue"),
        pytest.param({"a": 10}, {"a": 19}, 4, 6, id="a few more: with the renewal"),
        pytest.param({"a": 10}, {"a": 20}, 4, 0, id="doubled"),
        pytest.param({"a": 10}, {"a": 20}, 0.4, 0.6, id="doubled right after a write"),
        pytest.param({"a": 10}, {"a": 5}, 4, 0, id="halved"),
        pytest.param({"a": 10}, {"a": 6}, 4, 6, id="a few fewer"),
        pytest.param({"a": 10, "b": 1}, {"a": 10, "b": 2}, 4, 0, id="one of two doubled"),
    ],
)
def test_demand_is_written_when_it_appears_changes_much_ends_or_must_be_renewed(
    published: dict[str, int], wanted: dict[str, int], age: float, expected: float | None
) -> None:
    seconds = seconds_until_write(demands(**published), demands(**wanted), age, renew=10)
    assert seconds == (None if expected is None else pytest.approx(expected))


def test_another_class_is_told_at_once() -> None:
    published = {"a": Demand(2, NOW), "b": Demand(1, NOW)}
    wanted = {"a": Demand(2, NOW, Priority.HIGH), "b": Demand(1, NOW)}
    assert seconds_until_write(published, wanted, 4, renew=10) == 0
    assert seconds_until_write(published, wanted, 0.04, renew=10) == pytest.approx(0.06)


COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(1, 1000), max_size=3)


@given(COUNTS, COUNTS, st.floats(0, 100))
def test_demand_never_goes_unrenewed_and_never_floods_the_api(
    published: dict[str, int], wanted: dict[str, int], age: float
) -> None:
    seconds = seconds_until_write(demands(**published), demands(**wanted), age, renew=10)
    if seconds is None:
        assert not published
        assert not wanted
        return
    assert age + seconds >= 0.1 - 1e-9
    assert seconds <= max(0.0, 10 - age)


def test_demand_goes_to_the_modelserving_that_will_serve_it() -> None:
    both = catalog(serving("a", {"x": [], "y": []}), serving("b", {"y": [], "z": []}))
    assert demand_by_serving(waiting(x=1, y=2, z=3), both, NOW) == {
        "a": demands(x=1, y=2),
        "b": demands(z=3),
    }


def test_demand_for_what_nothing_will_serve_is_none() -> None:
    pinned = catalog(serving("a", {"x": [], "y": []}, spec={"activeModel": "y"}))
    assert demand_by_serving(waiting(x=1, gone=1), pinned, NOW) == {}


def test_what_waits_for_the_operator_to_look_at_a_repaired_spec_is_no_demand() -> None:
    failed = {"models": [{"name": "x", "state": "Failed", "failures": 1}], "observedGeneration": 1}
    body = serving("a", {"x": []}, status=failed)
    repaired = catalog({**body, "metadata": {**body["metadata"], "generation": 2}})
    assert demand_by_serving(waiting(x=1), repaired, NOW) == {}


def test_a_request_that_waits_for_a_lost_engine_keeps_its_model_wanted() -> None:
    served = catalog(serving("a", {"x": []}, active="x", endpoint="http://10.0.0.1:8000"))
    assert demand_by_serving(waiting(x=1), served, NOW) == {"a": demands(x=1)}


def test_the_entry_is_what_the_contract_asks_for_and_only_our_own() -> None:
    body = entry_to_apply(
        serving="l4", uid="u", requester="gateway-0", wanted=demands(b=2, a=1), renew_time=NOW
    )
    assert body["metadata"] == {"name": "l4", "uid": "u"}
    assert body["spec"].keys() == {"requests"}
    spec = serving("l4", {"a": [], "b": []})["spec"] | body["spec"]
    (entry,) = ModelServingSpec.model_validate(spec).requests
    assert entry.requester == "gateway-0"
    assert entry.renew_time == NOW
    assert [(model.name, model.waiting, model.since) for model in entry.models] == [
        ("a", 1, NOW),
        ("b", 2, NOW),
    ]


def test_renewals_differ_even_within_a_second() -> None:
    first, second = (
        entry_to_apply(serving="l4", uid="u", requester="g", wanted=demands(a=1), renew_time=moment)
        for moment in (NOW, NOW + timedelta(microseconds=1))
    )
    assert first != second


def test_withdrawal_removes_our_entry_wherever_it_stands_and_no_other() -> None:
    body = {"spec": {"requests": [{"requester": "a"}, {"requester": "b"}]}}
    assert removal_patch(body, "u", "b") == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/spec/requests/1/requester", "value": "b"},
        {"op": "remove", "path": "/spec/requests/1"},
    ]
    assert removal_patch(body, "u", "c") is None
    assert removal_patch({}, "u", "a") is None
