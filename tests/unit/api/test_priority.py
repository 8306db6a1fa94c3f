"""One table of priority classes, as both programs use it."""

from modelserving_api.priority import HANDICAP_SECONDS, Priority
from modelserving_gateway.api import priority as of_the_gateway


def test_both_programs_order_by_the_same_due_dates() -> None:
    theirs = {each.value: seconds for each, seconds in of_the_gateway.HANDICAP_SECONDS.items()}

    assert theirs == {each.value: seconds for each, seconds in HANDICAP_SECONDS.items()}


def test_the_classes_are_listed_from_the_most_urgent_one_on() -> None:
    handicaps = [HANDICAP_SECONDS[each] for each in Priority]

    assert handicaps == sorted(handicaps)
