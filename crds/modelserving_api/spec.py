"""What a person may declare: the types of `spec`, with their bounds, defaults and CEL rules.

Each rule across fields stands here twice, side by side: as CEL for API servers that know it,
and in `problems` for the operator, which meets servers that do not. No behaviour lives here.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from modelserving_api.priority import Priority
from modelserving_api.quantities import parse_quantity
from modelserving_api.types import (
    LIST_ATOMIC,
    LIST_SET,
    AbsolutePath,
    LongText,
    ModelAlias,
    ModelName,
    ObjectName,
    Quantity,
    Seconds,
    ShortText,
    SpecType,
    celrule,
    list_map,
)

_ONE_VOLUME = "set exactly one of hostPath, persistentVolumeClaim, configMap, secret, emptyDir"
_RESERVED_VOLUMES = ("shared-memory", "scratch", "weights")
_RESERVED_VOLUME = "the volume names shared-memory, scratch and weights are the operator's"
_ONE_VALUE = "set value or valueFrom, not both"
_UNKNOWN_VOLUME = "a volumeMount must name one of engine.volumes"
_RESERVED_MOUNTS = ("/dev/shm", "/var/lib/engine")  # noqa: S108 - not ours to write to
_RESERVED_MOUNT = "the mount paths /dev/shm and /var/lib/engine are the operator's"
_MORE_THAN_LIMIT = "a request must not exceed the limit of the same resource"
_ONE_SOURCE = "set exactly one of hostPath, persistentVolumeClaim, hub"


class Toleration(SpecType):
    """A toleration of the engine's Pods, as in core/v1."""

    key: ShortText | None = None
    operator: Annotated[str, StringConstraints(pattern="^(Exists|Equal)$")] | None = None
    value: ShortText | None = None
    effect: (
        Annotated[str, StringConstraints(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")]
        | None
    ) = None
    toleration_seconds: Seconds | None = None


class Node(SpecType):
    """The GPU node that serves: how its Pods get there and what its card holds."""

    node_selector: dict[str, ShortText] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels of the GPU node.",
    )
    tolerations: list[Toleration] = Field(
        default_factory=list, max_length=16, json_schema_extra=LIST_ATOMIC
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of the engine's Pods, often nvidia."
    )
    gpu_memory: Quantity = Field(description="What the card has, for example 24Gi.")
    gpu_resource_name: ShortText = Field(
        default="nvidia.com/gpu",
        description="The extended resource of which an engine asks for exactly one.",
    )


class SecretKeyRef(SpecType):
    """One key of a Secret in the ModelServing's namespace."""

    name: ObjectName
    key: ShortText


class EnvValueFrom(SpecType):
    """Where an environment variable's value is kept."""

    secret_key_ref: SecretKeyRef


class EnvVar(SpecType):
    """An environment variable of the engine."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule("!(has(self.value) && has(self.valueFrom))", _ONE_VALUE)
            ]
        }
    )

    name: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", min_length=1, max_length=253)
    ]
    value: LongText | None = None
    value_from: EnvValueFrom | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        if self.value is not None and self.value_from is not None:
            yield "", _ONE_VALUE


class Resources(SpecType):
    """Requests and limits of the engine's container; the GPU is added by the operator."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule(
                    "!has(self.requests) || !has(self.limits) || self.requests.all(name,"
                    " !(name in self.limits) || quantity(self.requests[name])"
                    ".compareTo(quantity(self.limits[name])) <= 0)",
                    _MORE_THAN_LIMIT,
                )
            ]
        }
    )

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        for name in self.requests.keys() & self.limits.keys():
            if parse_quantity(self.requests[name]) > parse_quantity(self.limits[name]):
                yield f".requests.{name}", _MORE_THAN_LIMIT


class HostPathVolume(SpecType):
    """A directory of the node."""

    path: AbsolutePath


class PersistentVolumeClaimVolume(SpecType):
    """A claim in the ModelServing's namespace."""

    claim_name: ObjectName


class NamedSource(SpecType):
    """A ConfigMap or Secret by name."""

    name: ObjectName


class EmptyDirVolume(SpecType):
    """A directory that lives as long as the Pod."""

    size_limit: Quantity | None = None


class Volume(SpecType):
    """A volume of the engine's Pod, of the kinds an engine has a use for."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule(
                    "[has(self.hostPath), has(self.persistentVolumeClaim), has(self.configMap),"
                    " has(self.secret), has(self.emptyDir)].filter(kind, kind).size() == 1",
                    _ONE_VOLUME,
                ),
                celrule(
                    "!(self.name in ['shared-memory', 'scratch', 'weights'])", _RESERVED_VOLUME
                ),
            ]
        }
    )

    name: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    ]
    host_path: HostPathVolume | None = None
    persistent_volume_claim: PersistentVolumeClaimVolume | None = None
    config_map: NamedSource | None = None
    secret: NamedSource | None = None
    empty_dir: EmptyDirVolume | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        kinds = (
            self.host_path,
            self.persistent_volume_claim,
            self.config_map,
            self.secret,
            self.empty_dir,
        )
        if sum(kind is not None for kind in kinds) != 1:
            yield "", _ONE_VOLUME
        if self.name in _RESERVED_VOLUMES:
            yield ".name", _RESERVED_VOLUME


class VolumeMount(SpecType):
    """Where a volume of `volumes` appears in the engine's container."""

    name: ShortText
    mount_path: AbsolutePath
    sub_path: ShortText | None = None
    read_only: bool = False


class Probes(SpecType):
    """How often kubelet asks the engine. loadTimeoutSeconds is the operator's to enforce."""

    startup_period_seconds: Annotated[int, Field(ge=1, le=60)] = Field(
        default=1, description="A loading engine answers nothing, so asking often costs nothing."
    )
    readiness_period_seconds: Annotated[int, Field(ge=1, le=60)] = 1
    liveness_period_seconds: Annotated[int, Field(ge=1, le=300)] = 10
    liveness_failure_threshold: Annotated[int, Field(ge=1, le=100)] = Field(
        default=6, description="A busy engine may answer late; a minute of silence is a dead one."
    )


EngineArgs = Annotated[list[LongText], Field(max_length=64, json_schema_extra=LIST_ATOMIC)]
EngineEnv = Annotated[list[EnvVar], Field(max_length=64, json_schema_extra=list_map("name"))]


class Engine(SpecType):
    """Defaults for the engine of every model."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule(
                    "!has(self.volumeMounts) || self.volumeMounts.all(mount,"
                    " has(self.volumes) && self.volumes.exists(volume, volume.name == mount.name))",
                    _UNKNOWN_VOLUME,
                ),
                celrule(
                    "!has(self.volumeMounts) || self.volumeMounts.all(mount,"
                    " !(mount.mountPath in ['/dev/shm', '/var/lib/engine']))",
                    _RESERVED_MOUNT,
                ),
            ]
        }
    )

    image: ShortText = Field(min_length=1, description="For example vllm/vllm-openai:v0.32.0.")
    image_pull_policy: (
        Annotated[str, StringConstraints(pattern="^(Always|IfNotPresent|Never)$")] | None
    ) = None
    image_pull_secrets: list[NamedSource] = Field(
        default_factory=list, max_length=8, json_schema_extra=list_map("name")
    )
    command: EngineArgs = Field(
        default_factory=list,
        description="Replaces the image's entrypoint. vLLM must be PID 1 to get SIGTERM.",
    )
    args: EngineArgs = Field(
        default_factory=list, description="vLLM options, after those that the operator sets."
    )
    env: EngineEnv = Field(default_factory=list)
    resources: Resources = Field(default_factory=Resources)
    volumes: list[Volume] = Field(
        default_factory=list, max_length=16, json_schema_extra=list_map("name")
    )
    volume_mounts: list[VolumeMount] = Field(
        default_factory=list, max_length=16, json_schema_extra=list_map("mountPath")
    )
    shared_memory_size: Quantity = Field(
        default="2Gi", description="Size of /dev/shm, which vLLM's processes talk through."
    )
    run_as_user: Annotated[int, Field(ge=1, le=2_147_483_647)] = Field(
        default=2000, description="The engine's user and group; never root."
    )
    probes: Probes = Field(default_factory=Probes)
    shutdown_timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=30, description="vLLM's --shutdown-timeout: how long it finishes what runs."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        names = {volume.name for volume in self.volumes}
        for index, volume in enumerate(self.volumes):
            yield from _below(f".volumes[{index}]", volume.problems())
        for index, mount in enumerate(self.volume_mounts):
            if mount.name not in names:
                yield f".volumeMounts[{index}].name", f"{_UNKNOWN_VOLUME}: {mount.name}"
            if mount.mount_path in _RESERVED_MOUNTS:
                yield f".volumeMounts[{index}].mountPath", _RESERVED_MOUNT
        for index, variable in enumerate(self.env):
            yield from _below(f".env[{index}]", variable.problems())
        yield from _below(".resources", self.resources.problems())


def _below(path: str, problems: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((f"{path}{inner}", message) for inner, message in problems)


class EngineOverrides(SpecType):
    """What one model does differently: set values replace, args and env are added."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = None
    command: EngineArgs = Field(default_factory=list)
    args: EngineArgs = Field(default_factory=list)
    env: EngineEnv = Field(default_factory=list)
    resources: Resources | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        for index, variable in enumerate(self.env):
            yield from _below(f".env[{index}]", variable.problems())
        if self.resources is not None:
            yield from _below(".resources", self.resources.problems())


class WeightsHostPath(SpecType):
    """Weights on the node's disk, below /mnt/models."""

    path: Annotated[
        str,
        StringConstraints(
            pattern=r"^/mnt/models(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$", min_length=1, max_length=253
        ),
    ]


class WeightsClaim(SpecType):
    """Weights on a PersistentVolumeClaim."""

    claim_name: ObjectName
    sub_path: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
                max_length=253,
            ),
        ]
        | None
    ) = None


class WeightsHub(SpecType):
    """Weights that the engine fetches by itself when it loads."""

    id: Annotated[
        str,
        StringConstraints(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=253
        ),
    ]
    revision: ShortText | None = None


class Source(SpecType):
    """Where a model's weights are: exactly one of the three."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule(
                    "[has(self.hostPath), has(self.persistentVolumeClaim), has(self.hub)]"
                    ".filter(kind, kind).size() == 1",
                    _ONE_SOURCE,
                )
            ]
        }
    )

    host_path: WeightsHostPath | None = None
    persistent_volume_claim: WeightsClaim | None = None
    hub: WeightsHub | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path, message) for what the schema cannot say."""
        kinds = (self.host_path, self.persistent_volume_claim, self.hub)
        if sum(kind is not None for kind in kinds) != 1:
            yield "", _ONE_SOURCE


class CompletionCheck(SpecType):
    """What the model is asked after each load, before clients are let to it."""

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        default="Hello", description="A text to be continued; no chat template is applied."
    )
    expected_text: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = Field(
        default=None,
        description="Must stand in the first 32 tokens of the answer, at temperature 0. Unset: any"
        " text will do.",
    )


class Model(SpecType):
    """One model that the GPU can hold by itself."""

    name: ModelName = Field(description="What clients put into `model`, and vLLM's served name.")
    aliases: list[ModelAlias] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=LIST_SET,
        description="Other names that clients may use.",
    )
    source: Source
    gpu_memory: Quantity = Field(description="What the model needs on the card, for example 7Gi.")
    engine: EngineOverrides = Field(default_factory=EngineOverrides)
    probe: CompletionCheck = Field(
        default_factory=CompletionCheck,
        description="The completion that must succeed before the model counts as loaded.",
    )
    load_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=600,
        description="From the Pod being created until the engine must answer. Ten minutes let a"
        " cold page cache and a first compilation pass.",
    )
    hold_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None,
        description="How long the gateway holds a request for this model at most, before it answers"
        " 503 with Retry-After. Unset: the gateway's own setting. A client may ask for less with"
        " the header X-ModelServing-Hold-Seconds.",
    )


class Demand(SpecType):
    """Requests that one gateway holds for one model."""

    name: ShortText
    waiting: Annotated[int, Field(ge=0, le=1_000_000)]
    since: AwareDatetime = Field(
        description="When the oldest of them arrived, by the gateway's clock."
    )
    priority: Priority | None = Field(
        default=None,
        description="The most urgent class among them; unset is normal. Of several models that wait"
        " the earliest due goes first: `since`, later by 0, 30 or 120 s for high, normal or low."
        " maxWaitSeconds holds for every class.",
    )


class RequestEntry(SpecType):
    """The demand that one gateway Pod publishes, written by its own field manager."""

    requester: ObjectName
    renew_time: AwareDatetime = Field(
        description="Changed by the gateway while demand lasts. The operator ignores an entry that"
        " it has not seen change in time."
    )
    models: list[Demand] = Field(
        default_factory=list, max_length=64, json_schema_extra=list_map("name")
    )


class Strategy(StrEnum):
    """How the GPU is handed over."""

    RECREATE = "Recreate"


class IdleAction(StrEnum):
    """What happens when nobody has asked for anything for `afterSeconds`."""

    KEEP = "Keep"
    RETURN_TO_DEFAULT = "ReturnToDefault"
    SCALE_TO_ZERO = "ScaleToZero"


class Idle(SpecType):
    """What an idle GPU does."""

    action: IdleAction = IdleAction.KEEP
    after_seconds: Annotated[int, Field(ge=1, le=604_800)] = 600


class Swap(SpecType):
    """When to swap, and how long each step may take."""

    strategy: Strategy = Strategy.RECREATE
    drain_timeout_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=60, description="How long running requests may go on once a swap has begun."
    )
    min_residency_seconds: Seconds = Field(
        default=30,
        description="How long a model that was loaded stays at the least, unless it has been quiet"
        " for as long as a swap takes; raised to three times what a swap takes, as measured here."
        " maxWaitSeconds goes before it. 0: an idle model gives way at once, however short its"
        " turn was.",
    )
    max_wait_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=120,
        description="How long a request waits at most until its model is ready, whatever the load"
        " on the others: a swap begins early enough for its measured cost, and for what is running"
        " to finish. It can be kept if one turn of each model that is asked for fits into it: its"
        " swap and its longest answer. Where it cannot, each turn still serves what waited when it"
        " began, and the Ready condition says so.",
    )
    idle: Idle = Field(default_factory=Idle)


MAX_MODELS: Final = 32

_UNKNOWN_DEFAULT = "defaultModel must be the name of one of models"
_UNKNOWN_ACTIVE = "activeModel must be the name of one of models"
_TOO_BIG = "gpuMemory of a model must not exceed node.gpuMemory"
_AMBIGUOUS_ALIAS = "an alias must differ from every model's name and every other alias"


class ModelServingSpec(SpecType):
    """Several models, one GPU."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                celrule(
                    "!has(self.defaultModel)"
                    " || self.models.exists(model, model.name == self.defaultModel)",
                    _UNKNOWN_DEFAULT,
                ),
                celrule(
                    "!has(self.activeModel)"
                    " || self.models.exists(model, model.name == self.activeModel)",
                    _UNKNOWN_ACTIVE,
                ),
                celrule(
                    "self.models.all(model,"
                    " quantity(model.gpuMemory).compareTo(quantity(self.node.gpuMemory)) <= 0)",
                    _TOO_BIG,
                ),
                celrule(
                    "self.models.all(model, !has(model.aliases) || model.aliases.all(alias,"
                    " self.models.all(other, other.name != alias && (other.name == model.name"
                    " || !has(other.aliases) || !(alias in other.aliases)))))",
                    _AMBIGUOUS_ALIAS,
                ),
            ]
        }
    )

    node: Node
    engine: Engine
    models: list[Model] = Field(
        min_length=1, max_length=MAX_MODELS, json_schema_extra=list_map("name")
    )
    default_model: ModelName | None = Field(
        default=None,
        description="What serves when nobody has asked for anything else. Unset: nothing is"
        " loaded until somebody asks.",
    )
    active_model: ModelName | None = Field(
        default=None, description="A person's pin: while set, it alone decides."
    )
    requests: list[RequestEntry] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra=list_map("requester"),
        description="The gateways' demand; not for people, and not for Git.",
    )
    swap: Swap = Field(default_factory=Swap)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field path below spec, message) for each rule that the schema cannot say."""
        yield from self._problems_of_names()
        card = parse_quantity(self.node.gpu_memory)
        for index, model in enumerate(self.models):
            if parse_quantity(model.gpu_memory) > card:
                yield (
                    f"models[{index}].gpuMemory",
                    f"{_TOO_BIG}: {model.gpu_memory} is more than {self.node.gpu_memory}",
                )
            yield from _below(f"models[{index}].source", model.source.problems())
            yield from _below(f"models[{index}].engine", model.engine.problems())
        yield from _below("engine", self.engine.problems())

    def _problems_of_names(self) -> Iterator[tuple[str, str]]:
        names = [model.name for model in self.models]
        if self.default_model is not None and self.default_model not in names:
            yield "defaultModel", f"{_UNKNOWN_DEFAULT}: {self.default_model}"
        if self.active_model is not None and self.active_model not in names:
            yield "activeModel", f"{_UNKNOWN_ACTIVE}: {self.active_model}"
        for index, name in enumerate(names):
            if name in names[:index]:
                yield f"models[{index}].name", f"duplicate name {name}"
        taken = set(names)
        for index, model in enumerate(self.models):
            for position, alias in enumerate(model.aliases):
                if alias in taken:
                    yield f"models[{index}].aliases[{position}]", f"{_AMBIGUOUS_ALIAS}: {alias}"
                taken.add(alias)
