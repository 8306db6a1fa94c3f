"""Faults are drawn from the seed and from nothing else."""

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tests.harness.faults import (
    KINDS,
    LONGEST_DELAY_SECONDS,
    PAUSE_SECONDS,
    PROMISED,
    Deed,
    Moment,
    Target,
    faults,
)

seeds = st.integers(min_value=0)


@given(seeds, st.integers(0, 40))
def test_a_seed_replays_whatever_the_number_of_rounds(seed: int, count: int) -> None:
    assert list(faults(seed, count)) == list(islice(faults(seed, 60), count))


def test_other_seeds_give_other_faults() -> None:
    assert len({tuple(faults(seed, 5)) for seed in range(20)}) == 20


@given(seeds)
def test_every_kind_comes_once_before_any_comes_again(seed: int) -> None:
    drawn = [fault.kind for fault in faults(seed, 2 * len(KINDS))]
    assert set(drawn[: len(KINDS)]) == set(KINDS)
    assert set(Counter(drawn).values()) == {2}


@given(seeds)
def test_each_fault_is_within_its_limits(seed: int) -> None:
    for fault in faults(seed, len(KINDS)):
        assert 0 <= fault.delay_seconds <= LONGEST_DELAY_SECONDS
        if fault.kind.deed is Deed.KILL:
            assert fault.pause_seconds == 0
        else:
            assert PAUSE_SECONDS[0] <= fault.pause_seconds <= PAUSE_SECONDS[1]


def test_every_moment_and_every_candidate_is_met_in_a_hundred_rounds() -> None:
    drawn = list(faults(1, 100))
    assert {fault.moment for fault in drawn} == set(Moment)
    assert {fault.pick(["b", "a"]) for fault in drawn} == {"a", "b"}
    lengths = sorted(fault.pause_seconds for fault in drawn if fault.pause_seconds)
    assert lengths[0] < 2
    assert lengths[-1] > 15


@given(seeds)
def test_a_shorter_longest_pause_changes_nothing_else(seed: int) -> None:
    for short, usual in zip(
        faults(seed, 24, longest_pause_seconds=3), faults(seed, 24), strict=True
    ):
        assert (short.kind, short.moment, short.delay_seconds, short.draw) == (
            usual.kind,
            usual.moment,
            usual.delay_seconds,
            usual.draw,
        )
        assert short.pause_seconds == min(usual.pause_seconds, 3)


def test_what_is_promised_kills_everything_and_pauses_the_api() -> None:
    assert {kind.target for kind in PROMISED if kind.deed is Deed.KILL} == set(Target)
    paused = {kind.target for kind in PROMISED if kind.deed is Deed.PAUSE}
    assert paused == {Target.API_SERVER, Target.ETCD}


def test_an_engine_is_only_met_when_there_is_one() -> None:
    moments = {each.moment for each in faults(3, 200) if each.kind.target is Target.ENGINE}
    assert Moment.SCHEDULING not in moments
    assert Moment.PROBING in moments
