"""The checks of the chaos suite find what they are for."""

from typing import Any

import pytest

from modelserving_api.names import MODEL_LABEL, SERVING_LABEL
from tests.chaos import checks
from tests.chaos.clients import Attempt, Outcome, expected

Object = dict[str, Any]


def object_(name: str, *, owner: str = "", model: str = "coder", **spec: Any) -> Object:
    """An object of the ModelServing east, whose uid is its name."""
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {SERVING_LABEL: "east", MODEL_LABEL: model},
            "ownerReferences": [{"uid": owner}] if owner else [],
        },
        "spec": spec,
    }


EAST = object_(
    "east", models=[{"name": "coder"}, {"name": "mistral"}], requests=[{"requester": "gateway-a"}]
)


def kinds(**objects: list[Object]) -> dict[str, list[Object]]:
    """All is well, but for what is given."""
    return {
        "Deployment": [object_("deployment", owner="east", replicas=1)],
        "Service": [object_("service", owner="east")],
        "ReplicaSet": [object_("set", owner="deployment")],
        "Pod": [object_("pod", owner="set")],
        **objects,
    }


def test_nothing_is_orphaned_when_every_owner_is_there() -> None:
    assert checks.orphans([EAST], kinds()) == []


@pytest.mark.parametrize(
    ("kind", "orphan"),
    [
        ("Deployment", object_("lost", owner="a former east")),
        ("Deployment", object_("lost", owner="east", model="renamed")),
        ("Service", object_("lost")),
        ("ReplicaSet", object_("lost", owner="a former deployment")),
        ("Pod", object_("lost", owner="a former set")),
    ],
)
def test_what_has_no_owner_or_no_model_is_an_orphan(kind: str, orphan: Object) -> None:
    (found,) = checks.orphans([EAST], kinds(**{kind: [*kinds()[kind], orphan]}))
    assert found.startswith(f"{kind} lost")


def test_what_is_being_deleted_is_no_orphan() -> None:
    going = object_("going", owner="a former set")
    going["metadata"]["deletionTimestamp"] = "2026-11-24T16:14:00Z"
    assert checks.orphans([EAST], kinds(Pod=[going])) == []


def test_everything_of_a_modelserving_that_is_gone_is_an_orphan() -> None:
    assert len(checks.orphans([], kinds())) == 4


@pytest.mark.parametrize(
    ("replicas", "wrong"), [((0, 0), 0), ((1, 0), 0), ((1, 1), 1), ((2, 0), 1)]
)
def test_two_deployments_scaled_up_are_found(replicas: tuple[int, int], wrong: int) -> None:
    deployments = [object_(f"d{i}", replicas=count) for i, count in enumerate(replicas)]
    assert len(checks.scaled_up_twice(deployments)) == wrong


def test_demand_of_a_gateway_that_is_gone_is_stale() -> None:
    assert checks.stale_demand([EAST], ["gateway-a"]) == []
    assert len(checks.stale_demand([EAST], ["gateway-b"])) == 1


@pytest.mark.parametrize(("killed", "wrong"), [(0, 1), (1, 0), (2, 1)])
def test_a_restart_without_a_kill_and_a_kill_without_a_restart_are_found(
    killed: int, wrong: int
) -> None:
    pod = object_("operator")
    pod["status"] = {"containerStatuses": [{"restartCount": 1}]}
    assert len(checks.restarts([pod], {"operator": killed})) == wrong
    pod["metadata"]["deletionTimestamp"] = "2026-11-24T16:14:00Z"
    assert checks.restarts([pod], {"operator": killed}) == []


def attempt(outcome: Outcome, gateway: str = "", detail: str = "") -> Attempt:
    return Attempt("a client", gateway, "coder", 0.0, 1.0, outcome, detail)


@pytest.mark.parametrize(
    ("outcome", "gateway", "killed", "excused"),
    [
        (Outcome.ANSWERED, "a", [], True),
        (Outcome.ERROR, "a", [], True),
        (Outcome.ERROR_EVENT, "a", [], True),
        # Only the killed gateway's own requests are lost with it, and those of the Service.
        (Outcome.CUT, "a", ["a"], True),
        (Outcome.CUT, "b", ["a"], False),
        (Outcome.CUT, "", ["a"], True),
        (Outcome.CUT, "", [], False),
        (Outcome.LOST, "b", ["a"], False),
        (Outcome.LOST, "", [], False),
        (Outcome.REFUSED, "a", ["a"], True),
        (Outcome.REFUSED, "b", ["a"], False),
        (Outcome.REFUSED, "", [], True),
        # Nothing excuses these.
        (Outcome.FINAL, "a", ["a"], False),
        (Outcome.WRONG, "a", ["a"], False),
        (Outcome.SILENT, "a", ["a"], False),
    ],
)
def test_a_connection_that_failed_is_excused_by_the_kill_of_its_gateway_only(
    outcome: Outcome, gateway: str, killed: list[str], excused: bool
) -> None:
    assert (checks.unexcused([attempt(outcome, gateway)], killed) == []) is excused


def test_cuts_and_errors_are_counted_by_what_they_are() -> None:
    cuts, errors = checks.counted(
        [
            attempt(Outcome.ANSWERED),
            attempt(Outcome.CUT),
            attempt(Outcome.ERROR, detail="503 engine_lost: it is gone"),
            attempt(Outcome.ERROR, detail="503 engine_lost: so is this"),
        ]
    )
    assert cuts == {"connection lost amid the answer": 1}
    assert errors == {"503 engine_lost": 2}


def test_the_right_answer_has_as_many_words_as_tokens() -> None:
    assert expected("coder", "hello", 4) == "coder: hello w0 w1"
