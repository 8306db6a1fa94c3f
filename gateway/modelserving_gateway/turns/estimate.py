"""How long it will take until a model is served: what swaps were measured to cost here.

Pure. An estimate, never a promise: it feeds Retry-After, the comments of held streams and the
choice between ModelServings; no request is refused because of it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from modelserving_gateway.cluster.catalog import Catalog, Serving

UNMEASURED_LOAD_SECONDS: Final = 30.0
"""A 7B model from a local disk; only used until the first load has been measured."""

_UNMEASURED_STOP_SECONDS: Final = 10.0
"""An idle engine's shutdown and kubelet's removal of its Pod."""

_SHORTEST_SECONDS: Final = 1.0
"""A swap that takes longer than it ever did is expected to end any moment, again and again."""


def load_seconds(serving: Serving, model: str) -> float:
    """Return the measured load time of a model, or a guess."""
    measured = serving.status.model(model).load_seconds
    return UNMEASURED_LOAD_SECONDS if measured is None else measured


def seconds_until_served(serving: Serving, model: str, now: datetime) -> float:
    """Return about how long this ModelServing takes to serve a model that it does not serve now."""
    status = serving.status
    swap = status.current_swap
    cost = _stop_seconds(serving) + load_seconds(serving, model)
    if swap is None:
        return cost if status.active_model is not None else load_seconds(serving, model)
    elapsed = (now - swap.started_time).total_seconds()
    if swap.to_model == model:
        return max(_SHORTEST_SECONDS, cost - elapsed)
    before = _stop_seconds(serving)
    if swap.to_model is not None:
        before += load_seconds(serving, swap.to_model)
    return max(_SHORTEST_SECONDS, before - elapsed) + cost


def retry_after_seconds(catalog: Catalog, model: str, now: datetime) -> float:
    """Return when a client may try again: the least that any ModelServing is expected to take."""
    estimates = [
        seconds_until_served(serving, model, now) for serving in catalog.servings_of(model)
    ]
    return min(estimates, default=UNMEASURED_LOAD_SECONDS)


def progress(servings: Iterable[Serving], model: str, now: datetime) -> tuple[str, float]:
    """Return the state of a model that is waited for, and about how many seconds are left.

    The state is the phase of its swap, or what is swapped or served before it.
    """
    best = min(servings, key=lambda serving: seconds_until_served(serving, model, now))
    swap = best.status.current_swap
    left = seconds_until_served(best, model, now)
    if swap is not None and swap.to_model == model:
        return swap.phase.value, left
    return ("Queued" if swap is not None else "Waiting"), left


def _stop_seconds(serving: Serving) -> float:
    """Return what draining and stopping a model took the last time."""
    last = serving.status.last_swap
    if last is None or last.parts.stop_seconds is None:
        return _UNMEASURED_STOP_SECONDS
    return last.parts.stop_seconds + (last.parts.drain_seconds or 0.0)
