"""The base of every type of the contract, and its bounded scalars.

No resource field lives here; what a field may hold is bounded so that CEL rules stay affordable
(an unbounded string or list makes the API server refuse the rule).
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

from modelserving_api.quantities import QUANTITY_PATTERN


class SpecType(BaseModel):
    """A part of the spec: unknown fields are errors, and a parsed value never changes."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class StatusType(BaseModel):
    """A part of the status: fields of a newer operator are read over, not refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )


ModelName = Annotated[
    str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)
]
"""A DNS-1035 label: it becomes part of Deployment and Service names. An alias is freer."""

ModelAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", min_length=1, max_length=128)
]
"""What OpenAI clients write into `model`, hub ids among them ("mistralai/Mistral-7B")."""

ObjectName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253),
]
"""The name of a Kubernetes object (DNS-1123 subdomain)."""

Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)]

ShortText = Annotated[str, StringConstraints(max_length=253)]
LongText = Annotated[str, StringConstraints(max_length=4096)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^:]*$", max_length=512)]

Seconds = Annotated[int, Field(ge=0, le=86_400)]
"""Whole seconds, a day at most."""

LIST_SET: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}


def list_map(*keys: str) -> dict[str, Any]:
    """Mark a list of named things, so that server-side apply merges it entry by entry."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def celrule(rule: str, message: str) -> JsonValue:
    """One entry of x-kubernetes-validations (KEP-2876)."""
    return {"rule": rule, "message": message}
