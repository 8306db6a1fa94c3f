"""What the operator tells: the types of `status`.

Written only by the operator, through the status subresource; read by gateways and people.
Times have microseconds so that the parts of a swap can be measured from them.
"""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from modelserving_api.names import ConditionType
from modelserving_api.types import StatusType, list_map


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusType):
    """A condition by the Kubernetes API conventions (metav1.Condition)."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = Field(max_length=32_768)
    last_transition_time: AwareDatetime
    observed_generation: int = 0


class ModelState(StrEnum):
    """What one model is doing."""

    STOPPED = "Stopped"
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    FAILED = "Failed"


class ModelStatus(StatusType):
    """One declared model."""

    name: str
    state: ModelState = ModelState.STOPPED
    reason: str | None = None
    message: str | None = None
    load_seconds: float | None = Field(
        default=None, description="From scale-up to the first completion, when last measured."
    )
    loaded_time: AwareDatetime | None = Field(default=None, description="When it last came up.")
    loaded_spec_hash: str | None = Field(
        default=None, description="What came up; as it was declared then, it fits the GPU."
    )
    failures: int = Field(default=0, description="Failed loads since the last good one.")
    failed_time: AwareDatetime | None = Field(
        default=None, description="When the last load failed."
    )
    next_retry_time: AwareDatetime | None = Field(
        default=None,
        description="A failed model is not tried again before this; absent after failures: not"
        " before its spec changes.",
    )
    failed_spec_hash: str | None = Field(
        default=None, description="What failed; a changed model is tried again at once."
    )


class SwapPhase(StrEnum):
    """The steps of a swap, in their order."""

    DRAINING = "Draining"
    STOPPING = "Stopping"
    SCHEDULING = "Scheduling"
    LOADING = "Loading"
    PROBING = "Probing"


class CurrentSwap(StatusType):
    """The swap that is going on. Kept here, so that a restarted operator goes on with it."""

    id: str
    from_model: str | None = Field(default=None, alias="from")
    to_model: str | None = Field(
        default=None, alias="to", description="Empty when the GPU is being freed."
    )
    reason: str
    message: str
    phase: SwapPhase
    started_time: AwareDatetime
    drained_time: AwareDatetime | None = None
    stopped_time: AwareDatetime | None = None
    scheduled_time: AwareDatetime | None = None
    loaded_time: AwareDatetime | None = None


class SwapOutcome(StrEnum):
    """How a swap ended."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUPERSEDED = "Superseded"


class SwapParts(StatusType):
    """Where the time of a swap went, in seconds; a part that was not reached is absent."""

    drain_seconds: float | None = None
    stop_seconds: float | None = None
    schedule_seconds: float | None = None
    load_seconds: float | None = None
    probe_seconds: float | None = None


class LastSwap(StatusType):
    """The swap that ended last."""

    id: str
    from_model: str | None = Field(default=None, alias="from")
    to_model: str | None = Field(default=None, alias="to")
    reason: str
    message: str
    outcome: SwapOutcome
    started_time: AwareDatetime
    finished_time: AwareDatetime
    seconds: float
    waited_seconds: float | None = Field(
        default=None,
        description="How long the oldest request for the new model had waited when it was ready.",
    )
    parts: SwapParts = Field(default_factory=SwapParts)


class SwapCost(StatusType):
    """What swaps from one model to another have cost here, smoothed over the last ones."""

    from_model: str = Field(alias="from")
    to_model: str = Field(alias="to")
    seconds: float = Field(
        description="Without the drain: from stopping one to a token of the other."
    )
    deviation_seconds: float = Field(description="How far single swaps are from that.")
    drain_seconds: float | None = Field(
        default=None,
        description="The longest lately that the first one took to finish what it was running."
        " Absent while it was always idle.",
    )


class ModelServingStatus(StatusType):
    """What is active, what is wanted, whether it is ready, and why not."""

    observed_generation: int = 0
    active_model: str | None = Field(
        default=None, description="The model that answers now; absent while none does."
    )
    active_since: AwareDatetime | None = None
    target_model: str | None = Field(default=None, description="The model being swapped in.")
    endpoint: str | None = Field(
        default=None, description="Base URL of the active engine, for gateways."
    )
    models: list[ModelStatus] = Field(default_factory=list, json_schema_extra=list_map("name"))
    current_swap: CurrentSwap | None = None
    last_swap: LastSwap | None = None
    swap_costs: list[SwapCost] = Field(
        default_factory=list,
        json_schema_extra=list_map("from", "to"),
        description="Measured costs, the latest last; at most 64.",
    )
    swaps_succeeded: int = 0
    swaps_failed: int = 0
    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=list_map("type"))

    def model(self, name: str) -> ModelStatus:
        """Return the status of a model; a model never seen is Stopped."""
        for model in self.models:
            if model.name == name:
                return model
        return ModelStatus(name=name)

    def condition(self, type_: ConditionType) -> Condition | None:
        """Return the condition of that type, or None when it was never written."""
        return next((each for each in self.conditions if each.type == type_), None)
