"""Which gateways still want something, and what they want in sum.

Pure: time is passed in. Whether an entry lives is judged by when this operator last saw it change,
and how long it has waited by when this operator first saw it, since the clocks of two nodes differ.
What the ledger remembers may be lost at any moment: a fresh one gives every entry its full time
again and believes, once, what is written in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from modelserving_api.priority import Priority
from modelserving_api.spec import Demand, RequestEntry
from modelserving_operator.observation import ModelDemand

_ON_ITS_WAY: Final = timedelta(seconds=5)
"""How much older than our first sight of it demand may claim to be: a write and a watch take
milliseconds, an API server in trouble a few seconds."""


@dataclass
class DemandLedger:
    """When each gateway's entry last changed, and when each wish in it appeared, by our clock."""

    expiry: timedelta
    _seen: dict[str, tuple[RequestEntry, datetime]] = field(default_factory=dict)
    _earliest: dict[tuple[str, str], datetime] = field(default_factory=dict)
    _fresh: bool = True

    def split(
        self, entries: Iterable[RequestEntry], now: datetime
    ) -> tuple[list[RequestEntry], list[str]]:
        """Return the live entries, and the requesters whose entries have expired."""
        live: list[RequestEntry] = []
        expired: list[str] = []
        current = {entry.requester: entry for entry in entries}
        self._note_wishes(current.values(), now)
        for requester, entry in current.items():
            known = self._seen.get(requester)
            if known is None or known[0] != entry:
                self._seen[requester] = known = (entry, now)
            if now - known[1] >= self.expiry:
                expired.append(requester)
            else:
                live.append(self._by_our_clock(entry, now))
        for requester in self._seen.keys() - current.keys():
            del self._seen[requester]
        return live, expired

    def lapsing(self, now: datetime) -> bool:
        """Return whether an entry has not changed for so long that it counts as expired.

        That must not rest on entries that were read a while ago: they may have been renewed since.
        """
        return any(now - changed >= self.expiry for _, changed in self._seen.values())

    def _note_wishes(self, entries: Iterable[RequestEntry], now: datetime) -> None:
        wishes = {
            (entry.requester, model.name): model for entry in entries for model in entry.models
        }
        for key in self._earliest.keys() - wishes.keys():
            del self._earliest[key]
        for key, model in wishes.items():
            believed = model.since if self._fresh else now - _ON_ITS_WAY
            self._earliest.setdefault(key, believed)
        self._fresh = False

    def _by_our_clock(self, entry: RequestEntry, now: datetime) -> RequestEntry:
        return entry.model_copy(
            update={
                "models": [
                    self._bounded(model, self._earliest[entry.requester, model.name], now)
                    for model in entry.models
                ]
            }
        )

    def _bounded(self, model: Demand, earliest: datetime, now: datetime) -> Demand:
        since = min(max(model.since, earliest), now)
        return model.model_copy(update={"since": since.astimezone(UTC)})


def aggregate(entries: Iterable[RequestEntry], declared: Iterable[str]) -> tuple[ModelDemand, ...]:
    """Sum what live entries wait for, oldest first; what is not declared is left out."""
    names = set(declared)
    found: dict[str, ModelDemand] = {}
    for entry in entries:
        for model in entry.models:
            if model.name in names and model.waiting > 0:
                found[model.name] = _sum(found.get(model.name), model)
    return tuple(sorted(found.values(), key=lambda each: (each.since, each.model)))


def _sum(known: ModelDemand | None, more: Demand) -> ModelDemand:
    added = ModelDemand(
        more.name, more.waiting, more.since, more.priority or Priority.NORMAL, more.since
    )
    if known is None:
        return added
    first = min(known, added, key=lambda each: each.due)
    return ModelDemand(
        more.name,
        known.waiting + added.waiting,
        min(known.since, added.since),
        first.priority,
        first.due_since,
    )
