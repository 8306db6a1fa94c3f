"""The priority classes that both programs order by."""

import pytest

from modelserving_api.priority import HANDICAP_SECONDS, Priority, at_most, most_urgent

HIGH, NORMAL, LOW = Priority


def test_the_classes_are_listed_from_the_most_urgent_one_on() -> None:
    handicaps = [HANDICAP_SECONDS[each] for each in Priority]

    assert handicaps == sorted(handicaps)


@pytest.mark.parametrize(
    ("wanted", "allowed", "expected"),
    [(HIGH, LOW, LOW), (HIGH, NORMAL, NORMAL), (LOW, HIGH, LOW), (NORMAL, NORMAL, NORMAL)],
)
def test_nobody_gets_a_higher_class_than_is_allowed(
    wanted: Priority, allowed: Priority, expected: Priority
) -> None:
    assert at_most(wanted, allowed) is expected


def test_the_most_urgent_class_stands_for_all() -> None:
    assert most_urgent([LOW, HIGH, NORMAL]) is HIGH
    assert most_urgent([LOW]) is LOW
