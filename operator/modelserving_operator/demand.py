"""Which gateways still want something, and what they want in sum.

Pure: time is passed in. An entry is judged by when this operator last saw it change, never by the
time written in it, since the clocks of two nodes differ. What the ledger remembers may be lost at
any moment: a fresh one gives every entry its full time again, which is the safe side.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from modelserving_api.spec import RequestEntry
from modelserving_operator.observation import ModelDemand


@dataclass
class DemandLedger:
    """When each gateway's entry last changed, by our own clock."""

    expiry: timedelta
    _seen: dict[str, tuple[RequestEntry, datetime]] = field(default_factory=dict)

    def split(
        self, entries: Iterable[RequestEntry], now: datetime
    ) -> tuple[list[RequestEntry], list[str]]:
        """Return the live entries, and the requesters whose entries have expired."""
        live: list[RequestEntry] = []
        expired: list[str] = []
        current = {entry.requester: entry for entry in entries}
        for requester, entry in current.items():
            known = self._seen.get(requester)
            if known is None or known[0] != entry:
                self._seen[requester] = known = (entry, now)
            if now - known[1] >= self.expiry:
                expired.append(requester)
            else:
                live.append(entry)
        for requester in self._seen.keys() - current.keys():
            del self._seen[requester]
        return live, expired


def aggregate(
    entries: Iterable[RequestEntry], declared: Iterable[str], now: datetime
) -> tuple[ModelDemand, ...]:
    """Sum what live entries wait for, oldest first; what is not declared is left out.

    A `since` from a clock that runs ahead counts as now: it must not outwait anyone.
    """
    names = set(declared)
    waiting: dict[str, int] = {}
    since: dict[str, datetime] = {}
    for entry in entries:
        for model in entry.models:
            if model.name not in names or model.waiting == 0:
                continue
            waiting[model.name] = waiting.get(model.name, 0) + model.waiting
            since[model.name] = min(since.get(model.name, now), model.since)
    demand = [ModelDemand(name, waiting[name], since[name]) for name in waiting]
    return tuple(sorted(demand, key=lambda each: (each.since, each.model)))
