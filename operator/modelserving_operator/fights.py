"""Whether somebody keeps changing what is put back: a person who edits once, or a controller.

Pure: time is passed in. Putting back costs a restart where the engine serves, so a fight that
cannot be won is conceded. All of it may be lost at any moment; then it is fought anew, as often.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

_ROUNDS: Final = 3
"""Edits of one object that are put back; a person gives up before, or asks."""

_WITHIN: Final = timedelta(hours=1)
"""What is edited thrice within this is edited by a program."""

Object = tuple[str, str]
"""Kind and name."""


@dataclass
class Fights:
    """How often each object was put back, and which are left as they are."""

    _rounds: dict[Object, tuple[datetime, ...]] = field(default_factory=dict)
    _conceded: dict[Object, datetime] = field(default_factory=dict)

    def note(self, put_back: Object, now: datetime) -> None:
        """Remember that an edited object is put back."""
        recent = (at for at in self._rounds.get(put_back, ()) if now - at < _WITHIN)
        self._rounds[put_back] = (*recent, now)

    def judge(self, edited: Iterable[Object], now: datetime) -> dict[Object, datetime]:
        """Return which of the edited objects are left so, and since when.

        One is left until it is no longer edited: until its spec changes, or the other gives in.
        """
        self._conceded = {
            each: self._conceded.get(each, now)
            for each in edited
            if each in self._conceded or self._is_lost(each, now)
        }
        return dict(self._conceded)

    def _is_lost(self, each: Object, now: datetime) -> bool:
        return sum(now - at < _WITHIN for at in self._rounds.get(each, ())) >= _ROUNDS
