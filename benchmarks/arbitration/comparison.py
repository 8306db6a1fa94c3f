"""Runs every discipline on every workload and makes rows of figures of it.

No output here: the table, the plot and the file are report's.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.arbitration import disciplines, workloads
from benchmarks.arbitration.clairvoyant import fewest_swaps
from benchmarks.arbitration.simulation import JITTER, Discipline, Record, Simulation
from benchmarks.arbitration.workloads import LONGEST_ANSWER_SECONDS, Workload
from modelserving_api.spec import Swap
from modelserving_operator.contention import LEAST_TURN
from modelserving_operator.lookahead import HANDOVER_SECONDS

COSTS: Final = (1.0, 9.0, 30.0)
BOUNDS: Final = {3: 120, 10: 360}
"""maxWaitSeconds by number of models: the default, and as many times more as there are models more
to wait for, about."""

SLICES: Final = (1, 2, 4, 6, 8, 10, 12, 15, 18, 21, 25, 30, 36, 45, 55, 70, 90, 120)
"""Lengths among which the one is sought that waits as long as ours."""

POLICIES: Final = ("ours", "fifo", "sticky", "slices-30", "slices-equal", "clairvoyant")

SEED: Final = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One workload, one cost, one bound."""

    workload: Workload
    cost: float
    bound: int

    @property
    def feasible(self) -> bool:
        """Whether the bound can be kept whatever arrives, without cutting anybody off.

        One turn of each model has to fit into it: its swap at the slowest, what telling everybody
        takes, and the longest answer.
        """
        turn = self.cost * (1 + JITTER) + HANDOVER_SECONDS + LEAST_TURN.total_seconds()
        return len(self.workload.models) * (turn + LONGEST_ANSWER_SECONDS) <= self.bound

    def run(self, discipline: Discipline) -> Record:
        """Simulate it; everything but the bound is as a ModelServing has it by default."""
        swap = Swap(max_wait_seconds=self.bound)
        return Simulation(self.workload, discipline, cost=self.cost, swap=swap, seed=SEED).run()


def scenarios(models: Sequence[int], costs: Sequence[float]) -> Iterator[Scenario]:
    """Yield every scenario."""
    for count in models:
        for kind in workloads.KINDS:
            workload = workloads.make(kind, count, SEED)
            for cost in costs:
                yield Scenario(workload, cost, BOUNDS[count])


def compare(scenario: Scenario) -> list[Row]:
    """Return a row for each policy."""
    ours = _row(scenario, "ours", scenario.run(disciplines.ours))
    models = scenario.workload.models
    return [
        ours,
        _row(scenario, "fifo", scenario.run(disciplines.fifo)),
        _row(scenario, "sticky", scenario.run(disciplines.sticky)),
        _row(scenario, "slices-30", scenario.run(disciplines.slices(30, models))),
        _equal_slices(scenario, ours["max_wait_s"]),
        _clairvoyant(scenario),
    ]


def _equal_slices(scenario: Scenario, max_wait: float) -> Row:
    """Return the row of the longest slice with which nobody waits longer than with ours."""

    def row(seconds: float) -> Row:
        discipline = disciplines.slices(seconds, scenario.workload.models)
        return _row(scenario, "slices-equal", scenario.run(discipline)) | {"slice_s": seconds}

    return _last(SLICES, row, lambda found: found["max_wait_s"] <= max_wait)


def _last(
    lengths: Sequence[float], make: Callable[[float], Row], fits: Callable[[Row], bool]
) -> Row:
    """Return the row of the last length that fits, or of the first one, by bisection."""
    best = make(lengths[0])
    low, high = 1, len(lengths)
    while low < high and fits(best):
        middle = (low + high) // 2
        row = make(lengths[middle])
        if fits(row):
            best, low = row, middle + 1
        else:
            high = middle
    return best


def _row(scenario: Scenario, policy: str, record: Record) -> Row:
    workload = scenario.workload
    waits = record.waits()
    ready = sum(
        min(spell.ended, workload.seconds) - min(spell.began, workload.seconds)
        for spell in record.spells
    )
    swaps = sum(when <= workload.seconds for when, _ in record.swaps)
    return {
        **_head(scenario, policy),
        "serving_share": round(ready / workload.seconds, 4),
        "busy_share": round(record.busy_seconds / workload.seconds, 4),
        "max_wait_s": round(max(waits), 1),
        "p99_wait_s": round(_quantile(waits, 0.99), 1),
        "p95_wait_s": round(_quantile(waits, 0.95), 1),
        "p50_wait_s": round(_quantile(waits, 0.5), 1),
        "mean_wait_s": round(statistics.fmean(waits), 1),
        "swaps_per_hour": round(swaps * 3600 / workload.seconds, 1),
        "requests": len(waits),
        "cut_off": len(record.cut_off),
        "waits_by_model": {
            model: _spread(record.waits(model)) for model in workload.models if record.waits(model)
        },
    }


def _clairvoyant(scenario: Scenario) -> Row:
    """Return what bounds every schedule that keeps the bound; of its p95 nothing is known but 0."""
    swaps = fewest_swaps(scenario.workload, scenario.bound)
    seconds = scenario.workload.seconds
    return {
        **_head(scenario, "clairvoyant"),
        "serving_share": round(max(0.0, 1 - swaps * scenario.cost / seconds), 4),
        "max_wait_s": float(scenario.bound),
        "p95_wait_s": 0.0,
        "swaps_per_hour": round(swaps * 3600 / seconds, 1),
    }


def _head(scenario: Scenario, policy: str) -> Row:
    return {
        "workload": scenario.workload.name,
        "models": len(scenario.workload.models),
        "cost": scenario.cost,
        "bound_s": scenario.bound,
        "feasible": scenario.feasible,
        "policy": policy,
    }


def _spread(waits: list[float]) -> dict[str, float]:
    return {
        "p50_s": round(_quantile(waits, 0.5), 1),
        "p95_s": round(_quantile(waits, 0.95), 1),
        "p99_s": round(_quantile(waits, 0.99), 1),
        "max_s": round(max(waits), 1),
    }


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
