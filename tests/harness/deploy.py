"""Brings the product into a cluster: both images, the chart, and what is applied after them.

Used by the demo, the tests and the benchmarks alike. Every step is idempotent, and quick when
nothing has changed. Makes no cluster and asserts nothing about the product.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from modelserving_api.names import SERVING_LABEL
from tests.harness import images
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError
from tests.harness.process import CommandError
from tests.harness.progress import step

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "modelserving"
RELEASE: Final = "modelserving"

PROGRAMS: Final = ("operator", "gateway")

HARNESS_LABEL: Final = "modelserving.dev/harness"
"""On every namespace that the harness made: it may be removed by the harness, too."""

DECLARED_NODE_LABEL: Final = "modelserving.dev/declared-node"
"""On Nodes without a machine, which a test makes. A Pod that is bound to one never ends while the
Node is there, so what a killed run has left of them goes before anything is waited for."""

_ROLLOUT_SECONDS: Final = 180
"""Two Pods of 300 MB images on two busy cores; usually 5 s."""

_GONE_SECONDS: Final = 120
"""An engine that drains and its Pod's removal, with room for a busy node."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """Tags of the two programs' images."""

    operator: str
    gateway: str


def build_programs() -> Images:
    """Build both programs' images unless they exist."""
    return Images(*(_build_program(program) for program in PROGRAMS))


def _build_program(program: str) -> str:
    """Build one image from what its Dockerfile copies, and nothing else.

    The tag is a hash of the build context: with the whole checkout as context, a word in the
    README would give both programs a new tag and restart them everywhere.
    """
    with tempfile.TemporaryDirectory(prefix=f"modelserving-{program}-") as directory:
        context = Path(directory)
        for source in ("pyproject.toml", f"requirements/{program}.lock"):
            (context / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, context / source)
        for package in ("crds/modelserving_api", f"{program}/modelserving_{program}"):
            shutil.copytree(
                ROOT / package,
                context / package,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        return images.build(
            program,
            dockerfile=ROOT / program / "Dockerfile",
            context=context,
            build_args={"BASE_IMAGE": images.base_image()},
        )


def install(cluster: Cluster, namespace: str, *, values: Mapping[str, Any] | None = None) -> Images:
    """Build, load, and install or upgrade the chart; return when both programs are ready.

    `values` are the chart's values, nested as in values.yaml.
    Raises HarnessError, with the Pods' state when they do not become ready.
    """
    built = build_programs()
    for tag in (built.operator, built.gateway):
        cluster.load(tag)
    ensure_namespace(cluster, namespace)
    with step(f"Install the chart in {namespace}"):
        # Helm never upgrades a CRD. A server that does not know CEL refuses it in a server-side
        # apply; in a plain one it drops the rules.
        cluster.kubectl(
            *("apply", "--validate=false"),
            *("--filename", str(CHART / "crds")),
        )
        _helm_upgrade(cluster, namespace, chart_values(built, values or {}))
    with step(f"Wait for operator and gateway in {namespace}"):
        for program in PROGRAMS:
            _await_rollout(cluster, namespace, f"modelserving-{program}")
    return built


def chart_values(built: Images, values: Mapping[str, Any]) -> Manifest:
    """Return the chart's values for these images, with the given ones on top."""
    defaults: Manifest = {}
    for program, tag in zip(PROGRAMS, (built.operator, built.gateway), strict=True):
        repository, _, version = tag.rpartition(":")
        defaults[program] = {"image": {"repository": repository, "tag": version}}
    return merged(defaults, values)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Manifest:
    """Return nested values with those of `over` winning; lists are replaced."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def _helm_upgrade(cluster: Cluster, namespace: str, values: Manifest) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        command = (
            *("upgrade", RELEASE, str(CHART), "--install", "--skip-crds"),
            *("--namespace", namespace),
            *("--values", file.name),
        )
        try:
            cluster.helm(*command)
        except HarnessError as error:
            if "another operation" not in str(error):
                raise
            # A helm that was killed left its release pending, and nothing but this ends that.
            cluster.helm("uninstall", RELEASE, "--namespace", namespace)
            cluster.helm(*command)


def _await_rollout(cluster: Cluster, namespace: str, deployment: str) -> None:
    try:
        cluster.kubectl(
            *("--namespace", namespace),
            *("rollout", "status", f"deployment/{deployment}"),
            f"--timeout={_ROLLOUT_SECONDS}s",
            timeout=_ROLLOUT_SECONDS + 30,
        )
    except HarnessError as error:
        pods = cluster.kubectl("--namespace", namespace, "get", "pods", "--output", "wide")
        logs = _logs(cluster, namespace, deployment)
        raise HarnessError(f"{deployment} is not ready: {error}\n{pods}\n{logs}") from error


def _logs(cluster: Cluster, namespace: str, deployment: str) -> str:
    try:
        return cluster.kubectl(
            *("--namespace", namespace, "logs", f"deployment/{deployment}", "--tail=20")
        )
    except HarnessError as error:
        return str(error)  # A container that never started has none.


def ensure_namespace(cluster: Cluster, namespace: str) -> None:
    """Make a namespace that is marked as the harness's own, unless it exists."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace,
            # Engines mount the node's directories; some clusters forbid that unless told.
            "labels": {HARNESS_LABEL: "true", "pod-security.kubernetes.io/enforce": "privileged"},
        },
    }
    apply(cluster, manifest)


def apply(cluster: Cluster, *manifests: Manifest, namespace: str | None = None) -> None:
    """Apply objects by server-side apply, as a person with kubectl would."""
    where = ("--namespace", namespace) if namespace else ()
    cluster.kubectl(
        *where,
        *("apply", "--server-side", "--force-conflicts", "--filename", "-"),
        input=yaml.safe_dump_all(manifests),
    )


def own_namespaces(cluster: Cluster) -> list[str]:
    """Return the namespaces that the harness has made and not removed yet."""
    listed = json.loads(
        cluster.kubectl("get", "namespaces", f"--selector={HARNESS_LABEL}", "--output=json")
    )
    return [each["metadata"]["name"] for each in listed["items"]]


def remove_namespaces(cluster: Cluster, namespaces: Iterable[str], *, wait: bool = True) -> None:
    """Remove namespaces with all that is in them. The GPU is free when this returns.

    With `wait` nothing of them is left at all; without it, gateways may still be finishing.
    """
    cluster.kubectl("delete", "nodes", f"--selector={DECLARED_NODE_LABEL}", timeout=90)
    for namespace in namespaces:
        with step(f"Remove the namespace {namespace}"):
            _remove_servings(cluster, namespace)
            cluster.kubectl(
                *("delete", "namespace", namespace, "--ignore-not-found"),
                *(f"--wait={str(wait).lower()}", f"--timeout={_GONE_SECONDS}s"),
                timeout=_GONE_SECONDS + 30,
            )


def _remove_servings(cluster: Cluster, namespace: str) -> None:
    within = ("--namespace", namespace)
    if "modelservings." not in cluster.kubectl("api-resources", "--output=name"):
        return
    cluster.kubectl(*within, "delete", "modelservings", "--all", "--timeout=60s", timeout=90)
    # Their engines go with them, by garbage collection.
    try:
        cluster.kubectl(
            *(*within, "wait", "pod", f"--selector={SERVING_LABEL}", "--for=delete"),
            f"--timeout={_GONE_SECONDS}s",
            timeout=_GONE_SECONDS + 30,
        )
    except CommandError as error:
        if "no matching resources" not in error.output:
            raise
