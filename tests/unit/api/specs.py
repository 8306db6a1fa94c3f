"""A valid spec to start from, and every way of spoiling it that the contract knows.

Data only: which side refuses a case is said here, and checked by the tests beside this file.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

Json = dict[str, Any]

VALID_SPEC: Final[Json] = {
    "node": {"gpuMemory": "24Gi"},
    "engine": {
        "image": "vllm/vllm-openai:v0.32.0",
        "volumes": [{"name": "cache", "emptyDir": {}}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    },
    "models": [
        {
            "name": "mistral",
            "aliases": ["mistralai/Mistral-7B-Instruct-v0.3"],
            "source": {"hostPath": {"path": "/mnt/models/mistral"}},
            "gpuMemory": "7Gi",
        },
        {
            "name": "coder",
            "source": {"persistentVolumeClaim": {"claimName": "weights"}},
            "gpuMemory": "11Gi",
        },
        {
            "name": "llava",
            "aliases": ["vision"],
            "source": {"hub": {"id": "llava-hf/llava-1.5-7b-hf"}},
            "gpuMemory": "20Gi",
        },
    ],
    "defaultModel": "mistral",
}

MANIFEST: Final[Json] = {
    "apiVersion": "modelserving.dev/v1alpha1",
    "kind": "ModelServing",
    "metadata": {"name": "l4", "namespace": "default", "uid": "u", "generation": 1},
}


class Refusal(Enum):
    """Who refuses a spec."""

    SCHEMA = auto()
    """Every server by its schema or list keys, and the operator too."""
    RULE = auto()
    """A server that knows CEL, and the operator."""
    SERVER_ALONE = auto()
    """Every server; the operator never meets such an object and does not look."""
    OPERATOR_ALONE = auto()
    """A server drops the field in silence (or warns); the operator never meets it either, but a
    person who parses a file with this package does."""


@dataclass(frozen=True)
class Case:
    """One way of spoiling a valid spec."""

    id: str
    spoil: Callable[[Json], object]
    field: str
    """The path that the operator's message must begin with."""
    words: str
    """Words that the operator's message must hold."""
    refusal: Refusal = Refusal.SCHEMA

    def spec(self) -> Json:
        """Return the spoilt spec."""
        spec = copy.deepcopy(VALID_SPEC)
        self.spoil(spec)
        return spec


def _set(*path: str | int, to: Any) -> Callable[[Json], object]:
    def spoil(spec: Json) -> None:
        node: Any = spec
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = to

    return spoil


def _drop(*path: str | int) -> Callable[[Json], object]:
    def spoil(spec: Json) -> None:
        node: Any = spec
        for part in path[:-1]:
            node = node[part]
        del node[path[-1]]

    return spoil


def _model(**fields: Any) -> Json:
    source = {"hostPath": {"path": "/mnt/models/other"}}
    return {"name": "other", "source": source, "gpuMemory": "1Gi"} | fields


def _models(*models: Json) -> Callable[[Json], object]:
    return lambda spec: spec["models"].extend(models)


INVALID: Final[tuple[Case, ...]] = (
    # What must be there
    Case("no node", _drop("node"), "spec.node", "required"),
    Case("no gpuMemory of the card", _drop("node", "gpuMemory"), "spec.node.gpuMemory", "required"),
    Case("no engine", _drop("engine"), "spec.engine", "required"),
    Case("no image", _drop("engine", "image"), "spec.engine.image", "required"),
    Case("no models", _drop("models"), "spec.models", "required"),
    Case("an empty list of models", _set("models", to=[]), "spec.models", "at least 1"),
    Case("a model without name", _drop("models", 1, "name"), "spec.models[1].name", "required"),
    Case("a model without source", _drop("models", 1, "source"), "spec.models[1].source", ""),
    Case("a model without size", _drop("models", 0, "gpuMemory"), "spec.models[0].gpuMemory", ""),
    # Unknown fields
    Case(
        "an unknown field",
        _set("defaultModle", to="mistral"),
        "spec.defaultModle",
        "unknown field",
        Refusal.OPERATOR_ALONE,
    ),
    Case(
        "an unknown field of a model",
        _set("models", 2, "gpuMemroy", to="1Gi"),
        "spec.models[2].gpuMemroy",
        "unknown field",
        Refusal.OPERATOR_ALONE,
    ),
    # Names
    Case(
        "a model's name in capitals",
        _set("models", 0, "name", to="Mistral"),
        "spec.models[0].name",
        "pattern",
    ),
    Case("a long name", _set("models", 1, "name", to="c" * 41), "spec.models[1].name", "40"),
    Case("an empty name", _set("models", 1, "name", to=""), "spec.models[1].name", ""),
    Case("a name that ends in a line break", _set("models", 1, "name", to="coder\n"), "spec", ""),
    Case(
        "two models of one name",
        _models(_model(name="coder")),
        "spec.models[3].name",
        "duplicate name coder",
    ),
    Case(
        "an alias with a space",
        _set("models", 0, "aliases", to=["my model"]),
        "spec.models[0].aliases[0]",
        "pattern",
    ),
    Case(
        "an alias twice in one model",
        _set("models", 0, "aliases", to=["gpt-4", "gpt-4"]),
        "spec.models[0].aliases[1]",
        "alias",
    ),
    Case(
        "a variable with two values",
        _set(
            "engine",
            "env",
            to=[
                {
                    "name": "TOKEN",
                    "value": "x",
                    "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
                }
            ],
        ),
        "spec.engine.env[0]",
        "not both",
        Refusal.RULE,
    ),
    Case(
        "a mount of an unknown volume",
        _set("engine", "volumeMounts", to=[{"name": "ghost", "mountPath": "/ghost"}]),
        "spec.engine.volumeMounts[0].name",
        "ghost",
        Refusal.RULE,
    ),
    Case(
        "a mount over shared memory",
        _set("engine", "volumeMounts", to=[{"name": "cache", "mountPath": "/dev/shm"}]),
        "spec.engine.volumeMounts[0].mountPath",
        "/dev/shm",
        Refusal.RULE,
    ),
    Case(
        "a request above its limit",
        _set("engine", "resources", to={"requests": {"cpu": "4"}, "limits": {"cpu": "2"}}),
        "spec.engine.resources.requests.cpu",
        "limit",
        Refusal.RULE,
    ),
    Case(
        "a model's request above its limit",
        _set(
            "models",
            0,
            "engine",
            to={"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "0.4"}}},
        ),
        "spec.models[0].engine.resources.requests.cpu",
        "limit",
        Refusal.RULE,
    ),
    Case(
        "an alias of two models",
        _models(_model(aliases=["vision"])),
        "spec.models[3].aliases[0]",
        "alias must differ",
        Refusal.RULE,
    ),
    Case(
        "an alias that is another model's name",
        _models(_model(aliases=["coder"])),
        "spec.models[3].aliases[0]",
        "alias must differ",
        Refusal.RULE,
    ),
    Case(
        "an alias that is its own model's name",
        _models(_model(aliases=["other"])),
        "spec.models[3].aliases[0]",
        "alias must differ",
        Refusal.RULE,
    ),
    Case(
        "a defaultModel that names no model",
        _set("defaultModel", to="gemma"),
        "spec.defaultModel",
        "gemma",
        Refusal.RULE,
    ),
    Case(
        "an activeModel that names no model",
        _set("activeModel", to="gemma"),
        "spec.activeModel",
        "gemma",
        Refusal.RULE,
    ),
    Case(
        "an activeModel that is an alias",
        _set("activeModel", to="vision"),
        "spec.activeModel",
        "vision",
        Refusal.RULE,
    ),
    # Quantities
    Case(
        "a model bigger than the card",
        _set("models", 2, "gpuMemory", to="25Gi"),
        "spec.models[2].gpuMemory",
        "25Gi is more than 24Gi",
        Refusal.RULE,
    ),
    Case(
        "a model bigger than the card in another unit",
        _set("models", 2, "gpuMemory", to="25769803777"),
        "spec.models[2].gpuMemory",
        "more than 24Gi",
        Refusal.RULE,
    ),
    Case(
        "a size in GB",
        _set("models", 0, "gpuMemory", to="7GB"),
        "spec.models[0].gpuMemory",
        "pattern",
    ),
    Case("a negative size", _set("node", "gpuMemory", to="-1Gi"), "spec.node.gpuMemory", ""),
    Case("a size that is a number", _set("node", "gpuMemory", to=24), "spec.node.gpuMemory", ""),
    Case(
        "a size with a line break",
        _set("node", "gpuMemory", to="24Gi\n"),
        "spec.node.gpuMemory",
        "",
    ),
    Case(
        "a bad resource request",
        _set("engine", "resources", to={"requests": {"cpu": "two"}}),
        "spec.engine.resources.requests.cpu",
        "pattern",
    ),
    # Where weights are
    Case(
        "no source at all",
        _set("models", 0, "source", to={}),
        "spec.models[0].source",
        "exactly one",
        Refusal.RULE,
    ),
    Case(
        "two sources",
        _set("models", 0, "source", "hub", to={"id": "a/b"}),
        "spec.models[0].source",
        "exactly one",
        Refusal.RULE,
    ),
    *(
        Case(
            f"weights at {path!r}",
            _set("models", 0, "source", to={"hostPath": {"path": path}}),
            "spec.models[0].source.hostPath.path",
            "pattern",
        )
        for path in ("/etc", "/mnt/models", "/mnt/models/", "/mnt/models/../etc", "mnt/models/a")
    ),
    Case(
        "a subPath that climbs out of its claim",
        _set("models", 1, "source", "persistentVolumeClaim", "subPath", to="../secrets"),
        "spec.models[1].source.persistentVolumeClaim.subPath",
        "pattern",
    ),
    Case(
        "a hub id with three parts",
        _set("models", 2, "source", "hub", "id", to="a/b/c"),
        "spec.models[2].source.hub.id",
        "pattern",
    ),
    # The engine
    Case("an empty image", _set("engine", "image", to=""), "spec.engine.image", ""),
    Case("an engine as root", _set("engine", "runAsUser", to=0), "spec.engine.runAsUser", "1"),
    Case("an argument that is a number", _set("engine", "args", to=[8]), "spec.engine.args[0]", ""),
    Case(
        "too many arguments",
        _set("engine", "args", to=["--x"] * 65),
        "spec.engine.args",
        "at most 64",
    ),
    Case(
        "an environment variable with a bad name",
        _set("engine", "env", to=[{"name": "9LIVES", "value": ""}]),
        "spec.engine.env[0].name",
        "pattern",
    ),
    Case(
        "an environment variable twice",
        _set("engine", "env", to=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        "",
        "",
        Refusal.SERVER_ALONE,
    ),
    Case(
        "a volume of no kind",
        _set("engine", "volumes", to=[{"name": "cache"}]),
        "spec.engine.volumes[0]",
        "exactly one",
        Refusal.RULE,
    ),
    Case(
        "a volume of two kinds",
        _set("engine", "volumes", 0, "hostPath", to={"path": "/var/cache"}),
        "spec.engine.volumes[0]",
        "exactly one",
        Refusal.RULE,
    ),
    Case(
        "two mounts at one path",
        _set("engine", "volumeMounts", to=[{"name": "cache", "mountPath": "/cache"}] * 2),
        "",
        "",
        Refusal.SERVER_ALONE,
    ),
    Case(
        "a pull policy that is none",
        _set("engine", "imagePullPolicy", to="Sometimes"),
        "spec.engine.imagePullPolicy",
        "",
    ),
    # Times
    Case(
        "no time to load",
        _set("models", 0, "loadTimeoutSeconds", to=0),
        "spec.models[0].loadTimeoutSeconds",
        "1",
    ),
    Case(
        "a negative drain budget",
        _set("swap", to={"drainTimeoutSeconds": -1}),
        "spec.swap.drainTimeoutSeconds",
        "0",
    ),
    Case(
        "a strategy that does not exist",
        _set("swap", to={"strategy": "Teleport"}),
        "spec.swap.strategy",
        "Recreate",
    ),
    Case(
        "seconds with a fraction",
        _set("swap", to={"maxWaitSeconds": 1.5}),
        "spec.swap.maxWaitSeconds",
        "",
    ),
    # Demand
    Case(
        "demand without a renew time",
        _set("requests", to=[{"requester": "gateway-0"}]),
        "spec.requests[0].renewTime",
        "required",
    ),
    Case(
        "two entries of one gateway",
        _set(
            "requests",
            to=[{"requester": "gateway-0", "renewTime": "2026-11-24T10:00:00Z"}] * 2,
        ),
        "",
        "",
        Refusal.SERVER_ALONE,
    ),
    # Wrong shapes
    Case("models as an object", _set("models", to={"mistral": {}}), "spec.models", ""),
    Case("a model as text", _set("models", 0, to="mistral"), "spec.models[0]", ""),
    Case("node as a list", _set("node", to=[]), "spec.node", ""),
)
