"""Priority classes of requests, and how much they matter: one table.

Pure. Earliest due date first: a request is due its class's handicap after its arrival, and of what
waits for a model the earliest due goes first. So a class goes before another, but only before what
arrived within the difference of their handicaps: nobody starves, whatever the load.
(Kleinrock, Queueing Systems II, 3.7: the time-dependent disciplines with a constant start.)
"""

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
    order = tuple(Priority)
    return order[max(order.index(wanted), order.index(allowed))]
