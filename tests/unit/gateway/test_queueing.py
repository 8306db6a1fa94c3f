"""The queue of held requests: arrival order, bounds, and nothing dropped."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from modelserving_gateway.queueing import Held, HeldRequests, Limits, QueueFullError

START = datetime(2026, 11, 24, tzinfo=UTC)
LIMITS = Limits(requests_each_model=3, bytes_all=100)


def held(sequence: int, model: str = "coder", size: int = 10) -> Held:
    return Held(sequence, model, size, START + timedelta(seconds=sequence))


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

    @rule(target=requests, model=st.sampled_from("abc"), size=st.integers(0, 60))
    def arrive(self, model: str, size: int) -> object:
        self.sequence += 1
        request = held(self.sequence, model, size)
        room = (
            len(self.of(model)) < LIMITS.requests_each_model
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
        assert released == sorted(self.of(model), key=lambda each: each.sequence)
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
            expected = sorted(self.of(model), key=lambda each: each.sequence)
            assert list(self.queue.in_order(model)) == expected
            assert queue.count == len(expected)
            assert queue.size == sum(each.size for each in expected)
            assert queue.oldest == expected[0].arrived
        assert len(self.queue) == len(self.inside)
        assert self.queue.size == sum(each.size for each in self.inside)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
