"""API keys as they are declared: who may ask which models, how much and how urgently.

Pure. Only hashes of keys are here, and no message tells what was written in a broken file. Why
SHA-256 is enough for them: docs/decisions/0015-api-keys.md.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from modelserving_api.priority import Priority

_LONGEST_KEY: Final = 512
"""Bytes of a key that a client may present; ours have 46."""

_MAX_PER_MINUTE: Final = 1_000_000
"""Each admitted request of the last minute is remembered with 24 bytes."""


class KeysError(Exception):
    """The keys cannot be used; says where and why, and nothing of what was written there."""


class Key(BaseModel):
    """One entry of the Secret. Raises pydantic.ValidationError."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        max_length=63,
        description="Who this is in logs: never the key itself.",
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, in hex.")
    models: frozenset[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="Declared models that it may ask for; all when left out."
    )
    priority: Priority = Field(
        default=Priority.NORMAL,
        description="The class of its requests, and the most urgent that one may ask for.",
    )
    max_in_flight: int | None = Field(default=None, gt=0)
    requests_per_minute: int | None = Field(default=None, gt=0, le=_MAX_PER_MINUTE)


_ENTRIES: Final = TypeAdapter(tuple[Key, ...])


class Keys:
    """All keys that are valid now, found by what a client presents."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._by_digest = {bytes.fromhex(key.sha256): key for key in keys}
        self.names = frozenset(key.name for key in self._by_digest.values())

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, presented: bytes) -> Key | None:
        """Return the key that a client presents, or None.

        What is compared are digests, which a client cannot choose: time tells nothing of a key.
        """
        if not presented or len(presented) > _LONGEST_KEY:
            return None
        digest = hashlib.sha256(presented).digest()
        key = self._by_digest.get(digest)
        if key is None or not hmac.compare_digest(bytes.fromhex(key.sha256), digest):
            return None
        return key


def read_keys(text: str) -> Keys:
    """Read the list of keys, YAML or JSON. Raises KeysError."""
    try:
        entries = _ENTRIES.validate_python(_parsed(text))
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        where = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]
        )
        raise KeysError(f"keys{where}: {problem['msg']}") from None
    _require_unique("name", [key.name for key in entries])
    _require_unique("sha256", [key.sha256 for key in entries])
    return Keys(entries)


def _parsed(text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise KeysError(f"the file is neither YAML nor JSON: {error.problem}{line}") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise KeysError("the file is neither YAML nor JSON") from None
    if not isinstance(value, list):
        raise KeysError("the file must be a list of keys")
    return value


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where it is built: a hundred times faster for a large file."""


def _require_unique(field: str, values: list[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise KeysError(f"keys[{index}].{field}: another key has the same")
        seen.add(value)
