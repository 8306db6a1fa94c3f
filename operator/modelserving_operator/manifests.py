"""The Deployment and the Service of one model, as objects for server-side apply.

Pure: from the spec to manifests, nothing else. Each number and each switch says why it is there.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from modelserving_api import GROUP, KIND, VERSION, ModelServing
from modelserving_api.names import MODEL_LABEL, SERVING_LABEL
from modelserving_api.spec import Engine, EnvVar, Model, ModelServingSpec, Resources
from modelserving_operator.observation import ENGINE_CONTAINER, SPEC_HASH_ANNOTATION

ENGINE_PORT: Final = 8000
CONTAINER_NAME: Final = ENGINE_CONTAINER

_NAME_LIMIT: Final = 63
"""A Service's name is a DNS label."""

_SCRATCH: Final = "/var/lib/engine"
"""Home of the engine's user: compile caches, hub downloads. A volume of the user's can replace it
by setting VLLM_CACHE_ROOT or HF_HOME, so that they outlive the Pod."""

_GRACE_MARGIN_SECONDS: Final = 15
"""On top of vLLM's own shutdown time-out: interpreter exit and freeing of GPU memory. The Pod is
never killed before vLLM had its whole time."""

_PROBE_TIMEOUT_SECONDS: Final = 5

_LONGEST_LOAD_SECONDS: Final = 86_400 + 60
"""Until the kubelet gives a loading engine up: more than the longest loadTimeoutSeconds there is.
The operator enforces the model's own, with a reason; the kubelet would only kill and restart, for
ever. Nor is it in the Pod, so that another budget holds for the load under way and for no other."""

_SINGLE_FILE: Final = ".gguf"
"""Weights that vLLM takes as one file; all others are directories."""

_ANYWHERE: Final = "kubernetes.io/os"
"""A topology of one domain: every Linux node has this label with the same value."""


def object_name(serving: str, model: str) -> str:
    """Return the name of a model's Deployment and Service: a DNS-1035 label.

    Unique: without a hash the last hyphen separates the two, else the hash tells them apart
    ("l4" and "a-coder" against "l4-a" and "coder").
    """
    name = f"{serving}-{model}"
    plain = name.replace(".", "-")
    if plain[0].isdigit():
        plain = f"ms-{plain}"
    if plain == name and "-" not in model and len(name) <= _NAME_LIMIT:
        return name
    digest = hashlib.sha256(f"{serving}/{model}".encode()).hexdigest()[:8]
    return f"{plain[: _NAME_LIMIT - 9].rstrip('-')}-{digest}"


def labels(serving: str, model: str) -> dict[str, str]:
    """Return the labels that select one model's objects."""
    return {SERVING_LABEL: serving, MODEL_LABEL: model}


_SILENT_NODE: Final = tuple(
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute"}
    for state in ("not-ready", "unreachable")
)
"""Without these a Pod is deleted five minutes after its kubelet was last heard of. That ends an
engine which may well answer, and no other could take its place: nobody can say when it is gone."""


def deployment(serving: ModelServing, model: Model, replicas: int) -> dict[str, Any]:
    """Return the Deployment of a model, for server-side apply."""
    template = _pod_template(serving, model)
    spec_hash = _digest_of_template(template)
    template["metadata"]["annotations"] = {SPEC_HASH_ANNOTATION: spec_hash}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(serving, model.name, spec_hash),
        "spec": {
            "replicas": replicas,
            # A rolling update needs a second GPU: with one, the new Pod is Pending for ever.
            "strategy": {"type": "Recreate"},
            # Old ReplicaSets are of no use: rolling back is the operator's decision.
            "revisionHistoryLimit": 1,
            # Only a condition of the Deployment; the operator has its own time-out.
            "progressDeadlineSeconds": model.load_timeout_seconds + 60,
            "selector": {"matchLabels": labels(serving.name, model.name)},
            "template": template,
        },
    }


def service(serving: ModelServing, model: Model) -> dict[str, Any]:
    """Return the Service of a model, for people and for scraping; gateways go to the Pod."""
    spec = {
        "selector": labels(serving.name, model.name),
        "ports": [{"name": "http", "port": ENGINE_PORT, "protocol": "TCP"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(serving, model.name, digest(spec)),
        "spec": spec,
    }


def spec_hash(serving: ModelServing, model: Model) -> str:
    """Return the hash that a model's Deployment and Pods carry when they are up to date."""
    return _digest_of_template(_pod_template(serving, model))


def digest(value: Any) -> str:
    """Return a short hash of a manifest, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest_of_template(template: dict[str, Any]) -> str:
    """Leave the grace out: another drain budget is no reason to restart what runs."""
    pod = {**template["spec"]}
    del pod["terminationGracePeriodSeconds"]
    return digest({**template, "spec": pod})


def _metadata(serving: ModelServing, model: str, spec_hash: str) -> dict[str, Any]:
    return {
        "name": object_name(serving.name, model),
        "namespace": serving.namespace,
        "labels": {
            **labels(serving.name, model),
            "app.kubernetes.io/name": "modelserving-engine",
            "app.kubernetes.io/managed-by": "modelserving-operator",
        },
        "annotations": {SPEC_HASH_ANNOTATION: spec_hash},
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": serving.name,
                "uid": serving.uid,
                "controller": True,
                # Blocking would need a permission on finalizers that nothing else uses.
                "blockOwnerDeletion": False,
            }
        ],
    }


def _pod_template(serving: ModelServing, model: Model) -> dict[str, Any]:
    spec, engine = serving.spec, serving.spec.engine
    pod: dict[str, Any] = {
        "tolerations": [*(_dump(each) for each in spec.node.tolerations), *_SILENT_NODE],
        # The engine needs nothing of the API server.
        "automountServiceAccountToken": False,
        # A Service called vllm would inject VLLM_PORT=tcp://…, on which vLLM crashes.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": (
            spec.swap.drain_timeout_seconds
            + engine.shutdown_timeout_seconds
            + _GRACE_MARGIN_SECONDS
        ),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": engine.run_as_user,
            "runAsGroup": engine.run_as_user,
            "fsGroup": engine.run_as_user,
            # A cache of many files must not be walked through at every swap.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _alone(serving.name),
        "containers": [_container(spec, model)],
        "volumes": _volumes(engine, model),
    }
    if spec.node.node_selector:
        pod["nodeSelector"] = dict(spec.node.node_selector)
    if spec.node.runtime_class_name:
        pod["runtimeClassName"] = spec.node.runtime_class_name
    if engine.image_pull_secrets:
        pod["imagePullSecrets"] = [_dump(each) for each in engine.image_pull_secrets]
    return {
        "metadata": {
            "labels": {
                **labels(serving.name, model.name),
                "app.kubernetes.io/name": "modelserving-engine",
            }
        },
        "spec": pod,
    }


def _alone(serving: str) -> dict[str, Any]:
    """Return the rule that the scheduler places no engine while another one of these has a node.

    The operator never asks for two (R1), but a person's `kubectl scale` takes effect before anyone
    can undo it, and where the GPU is shared in time its count stops nobody.
    """
    term = {
        "labelSelector": {"matchLabels": {SERVING_LABEL: serving}},
        "topologyKey": _ANYWHERE,
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _container(spec: ModelServingSpec, model: Model) -> dict[str, Any]:
    engine, own = spec.engine, model.engine
    container: dict[str, Any] = {
        "name": CONTAINER_NAME,
        "image": own.image or engine.image,
        "args": _args(engine, model),
        "env": _env(model, engine.env, own.env),
        "ports": [{"name": "http", "containerPort": ENGINE_PORT, "protocol": "TCP"}],
        "resources": _resources(own.resources or engine.resources, spec.node.gpu_resource_name),
        "volumeMounts": _mounts(engine, model),
        # The last lines of the log become the termination message: the operator can say why an
        # engine died without a permission to read logs.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        **_probes(engine),
    }
    command = own.command or engine.command
    if command:
        container["command"] = list(command)
    if engine.image_pull_policy:
        container["imagePullPolicy"] = engine.image_pull_policy
    return container


def _args(engine: Engine, model: Model) -> list[str]:
    return [
        "--model",
        _weights(model),
        *_revision(model),
        "--served-model-name",
        model.name,
        "--port",
        str(ENGINE_PORT),
        # Since vLLM 0.18: finish what runs at SIGTERM instead of aborting it.
        "--shutdown-timeout",
        str(engine.shutdown_timeout_seconds),
        *engine.args,
        *model.engine.args,
    ]


def _revision(model: Model) -> list[str]:
    hub = model.source.hub
    return ["--revision", hub.revision] if hub is not None and hub.revision else []


def _weights(model: Model) -> str:
    """Return what vLLM is told to load: a path in the Pod, or a hub id."""
    if model.source.hub is not None:
        return model.source.hub.id
    if model.source.host_path is not None:
        return model.source.host_path.path
    return f"/mnt/models/{model.name}"


def _env(model: Model, *layers: Iterable[EnvVar]) -> list[dict[str, Any]]:
    """Return the engine's environment; a later layer's variable replaces an earlier one's."""
    variables: dict[str, dict[str, Any]] = {
        "HOME": {"name": "HOME", "value": _SCRATCH},
        # PyTorch asks who it runs as, and an image need not know our user.
        "USER": {"name": "USER", "value": "engine"},
        "VLLM_NO_USAGE_STATS": {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
    }
    if model.source.hub is None:
        # The weights are here: nothing may hang on a hub that cannot be reached.
        variables["HF_HUB_OFFLINE"] = {"name": "HF_HUB_OFFLINE", "value": "1"}
    for layer in layers:
        for variable in layer:
            variables[variable.name] = _dump(variable)
    return list(variables.values())


def _resources(resources: Resources, gpu: str) -> dict[str, Any]:
    """Return requests and limits with exactly one GPU: the scheduler is the second lock."""
    return {
        "requests": {**resources.requests, gpu: "1"},
        "limits": {**resources.limits, gpu: "1"},
    }


def _volumes(engine: Engine, model: Model) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": engine.shared_memory_size},
        },
        {"name": "scratch", "emptyDir": {}},
    ]
    if model.source.host_path is not None:
        path = model.source.host_path.path
        # Without the type a kubelet makes a directory that is missing, and hides that it was.
        kind = "File" if path.endswith(_SINGLE_FILE) else "Directory"
        volumes.append({"name": "weights", "hostPath": {"path": path, "type": kind}})
    if model.source.persistent_volume_claim is not None:
        claim = model.source.persistent_volume_claim.claim_name
        volumes.append(
            {
                "name": "weights",
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
        )
    volumes.extend(_volume(_dump(each)) for each in engine.volumes)
    return volumes


def _volume(dumped: dict[str, Any]) -> dict[str, Any]:
    """A Secret volume calls its Secret secretName; the contract says name everywhere."""
    if "secret" in dumped:
        dumped["secret"] = {"secretName": dumped["secret"]["name"]}
    return dumped


def _mounts(engine: Engine, model: Model) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - where vLLM looks
        {"name": "scratch", "mountPath": _SCRATCH},
    ]
    if model.source.hub is None:
        weights: dict[str, Any] = {
            "name": "weights",
            "mountPath": _weights(model),
            "readOnly": True,
        }
        claim = model.source.persistent_volume_claim
        if claim is not None and claim.sub_path is not None:
            weights["subPath"] = claim.sub_path
        mounts.append(weights)
    mounts.extend(_dump(each) for each in engine.volume_mounts)
    return mounts


def _probes(engine: Engine) -> dict[str, Any]:
    health = {"path": "/health", "port": "http"}
    probes = engine.probes
    period = probes.startup_period_seconds
    return {
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": period,
            "timeoutSeconds": _PROBE_TIMEOUT_SECONDS,
            "failureThreshold": -(-_LONGEST_LOAD_SECONDS // period),
        },
        "readinessProbe": {
            "httpGet": health,
            "periodSeconds": probes.readiness_period_seconds,
            "timeoutSeconds": _PROBE_TIMEOUT_SECONDS,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": health,
            "periodSeconds": probes.liveness_period_seconds,
            "timeoutSeconds": _PROBE_TIMEOUT_SECONDS,
            "failureThreshold": probes.liveness_failure_threshold,
        },
    }


def _dump(value: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
