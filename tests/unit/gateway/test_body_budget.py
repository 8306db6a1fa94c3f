"""All bodies in memory are bounded together, whatever becomes of their requests."""

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.body_budget import BodyBudget
from modelserving_gateway.api.errors import ApiError

LIMIT = 100


@given(st.lists(st.lists(st.integers(0, LIMIT + 1), max_size=4), max_size=20))
def test_the_bound_is_never_passed_and_everything_is_given_back(bodies: list[list[int]]) -> None:
    budget = BodyBudget(LIMIT)
    with ExitStack() as stack:
        for sizes in bodies:
            share = stack.enter_context(budget.share())
            for size in sizes:
                with suppress(ApiError):
                    share.resize(size)
                assert 0 <= budget.taken <= LIMIT
    assert budget.taken == 0


def test_what_does_not_fit_is_429_and_takes_nothing_more() -> None:
    budget = BodyBudget(LIMIT)
    with budget.share() as first, budget.share() as second:
        first.resize(60)
        second.resize(40)
        with pytest.raises(ApiError) as refused:
            second.resize(41)
        assert (refused.value.status, refused.value.code) == (429, "bodies_full")
        assert budget.taken == 100
        first.resize(10)
        second.resize(90)


def test_a_body_that_has_not_come_takes_nothing() -> None:
    budget = BodyBudget(LIMIT)
    with budget.share(), budget.share():
        assert budget.taken == 0
