"""What is known of one request on its way through the gateway, and the line that tells of it.

Only a record: what happens next is proxy.py's business.
"""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from modelserving_gateway.access.access import ANONYMOUS, Caller
from modelserving_gateway.api.answer_model import AnswerModel
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.surface import Forwarded
from modelserving_gateway.api.wishes import Wishes
from modelserving_gateway.clients.client import Client
from modelserving_gateway.keepalive import KeepAlive
from modelserving_gateway.turns.queueing import Held

_NO_WISHES: Final = Wishes()


@dataclass(slots=True)
class Exchange:
    """One request; times are of time.monotonic, which is the event loop's clock, in seconds."""

    client: Client
    route: Forwarded
    started: float
    caller: Caller = ANONYMOUS
    wishes: Wishes = _NO_WISHES
    asked: str = ""
    """The model, by the name that the client used."""
    model: str = ""
    """The declared model that is to answer."""
    fell_back: bool = False
    """Whether that is another one than was asked for, since it was active."""
    names: AnswerModel | None = None
    budget: float = math.inf
    """How long it may wait for its turn, counted from its start."""
    size: int = 0
    """Bytes of the body for the engine."""
    sequence: int = 0
    """Its place in arrival order."""
    arrived: float = 0.0
    """When it was there as a whole."""
    held: Held | None = None
    """Its place in the queue, once it has had to wait."""
    keepalive: KeepAlive | None = None
    """Only for a client that reads events."""
    was_held: bool = False
    held_seconds: float = 0.0
    first_byte_seconds: float | None = None
    reached_engine: int = 0
    """How often an engine may have begun with it and was then lost."""
    failures: int = 0
    avoid: str | None = None
    """The endpoint that has lost it last, not to be tried before `avoid_until`."""
    avoid_until: float = 0.0
    error: ApiError | None = None

    @property
    def until(self) -> float:
        """When its hold budget is over."""
        return self.started + self.budget

    @property
    def status(self) -> int:
        """What the client was told: an error in a stream counts as what it would have been."""
        return self.error.status if self.error is not None else self.client.status or 500

    def line(self) -> dict[str, Any]:
        """Return the fields of its line in the log: nothing of what was asked or answered."""
        return {
            "event": "request",
            "level": "info",
            "timestamp": datetime.now(UTC),
            "id": self.client.request_id.decode(),
            "path": self.route.path,
            "model": self.model,
            "key": self.caller.name or None,
            "status": self.status,
            "error": None if self.error is None else self.error.code,
            "held_seconds": round(self.held_seconds, 3),
            "first_byte_seconds": _rounded(self.first_byte_seconds),
            "total_seconds": round(time.monotonic() - self.started, 3),
            "retries": self.failures,
            "bytes": self.client.bytes_sent,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
