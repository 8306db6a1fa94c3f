"""Where a request for a model goes now: forward, hold, or refuse, as data with its reason.

Pure. Nothing is remembered from one decision to the next.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from modelserving_api.status import ModelState
from modelserving_gateway import errors
from modelserving_gateway.catalog import Catalog, Serving
from modelserving_gateway.errors import ApiError

_UNMEASURED_LOAD_SECONDS: Final = 30.0
"""A 7B model from a local disk; only used until the first load has been measured."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The model is served at this base URL."""

    endpoint: str
    serving: str
    stop_seconds: float
    """How long its engine may go on with what runs, once the endpoint is taken away."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The model is to be swapped in by this ModelServing."""

    serving: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing that may happen by itself makes the model available soon."""

    error: ApiError


Decision = Forward | Hold | Refuse


def decide(catalog: Catalog, model: str, now: datetime) -> Decision:
    """Decide about a model by its name; `now` has a time zone."""
    servings = catalog.servings_of(model)
    if not servings:
        return Refuse(errors.model_not_found(model))
    for serving in servings:
        if (endpoint := serving.endpoint_of(model)) is not None:
            return Forward(endpoint, serving.name, serving.stop_seconds)
    problems = [(serving, _problem(serving, model, now)) for serving in servings]
    able = [serving for serving, problem in problems if problem is None]
    if able:
        # Demand belongs where the model is being loaded already, else both would swap.
        chosen = min(able, key=lambda serving: serving.status.target_model != model)
        return Hold(chosen.name)
    return Refuse(next(problem for _, problem in problems if problem is not None))


def _problem(serving: Serving, model: str, now: datetime) -> ApiError | None:
    """Say why this ModelServing will not serve the model, or None."""
    if serving.deleting:
        return errors.model_serving_deleted(model, serving.name)
    if serving.invalid is not None:
        return errors.model_serving_invalid(model, serving.name, serving.invalid)
    if serving.pinned is not None and serving.pinned != model:
        return errors.model_pinned(model, serving.pinned, serving.name)
    status = serving.status.model(model)
    if status.state is ModelState.FAILED and status.next_retry_time is not None:
        wait = (status.next_retry_time - now).total_seconds()
        if wait > 0:
            return errors.model_load_failed(model, status.reason, status.message, wait)
    return None


def retry_after_seconds(catalog: Catalog, model: str) -> float:
    """Return when a client may try again: what loading the model was measured to cost."""
    measured = [
        seconds
        for serving in catalog.servings_of(model)
        if (seconds := serving.status.model(model).load_seconds) is not None
    ]
    return min(measured, default=_UNMEASURED_LOAD_SECONDS)
