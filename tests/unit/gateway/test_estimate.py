"""How long a model that is waited for is expected to take."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelserving_gateway.cluster.catalog import Catalog, Serving, read_serving
from modelserving_gateway.turns.estimate import progress, retry_after_seconds, seconds_until_served
from tests.unit.gateway.fakes import serving

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
XY: dict[str, list[str]] = {"x": [], "y": []}


def seen(**status: Any) -> Serving:
    return read_serving(serving("a", XY, status=status))


def swap(to: str | None, age: float, phase: str = "Loading") -> dict[str, Any]:
    started = (NOW - timedelta(seconds=age)).isoformat()
    return {
        "id": "1",
        "to": to,
        "reason": "Demand",
        "message": "",
        "phase": phase,
        "startedTime": started,
    }


MEASURED = {
    "models": [
        {"name": "x", "state": "Stopped", "loadSeconds": 20.0},
        {"name": "y", "state": "Ready", "loadSeconds": 15.0},
    ],
    "lastSwap": {
        "id": "0",
        "reason": "Demand",
        "message": "",
        "outcome": "Succeeded",
        "startedTime": NOW.isoformat(),
        "finishedTime": NOW.isoformat(),
        "seconds": 30,
        "parts": {"drainSeconds": 1.0, "stopSeconds": 4.0},
    },
}

CASES: dict[str, tuple[dict[str, Any], float, str]] = {
    "nothing is measured, nothing to stop": ({}, 30, "Waiting"),
    "nothing is measured": ({"activeModel": "y"}, 40, "Waiting"),
    "measured": ({"activeModel": "y", **MEASURED}, 25, "Waiting"),
    "on its way": ({"currentSwap": swap("x", 10), **MEASURED}, 15, "Loading"),
    "slower than ever": ({"currentSwap": swap("x", 500), **MEASURED}, 1, "Loading"),
    "being drained for": ({"currentSwap": swap("x", 0, "Draining"), **MEASURED}, 25, "Draining"),
    "after another": ({"currentSwap": swap("y", 10), **MEASURED}, 35, "Queued"),
    "while the GPU is freed": ({"currentSwap": swap(None, 3), **MEASURED}, 27, "Queued"),
}


@pytest.mark.parametrize(("status", "seconds", "state"), CASES.values(), ids=CASES)
def test_a_wait_is_estimated_from_what_swaps_have_cost_here(
    status: dict[str, Any], seconds: float, state: str
) -> None:
    assert seconds_until_served(seen(**status), "x", NOW) == seconds
    assert progress([seen(**status)], "x", NOW) == (state, seconds)


def test_a_client_is_told_to_come_back_when_the_first_place_is_ready() -> None:
    catalog = Catalog.of(
        read_serving(serving(name, XY, status=status))
        for name, status in (
            ("slow", {"activeModel": "y", **MEASURED}),
            ("soon", {"currentSwap": swap("x", 18), **MEASURED}),
        )
    )
    assert retry_after_seconds(catalog, "x", NOW) == 7
    assert retry_after_seconds(catalog, "gone", NOW) == 30
