"""What swaps cost: learned, bounded, and guessed where nothing is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.status import ModelServingStatus, ModelStatus, SwapCost
from modelserving_operator.costs import MAX_PAIRS, Costs, Sample, learn

ALL = [f"m{index}" for index in range(32)]


def learned(*samples: tuple[str, str, float, float]) -> list[SwapCost]:
    """Return what is known after these swaps: from, to, seconds, seconds of drain."""
    known: list[SwapCost] = []
    for leaving, target, seconds, drain in samples:
        known = learn(known, Sample(leaving, target, seconds, drain), ALL)
    return known


def costs(*samples: tuple[str, str, float, float]) -> Costs:
    return Costs.of(ModelServingStatus(swap_costs=learned(*samples)))


def test_one_swap_is_believed_and_planned_with_half_as_much_again() -> None:
    known = costs(("m0", "m1", 10, 0.1))

    assert known.expected("m0", "m1") == 10
    assert known.at_most("m0", "m1") == 15


def test_equal_swaps_take_the_doubt_away() -> None:
    known = costs(*[("m0", "m1", 10.0, 0.1)] * 20)

    assert known.at_most("m0", "m1") == pytest.approx(10, abs=0.1)


def test_one_slow_swap_moves_the_mean_by_a_quarter_and_raises_the_doubt() -> None:
    known = costs(*[("m0", "m1", 10.0, 0.1)] * 20, ("m0", "m1", 30, 0.1))

    assert known.expected("m0", "m1") == pytest.approx(15)
    assert known.at_most("m0", "m1") > 30


def test_an_unknown_pair_costs_what_swaps_into_its_target_have_cost() -> None:
    assert costs(("m0", "m1", 10, 0.1), ("m2", "m1", 20, 0.1)).expected("m3", "m1") == 15


def test_before_a_swap_the_load_of_a_model_is_a_guess_at_it() -> None:
    status = ModelServingStatus(models=[ModelStatus(name="m1", load_seconds=12)])

    assert Costs.of(status).expected("m0", "m1") == 17
    assert Costs.of(status).expected(None, "m1") == 12


def test_where_only_other_models_are_known_their_mean_is_a_guess() -> None:
    assert costs(("m0", "m1", 10, 0.1), ("m1", "m0", 20, 0.1)).expected("m0", "m2") == 15


def test_with_nothing_known_a_swap_takes_half_a_minute() -> None:
    assert Costs().expected("m0", "m1") == 30
    assert Costs().at_most("m0", "m1") == 45


def test_a_drain_is_remembered_at_its_longest_with_a_margin() -> None:
    assert costs(("m0", "m1", 9, 12), ("m0", "m1", 9, 2)).drain("m0") == pytest.approx(
        14.6, abs=0.1
    )


def test_the_longest_drain_fades() -> None:
    samples = [("m0", "m1", 9.0, 60.0)] + [("m0", "m1", 9.0, 2.0)] * 100

    assert costs(*samples).drain("m0") < 10


def test_the_drain_of_an_idle_engine_says_nothing() -> None:
    assert costs(("m0", "m1", 9, 0.2)).drain("m0") == Costs().drain("m0")


def test_a_long_answer_of_another_model_of_late_counts_too() -> None:
    assert costs(("m0", "m1", 9, 20), ("m1", "m0", 9, 2)).drain("m1") == 25


def test_of_many_pairs_the_one_not_swapped_for_longest_is_forgotten() -> None:
    pairs = [(leaving, target) for leaving in ALL for target in ALL if leaving != target]
    known = learned(*((*pair, 5.0, 0.1) for pair in pairs[:MAX_PAIRS]))
    assert len(known) == MAX_PAIRS
    known = learn(known, Sample(*pairs[0], 5, 0.1), ALL)
    known = learn(known, Sample(*pairs[MAX_PAIRS], 5, 0.1), ALL)

    left = [(each.from_model, each.to_model) for each in known]
    assert len(left) == MAX_PAIRS
    assert pairs[0] in left
    assert pairs[1] not in left
    assert left[-1] == pairs[MAX_PAIRS]


def test_what_is_no_longer_declared_is_forgotten() -> None:
    known = learn(learned(("m0", "m1", 5, 0.1)), Sample("m2", "m3", 5, 0.1), ["m0", "m2", "m3"])

    assert [(each.from_model, each.to_model) for each in known] == [("m2", "m3")]


@given(st.lists(st.floats(0.1, 900), min_size=1, max_size=60))
def test_the_mean_stays_within_what_was_seen_and_the_most_is_never_below_it(
    seconds: list[float],
) -> None:
    known = costs(*(("m0", "m1", each, 0.1) for each in seconds))

    assert min(seconds) - 0.01 <= known.expected("m0", "m1") <= max(seconds) + 0.01
    assert known.at_most("m0", "m1") >= known.expected("m0", "m1")
