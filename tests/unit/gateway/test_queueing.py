"""The queue of held requests: earliest due first, bounds, and nothing dropped or starved."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from modelserving_api.priority import HANDICAP_SECONDS, Priority, most_urgent
from modelserving_gateway.turns.queueing import Held, HeldRequests, Limits, QueueFullError

START = datetime(2026, 11, 24, tzinfo=UTC)
LIMITS = Limits(requests_each_model=3, requests_all=5, bytes_all=100)


def held(
    sequence: int, model: str = "coder", size: int = 10, priority: Priority = Priority.NORMAL
) -> Held:
    """Return the request that arrived as the so-many-eth, one a second."""
    due = sequence + HANDICAP_SECONDS[priority]
    return Held(sequence, model, size, START + timedelta(seconds=sequence), priority, due)


def test_a_request_that_was_put_back_is_at_its_old_place() -> None:
    queue = HeldRequests(LIMITS)
    queue.admit(held(2))
    queue.admit(held(3))
    queue.put_back(held(1))
    assert [each.sequence for each in queue.in_order("coder")] == [1, 2, 3]
    assert queue.waiting()["coder"].oldest == held(1).arrived


def test_a_full_queue_of_one_model_leaves_room_for_others() -> None:
    queue = HeldRequests(LIMITS)
    for sequence in range(3):
        queue.admit(held(sequence))
    with pytest.raises(QueueFullError, match="3 requests"):
        queue.admit(held(3))
    queue.admit(held(4, "mistral"))


def test_requests_are_bounded_over_all_models() -> None:
    queue = HeldRequests(LIMITS)
    for sequence, model in enumerate("aabbc"):
        queue.admit(held(sequence, model))
    with pytest.raises(QueueFullError, match="5 requests are held for all"):
        queue.admit(held(5, "c"))


def test_a_more_urgent_class_goes_before_what_arrived_within_its_head_start_and_no_more() -> None:
    queue = HeldRequests(Limits(10, 10, 1000))
    low, normal, late_normal = held(0, priority=Priority.LOW), held(1), held(80)
    urgent, later = held(31, priority=Priority.HIGH), held(121, priority=Priority.HIGH)
    for each in (low, normal, late_normal, later, urgent):
        queue.admit(each)
    order = [each.sequence for each in queue.in_order("coder")]
    assert order == [1, 31, 80, 0, 121]
    assert [queue.ahead_of(each) for each in (normal, urgent, low)] == [0, 1, 3]
    assert queue.waiting()["coder"].oldest == low.arrived


def test_bytes_are_bounded_over_all_models() -> None:
    queue = HeldRequests(LIMITS)
    queue.admit(held(0, "a", 60))
    queue.admit(held(1, "b", 40))
    with pytest.raises(QueueFullError, match="100 bytes"):
        queue.admit(held(2, "c", 1))


def test_what_comes_back_to_a_full_queue_is_taken_and_keeps_new_ones_out() -> None:
    queue = HeldRequests(LIMITS)
    for sequence in (1, 2, 3):
        queue.admit(held(sequence))
    queue.put_back(held(0))
    with pytest.raises(QueueFullError):
        queue.admit(held(4))
    assert len(queue) == 4


def test_leaving_twice_counts_once() -> None:
    queue = HeldRequests(LIMITS)
    queue.admit(held(0))
    assert queue.leave(held(0))
    assert not queue.leave(held(0))
    assert (queue.size, len(queue), queue.waiting(), queue.models()) == (0, 0, {}, ())


def in_order(requests: list[Held]) -> list[Held]:
    """Return the earliest due first; of two that are due together, the one that came first."""
    return sorted(requests, key=lambda each: (each.due, each.sequence))


class Life(RuleBasedStateMachine):
    """Random arrivals, leaves, releases and failures against a model that is a plain list.

    R5: a request that was admitted is in the queue until it is released or leaves, never lost.
    R6: what is admitted is bounded; only what was accepted before may go above the bounds.
    """

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.queue = HeldRequests(LIMITS)
        self.inside: list[Held] = []
        self.forwarded: list[Held] = []
        self.sequence = 0

    def of(self, model: str) -> list[Held]:
        return [each for each in self.inside if each.model == model]

    @rule(
        target=requests,
        model=st.sampled_from("abc"),
        size=st.integers(0, 60),
        priority=st.sampled_from(Priority),
        pause=st.integers(1, 100),
    )
    def arrive(self, model: str, size: int, priority: Priority, pause: int) -> object:
        self.sequence += pause
        request = held(self.sequence, model, size, priority)
        room = (
            len(self.of(model)) < LIMITS.requests_each_model
            and len(self.inside) < LIMITS.requests_all
            and sum(each.size for each in self.inside) + size <= LIMITS.bytes_all
        )
        try:
            self.queue.admit(request)
        except QueueFullError:
            assert not room
            return multiple()
        assert room
        self.inside.append(request)
        return request

    @rule(request=requests)
    def leave(self, request: Held) -> None:
        assert self.queue.leave(request) == (request in self.inside)
        if request in self.inside:
            self.inside.remove(request)

    @rule(model=st.sampled_from("abc"))
    def release(self, model: str) -> None:
        released = list(self.queue.in_order(model))
        assert released == in_order(self.of(model))
        for request in released:
            assert self.queue.leave(request)
            self.inside.remove(request)
        self.forwarded += released

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """An engine dies: some of what was forwarded comes back, in any order."""
        if not self.forwarded:
            return
        request = data.draw(st.sampled_from(self.forwarded))
        self.forwarded.remove(request)
        self.queue.put_back(request)
        self.inside.append(request)

    @invariant()
    def tells_what_is_inside(self) -> None:
        waiting = self.queue.waiting()
        assert set(waiting) == {each.model for each in self.inside} == set(self.queue.models())
        for model, queue in waiting.items():
            expected = in_order(self.of(model))
            assert list(self.queue.in_order(model)) == expected
            assert [self.queue.ahead_of(each) for each in expected] == list(range(len(expected)))
            assert queue.count == len(expected)
            assert queue.size == sum(each.size for each in expected)
            assert queue.priority is most_urgent(each.priority for each in expected)
            assert queue.oldest == min(each.arrived for each in expected)
        assert len(self.queue) == len(self.inside)
        assert self.queue.size == sum(each.size for each in self.inside)


@given(st.lists(st.tuples(st.sampled_from(Priority), st.floats(0, 50)), max_size=40))
def test_nobody_is_overtaken_by_what_arrives_more_than_the_largest_handicap_later(
    arrivals: list[tuple[Priority, float]],
) -> None:
    queue = HeldRequests(Limits(100, 100, 1000))
    arrived, clock = {}, 0.0
    for sequence, (priority, pause) in enumerate(arrivals):
        clock += pause
        arrived[sequence] = clock
        queue.admit(Held(sequence, "a", 0, START, priority, clock + HANDICAP_SECONDS[priority]))
    order = [each.sequence for each in queue.in_order("a")]
    for place, sequence in enumerate(order):
        for before in order[:place]:
            assert arrived[before] <= arrived[sequence] + max(HANDICAP_SECONDS.values())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40)
