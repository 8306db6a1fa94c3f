"""Where a request for a model goes now: forward, hold, or refuse, as data with its reason.

Pure. Nothing is remembered from one decision to the next: gateways that see the same ModelServings
decide the same, and what one of them has published the others follow.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import ModelState, ModelStatus
from modelserving_gateway.api import errors
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.cluster.catalog import Catalog, Serving
from modelserving_gateway.turns.estimate import load_seconds

_STUCK: Final = frozenset(
    {Reason.POD_STUCK_TERMINATING, Reason.NODE_NOT_READY, Reason.SERVING_NODE_NOT_READY}
)


@dataclass(frozen=True, slots=True)
class Target:
    """A base URL that serves the model now."""

    endpoint: str
    serving: str
    stop_seconds: float
    """How long its engine may go on with what runs, once the endpoint is taken away."""


@dataclass(frozen=True, slots=True)
class Forward:
    """The model is served: everywhere that it is."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """The model is to be swapped in by this ModelServing."""

    serving: str | None
    """None: nothing is to be asked of any, since the operator is about to look by itself."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing that may happen by itself makes the model available soon."""

    error: ApiError


Decision = Forward | Hold | Refuse


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why one ModelServing will not serve a model."""

    error: ApiError
    ends_in: float = math.inf
    """Seconds until it ends by itself; it does not where a person has to act. 0: a person has, and
    the operator has not looked yet."""

    def order(self) -> tuple[object, ...]:
        """Return the place among the problems of a model: the one that ends soonest tells most."""
        return self.ends_in, self.error.pointless, self.error.retry_after is None


ANY_ACTIVE: Final = "*"
"""In a list of fallbacks: whatever is active, the largest model first."""


def decide(
    catalog: Catalog, model: str, now: datetime, in_flight: Mapping[str, int] | None = None
) -> Decision:
    """Decide about a model by its name; `now` has a time zone.

    `in_flight` is what this gateway has running, by endpoint.
    """
    servings = catalog.servings_of(model)
    if not servings:
        return Refuse(errors.model_not_found(model))
    targets = active_targets(servings, model)
    if targets:
        return Forward(targets)
    problems: list[_Problem] = []
    able: list[Serving] = []
    for serving in servings:
        problem = _problem(serving, model, now)
        if problem is None:
            able.append(serving)
        else:
            problems.append(problem)
    if able:
        return Hold(_cheapest(able, model, in_flight or {}).name)
    soonest = min(problems, key=_Problem.order)
    return Refuse(soonest.error) if soonest.ends_in else Hold(None)


def active_targets(servings: Iterable[Serving], model: str) -> tuple[Target, ...]:
    """Return where the model is served now."""
    return tuple(
        Target(endpoint, serving.name, serving.stop_seconds)
        for serving in servings
        if (endpoint := serving.endpoint_of(model)) is not None
    )


def fallback(
    catalog: Catalog, wanted: str, others: Iterable[str], may_use: Callable[[str], bool]
) -> str | None:
    """Return the first of the other models that is served now, when the wanted one is not.

    The others are names or aliases in the client's order; what does not exist is passed over.
    """
    if active_targets(catalog.servings_of(wanted), wanted):
        return None
    for name in others:
        candidates = _largest_first(catalog) if name == ANY_ACTIVE else [catalog.model_called(name)]
        for model in candidates:
            if (
                model is not None
                and may_use(model)
                and active_targets(catalog.servings_of(model), model)
            ):
                return model
    return None


def active_models(catalog: Catalog) -> tuple[str, ...]:
    """Return the models that are served now, by name."""
    return tuple(
        model for model in catalog.models() if active_targets(catalog.servings_of(model), model)
    )


def _largest_first(catalog: Catalog) -> list[str]:
    return sorted(catalog.models(), key=lambda model: (-catalog.gpu_memory(model), model))


def _cheapest(able: list[Serving], model: str, in_flight: Mapping[str, int]) -> Serving:
    """Return where swapping the model in costs least now.

    Not where nothing can be swapped for now; then where it is being loaded already, else two would
    swap; then where gateways want it already, the
    longest first, which is how they agree; then where nothing is lost by swapping; then where it
    loads fastest.
    """

    def cost(serving: Serving) -> tuple[object, ...]:
        since = serving.wanted_since(model)
        return (
            _is_stuck(serving),
            serving.status.target_model != model,
            (since is None, since),
            _busyness(serving, in_flight),
            load_seconds(serving, model),
            serving.name,
        )

    return min(able, key=cost)


def _is_stuck(serving: Serving) -> bool:
    """Return whether a swap there waits for a node or a Pod, which may take hours."""
    ready = serving.status.condition(ConditionType.READY)
    return ready is not None and ready.reason in _STUCK


def _busyness(serving: Serving, in_flight: Mapping[str, int]) -> int:
    """Return 0 for a free GPU, 1 for an idle model on it, 2 when others need what is there."""
    status = serving.status
    others_want = any(demand.model != status.active_model for demand in serving.demand)
    if status.target_model is not None or others_want:
        return 2
    if status.active_model is None:
        return 0
    running = in_flight.get(status.endpoint or "", 0)
    return 2 if running or serving.demand else 1


def _problem(serving: Serving, model: str, now: datetime) -> _Problem | None:
    """Say why this ModelServing will not serve the model, or None."""
    if serving.deleting:
        return _Problem(errors.model_serving_deleted(model, serving.name))
    if serving.invalid is not None:
        return _Problem(errors.model_serving_invalid(model, serving.name, serving.invalid))
    if serving.refused is not None:
        error = errors.model_serving_invalid(model, serving.name, serving.refused)
        return _Problem(error, ends_in=math.inf if serving.observed else 0)
    if serving.pinned is not None and serving.pinned != model:
        return _Problem(errors.model_pinned(model, serving.pinned, serving.name))
    status = serving.status.model(model)
    if status.state is not ModelState.FAILED:
        return None
    return _failure(status, now, observed=serving.observed)


def _failure(failed: ModelStatus, now: datetime, *, observed: bool) -> _Problem | None:
    """Say why a failed model is not tried now, or None when demand makes the operator try it.

    A failure is only for good until the spec changes. Not `observed`, it has, though maybe in
    nothing but demand, and what came of it will be known in a moment. Demand would not make that
    sooner: it is a change of the spec itself, and each would let the next request wait as well.
    """
    if failed.next_retry_time is None:
        # Without failures it was never tried: its objects were refused, which a swap tries anew.
        if failed.failures == 0:
            return None
        error = errors.model_load_failed(failed.name, failed.reason, failed.message, None)
        return _Problem(error, ends_in=math.inf if observed else 0)
    wait = (failed.next_retry_time - now).total_seconds()
    if wait <= 0:
        return None
    error = errors.model_load_failed(failed.name, failed.reason, failed.message, wait)
    return _Problem(error, ends_in=wait)
