"""What is done to a cluster under load, and when: faults as data, drawn from a seed.

Pure: the same seed gives the same faults, however many are asked for. tests/chaos does them.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelserving_api.status import SwapPhase


class Target(StrEnum):
    """The process that something is done to."""

    OPERATOR = "operator"
    GATEWAY = "gateway"
    ENGINE = "engine"
    KUBELET = "kubelet"
    API_SERVER = "API server"
    ETCD = "etcd"


class Deed(StrEnum):
    """What is done to it."""

    KILL = "kill"
    """SIGKILL. Whoever is in charge of it starts it again."""
    PAUSE = "pause"
    """SIGSTOP, and SIGCONT later: it is there and does not answer."""


class Moment(StrEnum):
    """What a ModelServing does when it happens."""

    SERVING = "Serving"
    DRAINING = SwapPhase.DRAINING.value
    STOPPING = SwapPhase.STOPPING.value
    SCHEDULING = SwapPhase.SCHEDULING.value
    LOADING = SwapPhase.LOADING.value
    PROBING = SwapPhase.PROBING.value


@dataclass(frozen=True)
class Kind:
    """A deed to a target."""

    deed: Deed
    target: Target

    def __str__(self) -> str:
        return f"{self.deed} {self.target}"


KINDS: Final = tuple(Kind(deed, target) for deed in Deed for target in Target)

PROMISED: Final = (
    *(Kind(Deed.KILL, target) for target in Target),
    Kind(Deed.PAUSE, Target.API_SERVER),
    Kind(Deed.PAUSE, Target.ETCD),
)
"""What the product promises to outlive; the rest of KINDS is what else happens to processes."""

LONGEST_DELAY_SECONDS: Final = 2.0
"""After the phase was seen. Loading and probing take a third of that with the stand-in engine, so
that half of the faults come in the phase and half in what follows it."""

PAUSE_SECONDS: Final = (1.0, 20.0)
"""Below 1 s nothing notices. 20 s is longer than every deadline that a component of Kubernetes has
for the API server (the scheduler and the controller manager give up after 10 s), longer than the
gateways' entries live here (6 s), and shorter than three failed liveness probes of ours."""

_ENGINE_MOMENTS: Final = (Moment.SERVING, Moment.DRAINING, Moment.LOADING, Moment.PROBING)
"""Those in which there is an engine to do something to, for a while."""


@dataclass(frozen=True)
class Fault:
    """One round: wait for the moment, then the delay, then do the deed."""

    number: int
    kind: Kind
    moment: Moment
    delay_seconds: float
    pause_seconds: float
    """Between SIGSTOP and SIGCONT; 0 for a kill."""
    draw: float
    """In [0, 1): which of several gateways or nodes it meets."""

    def pick(self, candidates: Sequence[str]) -> str:
        """Return which of the candidates it meets."""
        return sorted(candidates)[int(self.draw * len(candidates))]

    def __str__(self) -> str:
        pause = f" for {self.pause_seconds:.1f} s" if self.pause_seconds else ""
        return f"{self.kind}{pause}, {self.delay_seconds:.2f} s after {self.moment}"


def faults(
    seed: int,
    count: int,
    *,
    kinds: Sequence[Kind] = KINDS,
    longest_pause_seconds: float = PAUSE_SECONDS[1],
) -> Iterator[Fault]:
    """Yield `count` faults. Every kind comes once before any comes again, in a random order.

    `longest_pause_seconds` is cut off, not rescaled: a seed keeps its other draws.
    """
    for number in range(count):
        block, place = divmod(number, len(kinds))
        order = list(kinds)
        random.Random(f"{seed}/order/{block}").shuffle(order)
        kind = order[place]
        yield _fault(random.Random(f"{seed}/{number}"), number, kind, longest_pause_seconds)


def _fault(drawn: random.Random, number: int, kind: Kind, longest_pause_seconds: float) -> Fault:
    moments = _ENGINE_MOMENTS if kind.target is Target.ENGINE else tuple(Moment)
    moment = drawn.choice(moments)
    delay = drawn.uniform(0, LONGEST_DELAY_SECONDS)
    # Of each length about as many: most of what breaks breaks in the first seconds.
    pause = math.exp(drawn.uniform(*(math.log(each) for each in PAUSE_SECONDS)))
    return Fault(
        number=number,
        kind=kind,
        moment=moment,
        delay_seconds=round(delay, 3),
        pause_seconds=round(min(pause, longest_pause_seconds), 3) if kind.deed is Deed.PAUSE else 0,
        draw=drawn.random(),
    )
