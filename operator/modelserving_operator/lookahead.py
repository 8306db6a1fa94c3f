"""When the first of several swaps must begin so that nobody waits beyond a deadline.

Pure arithmetic on a round of visits, one for each model that waits; which of them to prefer is
policy's. With deadlines of equal length the earliest deadline first is the best order of all where
swaps cost the same (Jackson's rule, 1955; Stankovic et al., "Deadline Scheduling for Real-Time
Systems", 1998), so if this round is late, every other one is too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from modelserving_operator.costs import Costs

HANDOVER_SECONDS: Final = 1.0
"""What a swap takes beyond what is measured of it: a wake-up or a poll before it, and the watches
that tell gateways of its end."""

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Visit:
    """A model that must be ready by its deadline."""

    model: str
    deadline: datetime


TurnSeconds = Callable[[str], float]
"""How long a model's shortest turn takes, until the last of its requests has ended."""


def latest_start(
    leaving: str | None, round_: Sequence[Visit], costs: Costs, turn: TurnSeconds
) -> datetime:
    """Return the last moment at which the first swap may begin, the active model being drained."""
    return min(
        (
            visit.deadline - timedelta(seconds=ready_after)
            for visit, ready_after in _ready(leaving, round_, costs, turn)
        ),
        default=_NEVER,
    )


def missed(
    leaving: str | None, round_: Sequence[Visit], costs: Costs, turn: TurnSeconds, start: datetime
) -> dict[str, float]:
    """Return by how many seconds each model misses its deadline if the swaps begin at `start`."""
    late = {
        visit.model: (start - visit.deadline).total_seconds() + ready_after
        for visit, ready_after in _ready(leaving, round_, costs, turn)
    }
    return {model: seconds for model, seconds in late.items() if seconds > 0}


def round_seconds(models: Sequence[str], costs: Costs, turn: TurnSeconds) -> float:
    """Return how long it takes to give each model its shortest turn and come back to the first."""
    return sum(
        costs.at_most(models[index - 1], model) + HANDOVER_SECONDS + turn(model)
        for index, model in enumerate(models)
    )


def _ready(
    leaving: str | None, round_: Sequence[Visit], costs: Costs, turn: TurnSeconds
) -> list[tuple[Visit, float]]:
    """Return each visit with the seconds after which its model is ready."""
    elapsed = 0.0
    visits: list[tuple[Visit, float]] = []
    for visit in round_:
        elapsed += costs.at_most(leaving, visit.model) + HANDOVER_SECONDS
        visits.append((visit, elapsed))
        elapsed += turn(visit.model)
        leaving = visit.model
    return visits
