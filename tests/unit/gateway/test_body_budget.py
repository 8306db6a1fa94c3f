"""All bodies in memory are bounded together, whatever becomes of their requests."""

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.body_budget import BodyBudget
from modelserving_gateway.errors import ApiError

LIMIT = 100


@given(st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)), max_size=20))
def test_the_bound_is_never_passed_and_everything_is_given_back(
    bodies: list[tuple[int, int]],
) -> None:
    budget = BodyBudget(LIMIT)
    with ExitStack() as stack:
        for promised, needed in bodies:
            with suppress(ApiError):
                stack.enter_context(budget.share(promised)).shrink(min(promised, needed))
            assert 0 <= budget.taken <= LIMIT
    assert budget.taken == 0


def test_what_does_not_fit_is_429_and_takes_nothing() -> None:
    budget = BodyBudget(LIMIT)
    with budget.share(60):
        with pytest.raises(ApiError) as refused, budget.share(41):
            pass
        assert (refused.value.status, refused.value.code) == (429, "bodies_full")
        assert budget.taken == 60
