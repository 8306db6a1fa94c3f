"""A whole ModelServing as it comes from the API server, parsed or refused with named fields.

Parsing only: where the object came from and what is done with it is none of this module's business.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelserving_api.spec import ModelServingSpec
from modelserving_api.status import ModelServingStatus

NAME_LIMIT: Final = 63
NAME_TOO_LONG: Final = "must be at most 63 characters long, since it becomes a label"


class InvalidSpecError(ValueError):
    """The spec breaks the contract; each problem names its field."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class ModelServing(BaseModel):
    """A resource whose spec holds."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=NAME_LIMIT, description=NAME_TOO_LONG)
    namespace: str
    uid: str
    generation: int
    deleting: bool
    spec: ModelServingSpec
    status: ModelServingStatus

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "ModelServing":
        """Parse an object of the API. Raises InvalidSpecError, naming every field at fault."""
        metadata = body.get("metadata") or {}
        if not isinstance(metadata, Mapping):
            raise InvalidSpecError(["metadata: must be an object"])
        spec = parse_spec(body.get("spec") or {})
        try:
            return cls(
                name=metadata.get("name", ""),
                namespace=metadata.get("namespace", ""),
                uid=metadata.get("uid", ""),
                generation=metadata.get("generation", 0),
                deleting="deletionTimestamp" in metadata,
                spec=spec,
                status=parse_status(body.get("status")),
            )
        except ValidationError as error:  # only a file made by hand has such metadata
            raise InvalidSpecError(
                [f"metadata.{each['loc'][0]}: {each['msg']}" for each in error.errors()]
            ) from None


def parse_spec(raw: Mapping[str, Any]) -> ModelServingSpec:
    """Parse `spec`. Raises InvalidSpecError, naming every field at fault."""
    try:
        spec = ModelServingSpec.model_validate(raw)
    except ValidationError as error:
        raise InvalidSpecError(
            [f"{_path(each['loc'])}: {_message(each)}" for each in error.errors()]
        ) from None
    problems = [f"{_path(('spec', path))}: {message}" for path, message in spec.problems()]
    if problems:
        raise InvalidSpecError(problems)
    return spec


def parse_status(raw: Mapping[str, Any] | None) -> ModelServingStatus:
    """Parse what can be parsed of `status`; fields that another version wrote are left out.

    One unknown word must not hide which model serves.
    """
    if not isinstance(raw, Mapping):
        return ModelServingStatus()
    try:
        return ModelServingStatus.model_validate(raw)
    except ValidationError as error:
        unreadable = {each["loc"][0] for each in error.errors()}
    try:
        return ModelServingStatus.model_validate(
            {key: value for key, value in raw.items() if key not in unreadable}
        )
    except ValidationError:
        return ModelServingStatus()


def _path(location: tuple[str | int, ...]) -> str:
    path = "" if location and location[0] == "spec" else "spec"
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "required"
    return str(error["msg"])
