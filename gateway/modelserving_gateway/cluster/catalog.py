"""What the ModelServings of the namespace declare and where each model is served now.

Pure: immutable values made from the API's objects. How the objects get here is watch.py's business,
and nothing is remembered here beyond the last object seen.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from modelserving_api.names import ConditionType, Reason
from modelserving_api.quantities import parse_quantity
from modelserving_api.resource import parse_status
from modelserving_api.spec import ModelServingSpec
from modelserving_api.status import ConditionStatus, ModelServingStatus

_STOP_SLACK: Final = 2.0
"""Seconds for the operator to act and the signal to arrive."""


@dataclass(frozen=True, slots=True)
class DeclaredModel:
    """A model by its name, and the other names that clients may use."""

    name: str
    aliases: tuple[str, ...] = ()
    hold_seconds: float | None = None
    """How long its requests are held at most; None leaves it to the gateway."""
    gpu_memory: int = 0
    """Bytes that it needs on the card; 0 where that cannot be read."""


@dataclass(frozen=True, slots=True)
class PublishedDemand:
    """What one gateway wants of a ModelServing, as it stands in spec.requests."""

    requester: str
    model: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Serving:
    """One ModelServing, as far as a gateway needs it."""

    name: str
    uid: str
    created: datetime
    models: tuple[DeclaredModel, ...]
    pinned: str | None
    generation: int
    """Of the spec; each change of it counts, demand included."""
    status: ModelServingStatus
    invalid: str | None
    """Why the spec cannot be followed; None when it can."""
    refused: str | None
    """What the operator had against the spec when it looked, which may be a while ago."""
    deleting: bool
    stop_seconds: float
    """From taking its endpoint away until the engine has ended: drain and shutdown budgets."""
    requesters: frozenset[str]
    """Whose entries stand in spec.requests."""
    demand: tuple[PublishedDemand, ...]
    """What those entries want."""

    def declares(self, model: str) -> bool:
        """Say whether the model is declared here, by its name."""
        return any(each.name == model for each in self.models)

    @property
    def observed(self) -> bool:
        """Whether the operator had seen the spec as it is now when it wrote the status."""
        return self.status.observed_generation >= self.generation

    def wanted_since(self, model: str) -> datetime | None:
        """Return since when gateways want the model of this ModelServing, None if none does."""
        return min((each.since for each in self.demand if each.model == model), default=None)

    def endpoint_of(self, model: str) -> str | None:
        """Return the base URL that serves the model now, or None."""
        if self.status.active_model != model or not _is_http_url(self.status.endpoint):
            return None
        return self.status.endpoint


@dataclass(frozen=True, slots=True)
class _Declared:
    """What of a spec could be read."""

    models: tuple[DeclaredModel, ...]
    pinned: str | None = None
    stop_seconds: float = 90.0 + _STOP_SLACK  # the contract's defaults
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All ModelServings by name. A new one is made at each change."""

    servings: Mapping[str, Serving] = field(default_factory=dict)
    _by_model: Mapping[str, tuple[Serving, ...]] = field(default_factory=dict)
    _by_alias: Mapping[str, str] = field(default_factory=dict)

    def hold_seconds(self, model: str) -> float | None:
        """Return the longest hold budget that a ModelServing sets for the model, or None."""
        budgets = [
            each.hold_seconds
            for serving in self.servings_of(model)
            for each in serving.models
            if each.name == model and each.hold_seconds is not None
        ]
        return max(budgets, default=None)

    def gpu_memory(self, model: str) -> int:
        """Return the bytes that the model needs on a card."""
        return max(
            (
                each.gpu_memory
                for serving in self.servings_of(model)
                for each in serving.models
                if each.name == model
            ),
            default=0,
        )

    @classmethod
    def of(cls, servings: Iterable[Serving]) -> "Catalog":
        """Index the ModelServings. Where names clash, the ModelServing first by name decides."""
        ordered = sorted(servings, key=lambda serving: serving.name)
        by_model: dict[str, tuple[Serving, ...]] = {}
        by_alias: dict[str, str] = {}
        for serving in ordered:
            for model in serving.models:
                known = by_model.get(model.name, ())
                if serving not in known:
                    by_model[model.name] = (*known, serving)
                for alias in model.aliases:
                    by_alias.setdefault(alias, model.name)
        return cls({serving.name: serving for serving in ordered}, by_model, by_alias)

    def replacing(self, serving: Serving) -> "Catalog":
        """Return the catalog in which this ModelServing is as given."""
        return Catalog.of(({**self.servings, serving.name: serving}).values())

    def without(self, name: str) -> "Catalog":
        """Return the catalog without that ModelServing."""
        return Catalog.of(each for each in self.servings.values() if each.name != name)

    def model_called(self, wanted: str) -> str | None:
        """Return the name of the model that a client means: a name goes before an alias."""
        if wanted in self._by_model:
            return wanted
        return self._by_alias.get(wanted)

    def servings_of(self, model: str) -> tuple[Serving, ...]:
        """Return the ModelServings that declare the model, by name."""
        return self._by_model.get(model, ())

    def models(self) -> tuple[str, ...]:
        """Return the names of all declared models, sorted."""
        return tuple(sorted(self._by_model))

    def aliases(self) -> Mapping[str, str]:
        """Return the alias to model mapping, without aliases that are a model's name as well."""
        return {
            alias: model for alias, model in self._by_alias.items() if alias not in self._by_model
        }

    def deleted_since(self, previous: "Catalog") -> Mapping[str, str]:
        """Return each name and alias that a ModelServing declared which is gone, and its name."""
        return {
            name: serving.name
            for serving in previous.servings.values()
            if serving.name not in self.servings
            for model in serving.models
            for name in (model.name, *model.aliases)
        }

    def endpoints(self) -> frozenset[str]:
        """Return every base URL that serves a model now."""
        return frozenset(
            endpoint
            for serving in self.servings.values()
            if serving.status.active_model is not None
            and (endpoint := serving.endpoint_of(serving.status.active_model)) is not None
        )


def read_serving(body: Mapping[str, Any]) -> Serving:
    """Read an object of the API; one whose spec breaks the contract keeps the names it declares.

    Fields of a newer contract are read over: a gateway may be older than the CRD.
    """
    metadata = _mapping(body.get("metadata"))
    raw_spec = _mapping(body.get("spec"))
    status = parse_status(body.get("status"))
    declared = _read_spec(raw_spec)
    return Serving(
        name=str(metadata.get("name", "")),
        uid=str(metadata.get("uid", "")),
        created=_time(metadata.get("creationTimestamp")),
        models=declared.models,
        pinned=declared.pinned,
        generation=_whole_number(metadata.get("generation")),
        status=status,
        invalid=declared.problem,
        refused=_refused_by_operator(status),
        deleting="deletionTimestamp" in metadata,
        stop_seconds=declared.stop_seconds,
        requesters=frozenset(
            entry["requester"]
            for entry in _mappings(raw_spec.get("requests"))
            if isinstance(entry.get("requester"), str)
        ),
        demand=tuple(_published_demand(raw_spec)),
    )


def _published_demand(raw_spec: Mapping[str, Any]) -> Iterator[PublishedDemand]:
    for entry in _mappings(raw_spec.get("requests")):
        for model in _mappings(entry.get("models")):
            requester, name = entry.get("requester"), model.get("name")
            if isinstance(requester, str) and isinstance(name, str):
                yield PublishedDemand(requester, name, _time(model.get("since")))


def _read_spec(raw: Mapping[str, Any]) -> _Declared:
    # Other gateways' demand is none of our business and must not spoil what we read.
    relevant = {key: value for key, value in raw.items() if key != "requests"}
    try:
        spec = ModelServingSpec.model_validate(relevant, extra="ignore")
    except ValidationError as error:
        problem = "; ".join(
            f"spec.{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        )
        return _Declared(_declared_at_least(raw), problem=problem)
    problem = "; ".join(f"spec.{path}: {message}" for path, message in spec.problems())
    return _Declared(
        tuple(
            DeclaredModel(
                model.name,
                tuple(model.aliases),
                model.hold_timeout_seconds,
                int(parse_quantity(model.gpu_memory)),
            )
            for model in spec.models
        ),
        spec.active_model,
        spec.swap.drain_timeout_seconds + spec.engine.shutdown_timeout_seconds + _STOP_SLACK,
        problem or None,
    )


def _declared_at_least(raw: Mapping[str, Any]) -> tuple[DeclaredModel, ...]:
    return tuple(
        DeclaredModel(
            model["name"],
            tuple(alias for alias in _list(model.get("aliases")) if isinstance(alias, str)),
        )
        for model in _mappings(raw.get("models"))
        if isinstance(model.get("name"), str)
    )


def _refused_by_operator(status: ModelServingStatus) -> str | None:
    ready = status.condition(ConditionType.READY)
    if ready is None or ready.status is not ConditionStatus.FALSE:
        return None
    return ready.message if ready.reason == Reason.INVALID_SPEC else None


def _is_http_url(endpoint: str | None) -> bool:
    if endpoint is None:
        return False
    try:
        url = urlsplit(endpoint)
        return url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return datetime.fromtimestamp(0, UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _whole_number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in _list(value) if isinstance(each, Mapping)]
