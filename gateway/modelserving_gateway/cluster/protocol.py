"""What the gateway needs of Kubernetes, as a small protocol, and its errors.

The real implementation is kubernetes_api.py; tests put their own cluster at this seam.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class ClusterError(Exception):
    """The API could not be reached or refused; trying again may help."""


class ExpiredError(ClusterError):
    """The resource version is too old to watch from: list anew."""


class ChangeType(StrEnum):
    """What a watch tells."""

    CONNECTED = "CONNECTED"
    """The API server has answered; not one of Kubernetes' own types."""
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    type: ChangeType
    body: Mapping[str, Any]

    @property
    def resource_version(self) -> str | None:
        """Return the version from which a later watch may go on."""
        version = (self.body.get("metadata") or {}).get("resourceVersion")
        return version if isinstance(version, str) else None


@dataclass(frozen=True, slots=True)
class Listing:
    """All ModelServings of the namespace at one moment."""

    items: tuple[Mapping[str, Any], ...]
    resource_version: str


class Cluster(Protocol):
    """The ModelServings of one namespace."""

    async def list_servings(self) -> Listing:
        """Return all of them. Raises ClusterError."""

    def watch_servings(self, resource_version: str) -> AsyncGenerator[Change, None]:
        """Yield changes until the server ends the watch. Raises ClusterError, ExpiredError."""

    async def apply(self, name: str, body: Mapping[str, Any], field_manager: str) -> None:
        """Apply a partial object by server-side apply, forced. Raises ClusterError."""

    async def withdraw(self, name: str, uid: str, requester: str, field_manager: str) -> None:
        """Take a requester's entry out of spec.requests, if it is there. Raises ClusterError."""
