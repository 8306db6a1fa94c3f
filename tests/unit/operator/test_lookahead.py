"""When the first of several swaps must begin, and that no other order could begin later."""

import itertools
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.status import SwapCost
from modelserving_operator.costs import Costs
from modelserving_operator.lookahead import (
    HANDOVER_SECONDS,
    Visit,
    latest_start,
    missed,
    round_seconds,
)
from tests.unit.operator.world import START

MODELS = ("a", "b", "c", "d")


def equal(seconds: float) -> Costs:
    return Costs(
        {
            (leaving, target): SwapCost(
                from_model=leaving, to_model=target, seconds=seconds, deviation_seconds=0
            )
            for leaving, target in itertools.permutations(MODELS, 2)
        }
    )


def visit(model: str, seconds: float) -> Visit:
    return Visit(model, START + timedelta(seconds=seconds))


def five_seconds(_: str) -> float:
    return 5.0


def test_one_swap_must_begin_its_cost_before_the_deadline() -> None:
    start = latest_start("a", [visit("b", 100)], equal(9), five_seconds)

    assert start == START + timedelta(seconds=100 - 9 - HANDOVER_SECONDS)


def test_a_second_deadline_can_be_what_the_first_swap_must_hurry_for() -> None:
    start = latest_start("a", [visit("b", 100), visit("c", 101)], equal(9), five_seconds)

    assert start == START + timedelta(seconds=101 - 2 * (9 + HANDOVER_SECONDS) - 5)


def test_what_begins_at_the_last_moment_misses_nothing_and_later_does() -> None:
    round_ = [visit("b", 100), visit("c", 101)]
    start = latest_start("a", round_, equal(9), five_seconds)

    assert missed("a", round_, equal(9), five_seconds, start) == {}
    late = missed("a", round_, equal(9), five_seconds, start + timedelta(seconds=3))
    assert late == {"c": 3}


def test_a_round_comes_back_to_its_first_model() -> None:
    assert round_seconds(["a", "b", "c"], equal(9), five_seconds) == 3 * (9 + HANDOVER_SECONDS + 5)


@given(
    st.lists(st.floats(0, 300), min_size=1, max_size=3),
    st.floats(0.1, 60),
    st.floats(0, 60),
)
def test_no_order_could_begin_later_than_the_earliest_deadline_first(
    deadlines: list[float], cost: float, turn: float
) -> None:
    round_ = [visit(model, each) for model, each in zip("bcd", sorted(deadlines), strict=False)]
    best = latest_start("a", round_, equal(cost), lambda _: turn)

    for order in itertools.permutations(round_):
        assert latest_start("a", order, equal(cost), lambda _: turn) <= best
