"""What a decision about the GPU depends on, and what it can be.

Only types live here; the rules are policy's and contention's.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from modelserving_api.names import Reason
from modelserving_api.spec import Swap
from modelserving_operator.costs import Costs
from modelserving_operator.observation import EngineActivity, ModelDemand


class Cause(StrEnum):
    """Which rule has decided: the label of a metric, finer than the reason of a condition."""

    PINNED = "Pinned"
    NOBODY_WAITS = "NobodyWaits"
    NOTHING_WANTED = "NothingWanted"
    ALL_FAILED = "AllFailed"
    AT_REST = "AtRest"
    NODE_NOT_READY = "NodeNotReady"
    """Nothing can be stopped or started while nothing is heard of the engine's node."""
    FREE_GPU = "FreeGPU"
    """Nothing is loaded, so whoever waits goes in at once."""
    SERVING_ON = "ServingOn"
    """Others wait; the active model has work, or was loaded too short a time ago."""
    FELL_IDLE = "FellIdle"
    MAXIMUM_WAIT = "MaximumWait"
    """A swap had to begin now, lest somebody wait for longer than maxWaitSeconds."""
    PRIORITY = "Priority"
    LONG_IDLE = "LongIdle"


@dataclass(frozen=True)
class Facts:
    """What a decision depends on."""

    now: datetime
    swap: Swap
    active: str | None = None
    active_since: datetime | None = None
    unasked: bool = False
    """Nobody had asked for the active model when it was loaded: the default, or a way back."""
    activity: EngineActivity | None = None
    """What the active engine is doing; None: it did not say."""
    idle_since: datetime | None = None
    pin: str | None = None
    default: str | None = None
    last_working: str | None = None
    """What served before the last swap, which failed; it comes back when nothing else is wanted."""
    at_rest: bool = False
    """Nothing is loaded on purpose: the GPU was freed after an idle time."""
    demand: tuple[ModelDemand, ...] = ()
    blocked: Mapping[str, datetime | None] = field(default_factory=dict)
    """Models whose last load failed and that must not be tried now, and until when; None: not
    before their spec changes."""
    failed: Collection[str] = ()
    """Models whose last load failed, whether or not they may be tried again."""
    proven: tuple[str, ...] = ()
    """Models that have loaded before, the latest first."""
    costs: Costs = field(default_factory=Costs)

    def seconds_until(self, moment: datetime) -> float:
        """Return the pause until then; never zero, which would turn a loop into a spin."""
        return max((moment - self.now).total_seconds(), 0.05)

    def seconds_until_try(self, names: Iterable[str]) -> float | None:
        """Return the pause until one of these models may be tried; None: none ever will be."""
        moment = self.next_try(names)
        return self.seconds_until(moment) if moment is not None else None

    def next_try(self, names: Iterable[str]) -> datetime | None:
        """Return when the first of these failed models may be tried; None: none ever will be."""
        retries = [retry for name in names if (retry := self.blocked.get(name)) is not None]
        return min(retries, default=None)


@dataclass(frozen=True)
class Stay:
    """Leave things as they are."""

    message: str
    cause: Cause
    look_again_seconds: float | None = None
    dark: Reason = Reason.NO_DEMAND
    """Why nothing serves, when nothing does."""
    late: Mapping[str, float] = field(default_factory=dict)
    """Models that will wait beyond maxWaitSeconds, and by how many seconds."""


@dataclass(frozen=True)
class SwapTo:
    """Put this model on the GPU; None frees it."""

    model: str | None
    reason: Reason
    message: str
    cause: Cause
    late: Mapping[str, float] = field(default_factory=dict)


Decision = Stay | SwapTo


def clock(moment: datetime) -> str:
    """Return a moment as people read it."""
    return f"{moment.astimezone(UTC):%H:%M:%SZ}"


def waiting_text(demand: ModelDemand) -> str:
    """Return who waits, as people read it."""
    requests = "1 request waits" if demand.waiting == 1 else f"{demand.waiting} requests wait"
    return f"{requests} for {demand.model}"
