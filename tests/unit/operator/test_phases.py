"""Each phase of a swap is told once, with how long it took."""

from datetime import timedelta
from typing import Any

from modelserving_api.status import CurrentSwap, ModelServingStatus, SwapPhase
from modelserving_operator.phases import EndedPhase, ended_phase
from tests.unit.operator.world import START


def swapping(phase: SwapPhase, **fields: Any) -> ModelServingStatus:
    """Return the status of a swap that is in that phase."""
    swap = {
        "id": "a1b2",
        "from_model": "mistral",
        "to_model": "coder",
        "reason": "Requested",
        "message": "1 request waits for coder",
        "started_time": START,
        **fields,
    }
    return ModelServingStatus(current_swap=CurrentSwap(phase=phase, **swap))


def after(seconds: float) -> Any:
    return START + timedelta(seconds=seconds)


def test_a_phase_that_goes_on_is_not_told() -> None:
    status = swapping(SwapPhase.DRAINING)
    assert ended_phase(status, status, after(3)) is None
    assert ended_phase(ModelServingStatus(), status, START) is None


def test_a_phase_that_gives_way_to_the_next_is_told() -> None:
    before = swapping(SwapPhase.STOPPING, drained_time=after(2))
    told = ended_phase(before, swapping(SwapPhase.SCHEDULING), after(9))
    assert told == EndedPhase("a1b2", SwapPhase.STOPPING, 7.0, SwapPhase.SCHEDULING)


def test_the_last_phase_is_told_when_the_swap_ends() -> None:
    before = swapping(SwapPhase.PROBING, loaded_time=after(5))
    told = ended_phase(before, ModelServingStatus(), after(5.25))
    assert told == EndedPhase("a1b2", SwapPhase.PROBING, 0.25, None)


def test_another_swap_in_the_same_phase_ends_it_too() -> None:
    before = swapping(SwapPhase.DRAINING)
    told = ended_phase(before, swapping(SwapPhase.DRAINING, id="c3d4"), after(1))
    assert told == EndedPhase("a1b2", SwapPhase.DRAINING, 1.0, None)
