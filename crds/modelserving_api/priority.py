"""Priority classes of requests, and how much they matter: one table for both programs.

Pure. Earliest due date first: a request is due its class's handicap after its arrival. Gateways
order what waits for one model by it, the operator the models that wait for the GPU.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Priority(StrEnum):
    """The classes, the most urgent first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


HANDICAP_SECONDS: Final = {Priority.HIGH: 0.0, Priority.NORMAL: 30.0, Priority.LOW: 120.0}
"""Somebody who waits in front of a screen goes before half a minute of others' arrivals; a batch
lets two minutes of them pass, and is still served within the default hold budget of ten."""


def at_most(wanted: Priority, allowed: Priority) -> Priority:
    """Return what is wanted, lowered to what is allowed."""
    return max(wanted, allowed, key=tuple(Priority).index)


def most_urgent(classes: Iterable[Priority]) -> Priority:
    """Return the most urgent of some classes."""
    return min(classes, key=tuple(Priority).index)
