"""Which phases of a swap a turn has ended, and how long each of them took: for the log.

Pure: two statuses in, phases out. The times are the status' own, so a restart loses none of them.
"""

from dataclasses import dataclass
from datetime import datetime

from modelserving_api.status import CurrentSwap, ModelServingStatus, SwapPhase


@dataclass(frozen=True)
class EndedPhase:
    """A phase that is over."""

    swap: str
    phase: SwapPhase
    seconds: float
    next_phase: SwapPhase | None
    """None: the swap itself has ended."""


def ended_phase(
    before: ModelServingStatus, after: ModelServingStatus, now: datetime
) -> EndedPhase | None:
    """Return the phase that was going on before and is not any more, if there is one.

    Phases that began and ended between the two are part of the last swap's parts alone.
    """
    swap = before.current_swap
    if swap is None:
        return None
    same = after.current_swap if after.current_swap and after.current_swap.id == swap.id else None
    if same is not None and same.phase is swap.phase:
        return None
    seconds = max((now - _began(swap)).total_seconds(), 0.0)
    return EndedPhase(swap.id, swap.phase, round(seconds, 3), same.phase if same else None)


def _began(swap: CurrentSwap) -> datetime:
    """Return when the phase that a swap is in began."""
    marks = {
        SwapPhase.DRAINING: swap.started_time,
        SwapPhase.STOPPING: swap.drained_time,
        SwapPhase.SCHEDULING: swap.stopped_time,
        SwapPhase.LOADING: swap.scheduled_time,
        SwapPhase.PROBING: swap.loaded_time,
    }
    return marks[swap.phase] or swap.started_time
