"""How much an engine may have, and when one that cannot be reached is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.turns.engines import Engines

URL = "http://10.0.0.1:8000"


def test_an_engine_has_room_until_so_many_requests_run() -> None:
    engines = Engines(max_in_flight=2)
    assert (engines.room(URL, 0), engines.full(URL)) == (2, False)
    engines.begin(URL)
    engines.begin(URL)
    assert (engines.room(URL, 0), engines.full(URL)) == (0, True)
    engines.end(URL)
    assert (engines.room(URL, 0), engines.in_flight(URL)) == (1, 1)


def test_an_engine_that_cannot_be_reached_is_tried_after_growing_pauses() -> None:
    engines = Engines(max_in_flight=9)
    now, pauses = 0.0, []
    for _ in range(8):
        engines.begin(URL)
        again = engines.not_reached(URL, now)
        engines.end(URL)
        assert engines.room(URL, again - 0.01) == 0
        assert engines.room(URL, again) == 9
        pauses.append(again - now)
        now = again
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 5]


def test_requests_that_fail_together_are_one_failure() -> None:
    engines = Engines(max_in_flight=9)
    for _ in range(5):
        engines.begin(URL)
    assert [engines.not_reached(URL, 0.01 * number) for number in range(5)] == [0.25] * 5


def test_an_engine_that_cannot_be_reached_is_not_full() -> None:
    engines = Engines(max_in_flight=1)
    engines.begin(URL)
    engines.not_reached(URL, 0)
    assert not engines.full(URL)


@pytest.mark.parametrize("appeared", [True, False])
def test_an_answer_or_a_new_engine_at_its_address_ends_the_pause(appeared: bool) -> None:
    engines = Engines(max_in_flight=9)
    engines.begin(URL)
    engines.not_reached(URL, 0)
    if appeared:
        engines.appeared([URL, "http://10.0.0.9:8000"])
    else:
        assert engines.heard_of(URL)
        assert not engines.heard_of(URL)
    assert engines.room(URL, 0) == 8


@given(st.lists(st.sampled_from(["begin", "end"]), max_size=30))
def test_an_engine_is_forgotten_only_when_nothing_runs_on_it(steps: list[str]) -> None:
    engines, running = Engines(max_in_flight=5), 0
    for step in steps:
        if step == "begin":
            engines.begin(URL)
            running += 1
        elif running:
            engines.end(URL)
            running -= 1
        engines.retain(frozenset())
        assert engines.in_flight(URL) == running
        assert (URL in engines.by_endpoint()) == (running > 0)
