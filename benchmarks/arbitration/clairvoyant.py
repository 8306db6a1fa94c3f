"""What nobody can beat, even with the arrivals known beforehand: the fewest swaps for a wait bound.

A request that arrives at `a` and waits for at most W needs its model to be ready at some moment of
[a, a + W]. So if requests for k models arrive in the first part of a stretch of time, W seconds or
more before its end, then k models are ready in that stretch, one after the other, and at least
k - 1 swaps end in it. Stretches that do not overlap add up; which of them give the most is found
by dynamic programming over a grid. No schedule with fewer swaps keeps the bound, whatever swaps
cost; whether one with as few exists is not said. Where all models are always wanted, it is met as
the cost goes to zero.
"""

from typing import Final

from benchmarks.arbitration.workloads import Workload

_STEPS_A_BOUND: Final = 12
"""Of the grid: finer ones find a swap or two more in two hours."""


def fewest_swaps(workload: Workload, bound: float) -> int:
    """Return a number of swaps below which no schedule keeps every wait within `bound` seconds."""
    step = bound / _STEPS_A_BOUND
    cells = int(workload.seconds // step)
    asked: list[set[str]] = [set() for _ in range(cells)]
    for arrival in workload.arrivals:
        cell = int(arrival.seconds // step)
        if cell < cells:
            asked[cell].add(arrival.model)
    best = [0] * (cells + 1)
    for start in range(cells):
        best[start + 1] = max(best[start + 1], best[start])
        models: set[str] = set()
        for last in range(start, cells - _STEPS_A_BOUND):
            if asked[last] <= models:
                continue
            models |= asked[last]
            end = last + 1 + _STEPS_A_BOUND
            best[end] = max(best[end], best[start] + len(models) - 1)
            if len(models) == len(workload.models):
                break
    return max(best)
