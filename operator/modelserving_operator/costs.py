"""What a swap costs: learned from the swaps that ended, guessed before the first of them.

Pure: from what the status remembers to seconds. The estimator is the one of TCP's retransmission
timer, a smoothed mean and a smoothed deviation (Jacobson, "Congestion avoidance and control",
SIGCOMM 1988; RFC 6298): a bound must hold for a slow swap, not for the average one.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from modelserving_api.status import ModelServingStatus, SwapCost

MAX_PAIRS: Final = 64
"""All pairs of eight models, some 100 bytes each. Beyond that the one not swapped for longest goes:
what swaps into a model have cost on the average stands in for it."""

_GAIN: Final = 0.25
"""Weight of a new sample. Swaps are rare and a page cache may be cold once: after four of them the
old figure counts a third."""

_DEVIATIONS: Final = 4
"""How many deviations above the mean a swap is taken to last at most (RFC 6298's K)."""

_FIRST_DEVIATION: Final = 0.125
"""Of the mean, while it is a guess or one sample: it is planned with half as much again."""

_DRAIN_FADE: Final = 0.03
"""What a shorter drain takes off the longest one remembered: it is forgotten over some thirty."""

_DRAIN_MARGIN: Final = 1.25
"""The longest answer is yet to come."""

_LATEST_DRAINS: Final = 8
"""Pairs whose drains count for every model: a round or two."""

_BUSY_DRAIN_SECONDS: Final = 0.5
"""A drain no longer than that was one of an idle engine (0.1 s until gateways know, one poll) and
says nothing about how long its answers take."""

_STOP_GUESS_SECONDS: Final = 5.0
"""A Pod's end, before one was seen: vLLM takes 2 to 7 s to exit and be removed."""

_SWAP_GUESS_SECONDS: Final = 30.0
"""Where nothing at all was measured: a 7B model from a page cache."""

_DRAIN_GUESS_SECONDS: Final = 20.0
"""600 tokens at 30 a second, before one was seen."""


@dataclass(frozen=True)
class Costs:
    """Seconds that swaps take, between any two models."""

    pairs: Mapping[tuple[str, str], SwapCost] = field(default_factory=dict)
    """In the order of their last swaps."""
    loads: Mapping[str, float] = field(default_factory=dict)
    """Measured load of a model, from scale-up to the first completion."""

    @classmethod
    def of(cls, status: ModelServingStatus) -> "Costs":
        """Read what the status remembers."""
        return cls(
            pairs={(each.from_model, each.to_model): each for each in status.swap_costs},
            loads={
                each.name: each.load_seconds
                for each in status.models
                if each.load_seconds is not None
            },
        )

    def expected(self, leaving: str | None, target: str) -> float:
        """Return what this swap takes on the average, without its drain."""
        known = self.pairs.get((leaving or "", target))
        return known.seconds if known is not None else self._guess(leaving, target)

    def at_most(self, leaving: str | None, target: str) -> float:
        """Return what this swap takes at most, as far as one can know, without its drain."""
        known = self.pairs.get((leaving or "", target))
        if known is not None:
            return known.seconds + _DEVIATIONS * known.deviation_seconds
        return self._guess(leaving, target) * (1 + _DEVIATIONS * _FIRST_DEVIATION)

    def drain(self, model: str) -> float:
        """Return how long a busy model takes at most to finish what it is running, by experience.

        Its own drains and the latest of all count: how long answers get is the clients' doing more
        than the model's, and one who has not yet asked this one for a long answer may do so next.
        """
        latest = [*self.pairs][-_LATEST_DRAINS:]
        seen = [
            each.drain_seconds
            for pair, each in self.pairs.items()
            if each.drain_seconds is not None and (pair[0] == model or pair in latest)
        ]
        return max(seen) * _DRAIN_MARGIN if seen else _DRAIN_GUESS_SECONDS

    def _guess(self, leaving: str | None, target: str) -> float:
        into = [each.seconds for (_, to_model), each in self.pairs.items() if to_model == target]
        if into:
            return fmean(into)
        if target in self.loads:
            return self.loads[target] + (_STOP_GUESS_SECONDS if leaving is not None else 0.0)
        return fmean([each.seconds for each in self.pairs.values()] or [_SWAP_GUESS_SECONDS])


@dataclass(frozen=True)
class Sample:
    """One swap that has succeeded."""

    leaving: str
    target: str
    seconds: float
    """Without the drain."""
    drain_seconds: float


def learn(known: Iterable[SwapCost], sample: Sample, declared: Collection[str]) -> list[SwapCost]:
    """Take a swap in and return the list anew, the latest last; what is not declared goes."""
    pair = (sample.leaving, sample.target)
    kept = [each for each in known if {each.from_model, each.to_model} <= set(declared)]
    before = next((each for each in kept if (each.from_model, each.to_model) == pair), None)
    others = [each for each in kept if each is not before]
    return [*others, _smoothed(before, sample)][-MAX_PAIRS:]


def _smoothed(before: SwapCost | None, sample: Sample) -> SwapCost:
    if before is None:
        seconds, deviation = sample.seconds, sample.seconds * _FIRST_DEVIATION
    else:
        error = sample.seconds - before.seconds
        seconds = before.seconds + _GAIN * error
        deviation = before.deviation_seconds + _GAIN * (abs(error) - before.deviation_seconds)
    return SwapCost(
        from_model=sample.leaving,
        to_model=sample.target,
        seconds=round(seconds, 3),
        deviation_seconds=round(deviation, 3),
        drain_seconds=_longest(before.drain_seconds if before else None, sample.drain_seconds),
    )


def _longest(before: float | None, drain: float) -> float | None:
    if drain <= _BUSY_DRAIN_SECONDS:
        return before
    if before is None or drain >= before:
        return round(drain, 3)
    return round(before - _DRAIN_FADE * (before - drain), 3)
