"""Which gateways still want something, judged by our own clock."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.priority import Priority
from modelserving_api.spec import Demand, RequestEntry
from modelserving_operator.demand import DemandLedger, aggregate
from tests.unit.operator.world import START

EXPIRY = timedelta(seconds=30)


def entry(requester: str = "a", renewed: datetime = START, **waiting: int) -> RequestEntry:
    demand = [Demand(name=name, waiting=count, since=START) for name, count in waiting.items()]
    return RequestEntry(requester=requester, renew_time=renewed, models=demand)


def test_an_entry_that_keeps_changing_lives() -> None:
    ledger = DemandLedger(EXPIRY)
    for second in range(0, 300, 10):
        now = START + timedelta(seconds=second)
        live, expired = ledger.split([entry(renewed=now, coder=1)], now)
        assert len(live) == 1
        assert not expired


def test_an_entry_that_stopped_changing_expires() -> None:
    ledger = DemandLedger(EXPIRY)
    ledger.split([entry(coder=1)], START)

    live, expired = ledger.split([entry(coder=1)], START + EXPIRY)

    assert not live
    assert expired == ["a"]


def test_the_time_written_in_an_entry_does_not_matter() -> None:
    ledger = DemandLedger(EXPIRY)
    years_off = START - timedelta(days=4000)

    live, expired = ledger.split([entry(renewed=years_off, coder=1)], START)

    assert len(live) == 1
    assert not expired


def test_an_entry_that_comes_back_has_its_whole_time_again() -> None:
    ledger = DemandLedger(EXPIRY)
    ledger.split([entry(coder=1)], START)
    ledger.split([], START + timedelta(seconds=29))

    live, _ = ledger.split([entry(coder=1)], START + timedelta(seconds=40))

    assert len(live) == 1


def test_demand_of_several_gateways_adds_up() -> None:
    found = aggregate([entry("a", coder=2, llava=1), entry("b", coder=3)], ["coder", "llava"])

    assert {each.model: each.waiting for each in found} == {"coder": 5, "llava": 1}


def test_demand_for_what_is_not_declared_is_left_out() -> None:
    assert aggregate([entry(ghost=2)], ["coder"]) == ()


def skewed(requester: str, seconds: float) -> RequestEntry:
    since = START + timedelta(seconds=seconds)
    demand = Demand(name="coder", waiting=1, since=since)
    return RequestEntry(requester=requester, renew_time=START, models=[demand])


@given(st.integers(-10_000, 10_000))
def test_a_clock_that_is_off_never_outwaits_anyone(skew: int) -> None:
    ledger = DemandLedger(EXPIRY)
    ledger.split([], START)

    live, _ = ledger.split([skewed("a", skew)], START)
    (found,) = aggregate(live, ["coder"])

    assert START - timedelta(seconds=5) <= found.since <= START


def test_how_long_it_has_waited_is_kept_while_it_waits() -> None:
    ledger = DemandLedger(EXPIRY)
    ledger.split([], START)
    for second in range(60):
        now = START + timedelta(seconds=second)
        live, _ = ledger.split([entry(renewed=now, coder=1)], now)

    (found,) = aggregate(live, ["coder"])
    assert found.since == START


def test_a_restarted_operator_believes_what_stands_there() -> None:
    live, _ = DemandLedger(EXPIRY).split([skewed("a", -100)], START)

    (found,) = aggregate(live, ["coder"])
    assert found.since == START - timedelta(seconds=100)


def classed(requester: str, seconds_ago: float, priority: Priority | None) -> RequestEntry:
    demand = Demand(
        name="coder", waiting=1, since=START - timedelta(seconds=seconds_ago), priority=priority
    )
    return RequestEntry(requester=requester, renew_time=START, models=[demand])


def test_what_is_due_first_decides_the_class_and_the_oldest_how_long_it_waits() -> None:
    (found,) = aggregate(
        [classed("a", 100, Priority.LOW), classed("b", 5, Priority.HIGH), classed("c", 9, None)],
        ["coder"],
    )

    assert found.priority is Priority.HIGH
    assert found.due == START - timedelta(seconds=5)
    assert found.since == START - timedelta(seconds=100)
    assert found.waiting == 3


def test_an_entry_without_a_class_is_normal() -> None:
    (found,) = aggregate([classed("a", 5, None)], ["coder"])

    assert found.priority is Priority.NORMAL
    assert found.due == START + timedelta(seconds=25)
