"""Names that both programs and the cluster agree on: group, kind, labels, reasons.

Only constants live here; a name used by one program alone stays in that program.
"""

from enum import StrEnum
from typing import Final

GROUP: Final = "modelserving.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "ModelServing"
PLURAL: Final = "modelservings"
SINGULAR: Final = "modelserving"
SHORT_NAME: Final = "ms"

SERVING_LABEL: Final = f"{GROUP}/serving"
"""On every object that the operator makes: the name of the ModelServing it belongs to."""

MODEL_LABEL: Final = f"{GROUP}/model"
"""On every object that the operator makes: the model's name in that ModelServing."""


class ConditionType(StrEnum):
    """Types of `status.conditions`, by the Kubernetes API conventions."""

    READY = "Ready"
    SWAPPING = "Swapping"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Reasons of conditions, model states and Events: CamelCase, each one actionable."""

    # Ready=True
    SERVING = "Serving"
    SERVING_FALLBACK = "ServingFallback"
    SERVING_NODE_NOT_READY = "ServingNodeNotReady"
    # Ready=False
    INVALID_SPEC = "InvalidSpec"
    NO_DEMAND = "NoDemand"
    SCHEDULING = "Scheduling"
    LOADING = "Loading"
    LOAD_FAILED = "LoadFailed"
    POD_STUCK_TERMINATING = "PodStuckTerminating"
    POD_IN_THE_WAY = "PodInTheWay"
    # Why the engine that served is no longer there
    ENGINE_DIED = "EngineDied"
    EVICTED = "Evicted"
    NODE_NOT_READY = "NodeNotReady"
    ENGINE_LOST = "EngineLost"
    # Swapping, and why a swap was begun
    REQUESTED = "Requested"
    PINNED = "Pinned"
    DEFAULT_MODEL = "DefaultModel"
    IDLE = "Idle"
    ROLLED_BACK = "RolledBack"
    SPEC_CHANGED = "SpecChanged"
    EDITED_BY_HAND = "EditedByHand"
    SCALED_BY_HAND = "ScaledByHand"
    DELETED_BY_HAND = "DeletedByHand"
    NOT_SWAPPING = "NotSwapping"
    # Degraded
    AS_EXPECTED = "AsExpected"
    # Why a model failed to load
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    MANIFEST_REFUSED = "ManifestRefused"
    CONTAINER_CONFIG_FAILED = "ContainerConfigFailed"
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    WEIGHTS_MISSING = "WeightsMissing"
    LOAD_TIMEOUT = "LoadTimeout"
    PROBE_FAILED = "ProbeFailed"
    # Events alone
    SWAP_STARTED = "SwapStarted"
    SWAP_FINISHED = "SwapFinished"
    SWAP_FAILED = "SwapFailed"
    SWAP_SUPERSEDED = "SwapSuperseded"
