"""The policy in the simulator that compares it with others: what holds for any arrivals."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.arbitration import disciplines, record, workloads
from benchmarks.arbitration.clairvoyant import fewest_swaps
from benchmarks.arbitration.comparison import Scenario, compare
from benchmarks.arbitration.simulation import Discipline, Record, Simulation
from benchmarks.arbitration.workloads import Arrival, Workload
from modelserving_api.priority import Priority
from modelserving_api.spec import Swap
from modelserving_operator.contention import LEAST_TURN
from modelserving_operator.decision import Cause
from modelserving_operator.lookahead import HANDOVER_SECONDS

LONGEST_ANSWER = 8
SECONDS = 900.0

in_any_order = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def any_workload(draw: st.DrawFn, models: int = 3, most: int = 80) -> Workload:
    names = workloads.names(models)
    arrival = st.builds(
        Arrival,
        st.floats(0, SECONDS).map(lambda seconds: round(seconds, 2)),
        st.sampled_from(names),
        st.floats(0.05, LONGEST_ANSWER),
        st.sampled_from(Priority),
    )
    arrivals = draw(st.lists(arrival, min_size=1, max_size=most))
    if draw(st.booleans()):
        # Somebody who keeps the first model busy all along.
        arrivals += [
            Arrival(moment, names[0], LONGEST_ANSWER) for moment in range(0, int(SECONDS), 5)
        ]
    arrivals.sort(key=lambda each: each.seconds)
    return Workload("any", names, SECONDS, tuple(arrivals))


def run(
    workload: Workload,
    *,
    cost: float,
    bound: int,
    discipline: Discipline = disciplines.ours,
    residency: int = 30,
    drain: int = LONGEST_ANSWER,
) -> Record:
    swap = Swap(
        max_wait_seconds=bound, min_residency_seconds=residency, drain_timeout_seconds=drain
    )
    return Simulation(workload, discipline, cost=cost, swap=swap, jitter=0).run()


def tightest_bound(models: int, cost: float) -> int:
    """Return the least whole bound into which one turn of each model fits."""
    turn = cost + HANDOVER_SECONDS + LEAST_TURN.total_seconds() + LONGEST_ANSWER
    return int(models * turn) + 1


@in_any_order
@given(any_workload(), st.sampled_from([1.0, 9.0, 30.0]), st.integers(0, 200), st.integers(0, 60))
def test_nobody_of_any_class_waits_beyond_a_bound_that_a_turn_of_each_fits_into(
    workload: Workload, cost: float, slack: int, residency: int
) -> None:
    bound = tightest_bound(3, cost) + slack
    found = run(workload, cost=cost, bound=bound, residency=residency)

    assert max(found.waits()) <= bound


@in_any_order
@given(any_workload(models=5), st.sampled_from([1.0, 9.0]))
def test_that_holds_for_five_models_as_well(workload: Workload, cost: float) -> None:
    bound = tightest_bound(5, cost)

    assert max(run(workload, cost=cost, bound=bound).waits()) <= bound


@in_any_order
@given(any_workload(), st.sampled_from([1.0, 9.0, 30.0]), st.integers(1, 300))
def test_whatever_the_bound_everybody_is_served_and_nobody_is_cut_off(
    workload: Workload, cost: float, bound: int
) -> None:
    found = run(workload, cost=cost, bound=bound)

    assert all(each.forwarded is not None for each in found.requests)
    assert found.cut_off == []


@in_any_order
@given(any_workload(), st.sampled_from([1.0, 9.0, 30.0]), st.integers(1, 300))
def test_every_turn_serves_somebody(workload: Workload, cost: float, bound: int) -> None:
    """Never only swapping: each swap was made for a request, and that one is served by it."""
    found = run(workload, cost=cost, bound=bound)

    for when, model in found.swaps:
        assert any(
            each.arrival.model == model and each.forwarded == when for each in found.requests
        )


@in_any_order
@given(any_workload(models=2), st.sampled_from([1.0, 9.0, 30.0]))
def test_a_model_that_was_asked_for_stays_as_long_as_its_swap_took(
    workload: Workload, cost: float
) -> None:
    """So at most half of the GPU's time goes into swaps that no bound and no class demands."""
    found = run(workload, cost=cost, bound=3600, residency=60)

    for spell, cause in zip(found.spells[1:], found.causes[1:], strict=False):
        if cause == Cause.FELL_IDLE:
            assert spell.draining - spell.began >= cost - 0.01


@in_any_order
@given(any_workload(), st.sampled_from([1.0, 9.0, 30.0]), st.integers(30, 300))
def test_no_discipline_that_keeps_a_bound_swaps_less_often_than_the_clairvoyant(
    workload: Workload, cost: float, bound: int
) -> None:
    fewest = fewest_swaps(workload, bound)
    others = [disciplines.fifo, disciplines.sticky, disciplines.slices(20, workload.models)]
    for discipline in (disciplines.ours, *others):
        found = run(workload, cost=cost, bound=bound, discipline=discipline)
        if max(found.waits()) <= bound:
            assert len(found.swaps) >= fewest


@in_any_order
@given(any_workload(most=20))
def test_looks_are_never_more_than_a_poll_and_what_happens_asks_for(workload: Workload) -> None:
    found = run(workload, cost=9, bound=120)

    # Two a second while a busy engine is waited for, one in five seconds else, one for each write.
    assert found.decisions <= 2.5 * found.ended + 4 * len(workload.arrivals) + 10


def test_the_same_seed_gives_the_same_rows() -> None:
    scenario = Scenario(workloads.make("bursty", 3, seed=7), 9.0, 120)

    assert compare(scenario) == compare(scenario)


def test_where_a_bound_is_feasible_ours_keeps_it_and_is_no_worse_than_equal_slices() -> None:
    made = workloads.make("saturated", 3, seed=2)
    half_an_hour = [each for each in made.arrivals if each.seconds < 1800]
    short = Workload("saturated", made.models, 1800, tuple(half_an_hour))
    rows = compare(Scenario(short, 9.0, 120))
    found = {row["policy"]: row for row in rows}

    assert found["ours"]["feasible"]
    assert found["ours"]["max_wait_s"] <= 120
    assert found["ours"]["serving_share"] >= found["slices-equal"]["serving_share"]
    assert found["ours"]["serving_share"] <= found["clairvoyant"]["serving_share"]
    assert found["sticky"]["max_wait_s"] > 120


def test_a_row_has_what_others_read() -> None:
    for row in compare(Scenario(workloads.make("recorded", 3, seed=1), 1.0, 120)):
        for figure in ("cost", "serving_share", "max_wait_s", "p95_wait_s", "swaps_per_hour"):
            assert isinstance(row[figure], float), (row["policy"], figure)


@pytest.mark.parametrize("kind", workloads.KINDS)
def test_a_workload_is_in_order_and_within_its_hours(kind: str) -> None:
    for models in (3, 10):
        made = workloads.make(kind, models, seed=1)
        moments = [each.seconds for each in made.arrivals]
        assert moments == sorted(moments)
        assert moments[-1] < made.seconds
        assert {each.model for each in made.arrivals} == set(made.models)
        assert max(each.service_seconds for each in made.arrivals) <= (
            workloads.LONGEST_ANSWER_SECONDS
        )


def test_the_trace_is_what_its_recorder_makes() -> None:
    lines = workloads.TRACE.read_text().splitlines()

    assert lines[0] == "seconds,model,service_seconds"
    assert lines[1:] == [
        f"{moment:.2f},{model},{service:.2f}" for moment, model, service in record.rows()
    ]
