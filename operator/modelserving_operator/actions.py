"""What the operator can do, as data: actions, events and the plan that holds them.

Only types live here. Why an action is planned is in planning; how it is done is in execution.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from modelserving_api.names import Reason
from modelserving_api.spec import CompletionCheck
from modelserving_api.status import ModelServingStatus
from modelserving_operator.decision import Decision

RESYNC_SECONDS: Final = 30.0
"""A safety net under the watches, not what drives us."""

ACTIVE_POLL_SECONDS: Final = 5.0
"""How often the active engine is looked at when nothing happens, so that we know since when it
is idle, and a swap away from it need not wait to find out."""


@dataclass(frozen=True)
class ApplyDeployment:
    """Server-side apply a model's Deployment at 0 replicas."""

    model: str


@dataclass(frozen=True)
class ApplyService:
    """Server-side apply a model's Service."""

    model: str


@dataclass(frozen=True)
class ScaleDown:
    """Lower a Deployment's replicas, whatever its template says."""

    deployment: str
    replicas: int = 0


@dataclass(frozen=True)
class ScaleUp:
    """Apply a model's Deployment at 1 replica: the dangerous step, guarded by a fresh list."""

    model: str


@dataclass(frozen=True)
class Delete:
    """Delete an object of a model that is no longer declared."""

    kind: Literal["Deployment", "Service"]
    name: str


@dataclass(frozen=True)
class RemoveRequest:
    """Take a dead gateway's entry out of spec.requests."""

    requester: str


@dataclass(frozen=True)
class Probe:
    """Ask the engine for a completion."""

    model: str
    pod_uid: str
    endpoint: str
    check: CompletionCheck = field(default_factory=CompletionCheck)


Action = ApplyDeployment | ApplyService | ScaleDown | ScaleUp | Delete | RemoveRequest | Probe


@dataclass(frozen=True)
class Announcement:
    """A Kubernetes Event to be posted on the ModelServing."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """What to write, do and say, and when to look again if nothing happens before."""

    status: ModelServingStatus
    actions: tuple[Action, ...] = ()
    announcements: tuple[Announcement, ...] = ()
    look_again_seconds: float = RESYNC_SECONDS
    decision: Decision | None = None
    """What was decided about the GPU; None while a swap goes on."""
