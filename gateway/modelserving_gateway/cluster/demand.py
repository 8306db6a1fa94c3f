"""The demand that this gateway publishes: what it is, and when a change of it is worth a write.

Pure. Writing is publish.py's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from modelserving_api.names import GROUP, KIND, VERSION
from modelserving_api.priority import Priority


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that wait for one model."""

    waiting: int
    since: datetime
    priority: Priority = Priority.NORMAL
    """The most urgent class that waits."""


DemandByModel = Mapping[str, Demand]

_MIN_INTERVAL_SECONDS: Final = 0.1
"""Between any two writes to one ModelServing. Demand that comes and goes with every request of an
impatient client may cost the API server ten writes a second, not hundreds."""

_COUNT_INTERVAL_SECONDS: Final = 1.0
"""Between a write and the next one that tells only another count: the operator decides by what is
wanted, since when and how urgently; how many is worth less."""


def seconds_until_write(
    published: DemandByModel, wanted: DemandByModel, since_write: float, renew: float
) -> float | None:
    """Return when the entry must be written: 0 is now, None is never as things stand.

    `since_write` is the age of the last write in seconds, `renew` the interval of renewals.
    """
    if published.keys() != wanted.keys():
        return max(0.0, _MIN_INTERVAL_SECONDS - since_write)
    if not wanted:
        return None
    if any(published[model].priority is not wanted[model].priority for model in wanted):
        return max(0.0, _MIN_INTERVAL_SECONDS - since_write)
    if any(_differs_much(published[model].waiting, wanted[model].waiting) for model in wanted):
        return max(0.0, min(_COUNT_INTERVAL_SECONDS, renew) - since_write)
    return max(0.0, renew - since_write)


def _differs_much(published: int, wanted: int) -> bool:
    return wanted >= 2 * published or 2 * wanted <= published


def entry_to_apply(
    *,
    serving: str,
    uid: str,
    requester: str,
    wanted: DemandByModel,
    renew_time: datetime,
) -> dict[str, Any]:
    """Return the object to apply: this gateway's own entry of spec.requests and nothing else.

    The uid keeps a ModelServing that was made anew under the same name from getting old demand.
    """
    entry = {
        "requester": requester,
        "renewTime": _timestamp(renew_time),
        "models": [
            {
                "name": model,
                "waiting": demand.waiting,
                "since": _timestamp(demand.since),
                "priority": demand.priority.value,
            }
            for model, demand in sorted(wanted.items())
        ],
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": serving, "uid": uid},
        "spec": {"requests": [entry]},
    }


def removal_patch(
    serving: Mapping[str, Any], uid: str, requester: str
) -> list[dict[str, Any]] | None:
    """Return the JSON patch (RFC 6902) that removes a requester's entry, or None without one.

    Its tests make the API server refuse it when the list has changed since it was read.
    """
    entries = serving.get("spec", {}).get("requests") or []
    for index, entry in enumerate(entries):
        if entry.get("requester") == requester:
            path = f"/spec/requests/{index}"
            return [
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "test", "path": f"{path}/requester", "value": requester},
                {"op": "remove", "path": path},
            ]
    return None


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
