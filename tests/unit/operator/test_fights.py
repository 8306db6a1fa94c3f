"""A person's edits are put back; a program that edits for ever is given in to."""

from datetime import timedelta

from modelserving_operator.fights import Fights
from tests.unit.operator.world import START

OBJECT = ("Deployment", "l4-mistral")


def rounds(fights: Fights, count: int, every: timedelta) -> list[bool]:
    """Edit and put back so often, and return each time whether the edit is left as it is."""
    left = []
    for number in range(count):
        now = START + number * every
        left.append(OBJECT in fights.judge([OBJECT], now))
        if not left[-1]:
            fights.note(OBJECT, now)
            fights.judge([], now + timedelta(seconds=1))
    return left


def test_the_fourth_edit_within_an_hour_is_left() -> None:
    assert rounds(Fights(), 5, timedelta(minutes=1)) == [False, False, False, True, True]


def test_edits_now_and_then_are_always_put_back() -> None:
    assert not any(rounds(Fights(), 20, timedelta(minutes=25)))


def test_an_edit_that_takes_a_while_to_be_put_back_is_one() -> None:
    fights = Fights()

    assert not any(
        fights.judge([OBJECT], START + timedelta(seconds=second)) for second in range(100)
    )


def test_what_is_left_is_judged_afresh_once_it_is_as_declared() -> None:
    fights = Fights()
    rounds(fights, 4, timedelta(minutes=1))

    assert fights.judge([], START + timedelta(minutes=5)) == {}
    assert fights.judge([OBJECT], START + timedelta(hours=2)) == {}
