"""ModelServings for the engines of the harness, as manifests. Pure: applies nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.harness.cluster import GPU_IN_NODE

Manifest = dict[str, Any]


@dataclass(frozen=True)
class SimModel:
    """A model of the stand-in engine: its name and what is special about it."""

    name: str
    aliases: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    gpu_memory: str = "7Gi"
    load_timeout_seconds: int = 60


THREE_MODELS: Final = (
    SimModel("mistral", aliases=("mistralai/Mistral-7B-Instruct-v0.3",)),
    SimModel("coder", gpu_memory="11Gi"),
    SimModel("llava", gpu_memory="20Gi"),
)


# The lock that stands for the GPU.
_GPU_VOLUME: Final = {"name": "gpu", "hostPath": {"path": GPU_IN_NODE}}
_GPU_MOUNT: Final = {"name": "gpu", "mountPath": GPU_IN_NODE}


def sim_modelserving(
    name: str,
    *,
    image: str,
    models: Iterable[SimModel] = THREE_MODELS,
    env: Mapping[str, str] | None = None,
    default_model: str | None = "mistral",
    swap: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Manifest:
    """Return a ModelServing of stand-in engines that load in 0.3 s unless `env` says otherwise.

    `image` is what engines.engine_images.build_sim returned. It has the node's first GPU; whoever
    runs several at once gives each a directory of its own in the volume `gpu`.
    """
    behaviour = {"SIM_LOAD_SECONDS": "0.3", **(env or {})}
    spec: Manifest = {
        "node": _node(),
        "engine": {
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "env": _env(behaviour),
            "volumes": [_GPU_VOLUME],
            "volumeMounts": [_GPU_MOUNT],
            "sharedMemorySize": "16Mi",
            "shutdownTimeoutSeconds": 20,
        },
        "models": [
            {
                "name": model.name,
                **({"aliases": list(model.aliases)} if model.aliases else {}),
                "source": {"hub": {"id": f"sim/{model.name}"}},
                "gpuMemory": model.gpu_memory,
                "loadTimeoutSeconds": model.load_timeout_seconds,
                **({"engine": {"env": _env(model.env)}} if model.env else {}),
            }
            for model in models
        ],
        # Tests ask one model after the other; nobody wants to wait for residency.
        "swap": {"minResidencySeconds": 0, "maxWaitSeconds": 120, **(swap or {})},
    }
    if default_model is not None:
        spec["defaultModel"] = default_model
    return _modelserving(name, spec, labels)


VLLM_CPU_ARGS: Final = (
    *("--dtype", "float32"),
    *("--max-model-len", "2048"),
    # No graph capture: it costs start-up time and buys nothing for two layers on a CPU.
    "--enforce-eager",
    *("--max-num-seqs", "8"),
    *("--distributed-executor-backend", "uni"),
)


@dataclass(frozen=True)
class TinyModel:
    """One of the tiny models of engines.tiny_models, as a ModelServing declares it."""

    name: str
    gpu_memory: str
    aliases: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


MISTRAL: Final = TinyModel(
    "mistral",
    "7Gi",
    aliases=("mistralai/Mistral-7B-Instruct-v0.3",),
    args=("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)
CODER: Final = TinyModel("coder", "11Gi", aliases=("deepseek-ai/deepseek-coder-6.7b-instruct",))
LLAVA: Final = TinyModel("llava", "20Gi")
EMBEDDER: Final = TinyModel("embedder", "2Gi", args=("--runner", "pooling", "--convert", "embed"))


def vllm_cpu_modelserving(
    name: str, *, image: str, models: Iterable[TinyModel] = (MISTRAL, CODER, LLAVA)
) -> Manifest:
    """Return a ModelServing of the real vLLM with tiny models, on the node's CPU.

    `image` is what engines.engine_images.build_vllm_cpu returned; the weights lie in the
    cluster's `models` directory. Mounting the GPU lock lets the oracle watch these engines too.
    """
    spec: Manifest = {
        "node": _node(),
        "engine": {
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "args": list(VLLM_CPU_ARGS),
            "volumes": [_GPU_VOLUME],
            "volumeMounts": [_GPU_MOUNT],
            "sharedMemorySize": "64Mi",
        },
        "models": [
            {
                "name": model.name,
                **({"aliases": list(model.aliases)} if model.aliases else {}),
                "source": {"hostPath": {"path": f"/mnt/models/{model.name}"}},
                "gpuMemory": model.gpu_memory,
                # 20 s on an idle machine; a minute and more while images are being built.
                "loadTimeoutSeconds": 300,
                **({"engine": {"args": list(model.args)}} if model.args else {}),
            }
            for model in models
        ],
        "defaultModel": "mistral",
        "swap": {"minResidencySeconds": 0},
    }
    return _modelserving(name, spec)


def _modelserving(name: str, spec: Manifest, labels: Mapping[str, str] | None = None) -> Manifest:
    return {
        "apiVersion": "modelserving.dev/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": name, **({"labels": dict(labels)} if labels else {})},
        "spec": spec,
    }


def _node() -> Manifest:
    return {
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "gpuMemory": "24Gi",
    }


def _env(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in variables.items()]
