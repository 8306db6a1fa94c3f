"""How trace.csv was made: `python -m benchmarks.arbitration.record > …/trace.csv`.

Not from anybody's production: we have none yet. It records two hours of ten people and three
programs as we use such a server ourselves. Chats: a message, the answer's length, 5 to 60 s of
reading and typing, 3 to 15 messages, then a pause of minutes; each person prefers one model. Coding
agents: 10 to 40 calls in a row, each sent when the last answer is there and its tool has run (1 to
8 s). A nightly batch: 200 requests for one model within a minute. Pictures: now and then five in a
row. A think time counts from when an answer would have ended on an idle server, so the arrivals do
not depend on any policy.
"""

import csv
import math
import random
import sys
from collections.abc import Iterator

SECONDS = 7200.0
Row = tuple[float, int, float]


def rows(seed: int = 20261124) -> list[Row]:
    """Return the trace: seconds, model's index, seconds of service."""
    rng = random.Random(seed)
    favourites = (0, 0, 0, 1, 1, 2, 3, 4, 8, 9)
    found: list[Row] = []
    for favourite in favourites:
        found += _person(rng, favourite)
    for agent, model in enumerate((1, 5, 2)):
        found += _agent(rng, model, first=600.0 * agent)
    found += [(4800 + rng.uniform(0, 60), 7, rng.uniform(2, 12)) for _ in range(200)]
    for _ in range(8):
        start = rng.uniform(0, SECONDS)
        found += [(start + 3 * index, 2, rng.uniform(3, 9)) for index in range(5)]
    return sorted(row for row in found if row[0] < SECONDS)


def _person(rng: random.Random, favourite: int) -> Iterator[Row]:
    moment = rng.uniform(0, 900)
    while moment < SECONDS:
        model = favourite if rng.random() < 0.8 else rng.randrange(10)
        for _ in range(rng.randint(3, 15)):
            service = _answer(rng)
            yield moment, model, service
            moment += service + rng.uniform(5, 60)
        moment += rng.expovariate(1 / 600)


def _agent(rng: random.Random, model: int, first: float) -> Iterator[Row]:
    moment = first
    while moment < SECONDS:
        for _ in range(rng.randint(10, 40)):
            service = _answer(rng)
            yield moment, model, service
            moment += service + rng.uniform(1, 8)
        moment += rng.expovariate(1 / 900)


def _answer(rng: random.Random) -> float:
    return min(rng.lognormvariate(math.log(4), 0.7), 20.0)


def main() -> None:
    """Write the trace to standard output."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("seconds", "model", "service_seconds"))
    for moment, model, service in rows():
        writer.writerow((f"{moment:.2f}", model, f"{service:.2f}"))


if __name__ == "__main__":
    main()
