"""Who asks for which model, when, and for how long: arrivals as data.

Pure and seeded: the same name, number of models and seed give the same arrivals.
"""

import csv
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from modelserving_api.priority import Priority

HOURS: Final = 2.0
TRACE: Final = Path(__file__).parent / "trace.csv"

LONGEST_ANSWER_SECONDS: Final = 20.0
"""600 tokens at 30 a second: what max_tokens commonly allows. Shorter than any drain budget here,
so nobody has to be cut off."""


@dataclass(frozen=True)
class Arrival:
    """One request: when it comes, for which model, and how long the engine works on it."""

    seconds: float
    model: str
    service_seconds: float
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True)
class Workload:
    """A named stream of arrivals over some hours."""

    name: str
    models: tuple[str, ...]
    seconds: float
    arrivals: tuple[Arrival, ...]


def names(models: int) -> tuple[str, ...]:
    """Return the models' names."""
    return tuple(f"m{index}" for index in range(models))


def make(name: str, models: int, seed: int) -> Workload:
    """Make a workload by its name, one of KINDS."""
    rng = random.Random(f"{name}-{models}-{seed}")
    declared = names(models)
    seconds = HOURS * 3600
    arrivals = sorted(
        (each for each in KINDS[name](declared, seconds, rng) if each.seconds < seconds),
        key=lambda each: each.seconds,
    )
    return Workload(name, declared, seconds, tuple(arrivals))


def _answer(rng: random.Random) -> float:
    """Return how long an answer takes: lognormal, median 4 s, as lengths of answers are."""
    return min(rng.lognormvariate(math.log(4), 0.7), LONGEST_ANSWER_SECONDS)


def _poisson_times(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    moment = rng.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += rng.expovariate(rate)


def _poisson(models: tuple[str, ...], seconds: float, rng: random.Random) -> Iterator[Arrival]:
    """One request every 10 s in all; the second model is asked half as often as the first, …"""
    weights = [1 / (index + 1) for index in range(len(models))]
    for moment in _poisson_times(0.1, seconds, rng):
        yield Arrival(moment, rng.choices(models, weights)[0], _answer(rng))


def _saturated(models: tuple[str, ...], seconds: float, rng: random.Random) -> Iterator[Arrival]:
    """Every model is asked all the time: 1.5 requests a second in all."""
    for moment in _poisson_times(1.5, seconds, rng):
        yield Arrival(moment, rng.choice(models), _answer(rng))


def _bursty(models: tuple[str, ...], seconds: float, rng: random.Random) -> Iterator[Arrival]:
    """Batches of 5 to 40 requests within ten seconds, each model every 100 s times their number."""
    for model in models:
        for start in _poisson_times(1 / (100 * len(models)), seconds, rng):
            for _ in range(rng.randint(5, 40)):
                yield Arrival(start + rng.uniform(0, 10), model, _answer(rng))


def _diurnal(models: tuple[str, ...], seconds: float, rng: random.Random) -> Iterator[Arrival]:
    """A day in two hours: each model's rate is a sine wave, from none to one request in 6 s.

    Half of the models have their noon when the others have midnight. Thinning, after Lewis and
    Shedler (1979).
    """
    most = 1 / 6
    for index, model in enumerate(models):
        for moment in _poisson_times(most, seconds, rng):
            phase = 2 * math.pi * (moment / seconds + index % 2 / 2)
            if rng.random() < ((1 - math.cos(phase)) / 2) ** 2:
                yield Arrival(moment, model, _answer(rng))


def _ping_pong(models: tuple[str, ...], seconds: float, _: random.Random) -> Iterator[Arrival]:
    """The next model every 7 s, in turns: whatever was just loaded is not what comes next."""
    for index in count():
        moment = 5.0 + 7.0 * index
        if moment >= seconds:
            return
        yield Arrival(moment, models[index % len(models)], 2.0)


def _recorded(models: tuple[str, ...], seconds: float, _: random.Random) -> Iterator[Arrival]:
    """The trace that ships with this package; record.py says how it was made."""
    with TRACE.open(newline="") as file:
        for row in csv.DictReader(file):
            moment, index = float(row["seconds"]), int(row["model"])
            if index < len(models):
                yield Arrival(moment, models[index], float(row["service_seconds"]))


Kind = Callable[[tuple[str, ...], float, random.Random], Iterator[Arrival]]

KINDS: Final[dict[str, Kind]] = {
    "poisson": _poisson,
    "saturated": _saturated,
    "bursty": _bursty,
    "diurnal": _diurnal,
    "ping-pong": _ping_pong,
    "recorded": _recorded,
}
