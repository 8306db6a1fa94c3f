"""The cluster that tests and the demo run on: made, found again, taken down.

`up` may be called at any time: it repairs what a killed run or a restarted machine has left,
and does nothing to a cluster that is well.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness import (
    audit,
    content_hash,
    docker,
    existing,
    images,
    kind,
    node_image,
    stopped,
    tools,
)
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive
from tests.harness.paths import cache_directory, cluster_name
from tests.harness.process import CommandError, run
from tests.harness.progress import note, step
from tests.harness.readiness import GPU_RESOURCE, gpus_of, not_ready

# Where the worker has the directories of this machine.
MODELS_IN_NODE = "/mnt/models"
GPU_IN_NODE = "/var/lib/modelserving-gpu"
ARCHIVES_IN_NODE = "/var/lib/modelserving-archives"

GPUS = 2
"""Of the worker: two nodes' worth of ModelServings run on it. That none of them uses the other's is
what the locks in `gpu_directory` show; a scheduler with one GPU would only hide it."""

# What a person curls. 8080 is the gateway's own port.
DEFAULT_GATEWAY_PORT = 8080

# A fresh cluster on 2 busy cores has been seen to take two minutes after `kind create`.
_READY_SECONDS = 300
# A cluster that ran before and was stopped with its Docker daemon.
_RESTART_SECONDS = 120
# Is it well right now? On a busy machine, or when Docker has just started the nodes by itself,
# Pods are unready for a moment; making a cluster anew takes longer than waiting for that.
_HEALTHY_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """A cluster one can use, and the directories of this machine that its nodes share."""

    name: str
    provider: str
    kubeconfig: Path
    context: str
    control_plane: str
    worker: str
    models: Path
    gpu_directory: Path
    archives: Path
    audit_directory: Path
    gateway_url: str | None

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 120) -> str:
        """Run kubectl against this cluster and no other; return its standard output."""
        return run(
            [
                tools.kubectl(),
                "--kubeconfig",
                self.kubeconfig,
                "--context",
                self.context,
                *list(arguments),
            ],
            input=input,
            timeout=timeout,
        )

    def helm(self, *arguments: str, timeout: float = 600) -> str:
        """Run helm against this cluster and no other; return its standard output."""
        return run(
            [
                tools.helm(),
                "--kubeconfig",
                self.kubeconfig,
                "--kube-context",
                self.context,
                *list(arguments),
            ],
            timeout=timeout,
        )

    def load(self, *tags: str) -> None:
        """Give the worker, where all Pods of the product run, images that Docker has."""
        if self.provider == "existing":
            present = self._images_of_worker()
            absent = [tag for tag in tags if images.canonical(tag) not in present]
            images.load_by_command(absent, existing.load_command())
            return
        images.load(tags, node=self.worker, through=self._shared())

    def load_archive(self, archive: Path, tag: str) -> None:
        """Give the worker an image from an archive that lies in `archives`."""
        if self.provider == "existing":
            raise HarnessError(f"{self.context!r} takes images from Docker only: load {tag}")
        images.load_archive(archive, tag, node=self.worker, through=self._shared())

    def _shared(self) -> images.SharedDirectory:
        return images.SharedDirectory(self.archives, ARCHIVES_IN_NODE)

    def _images_of_worker(self) -> set[str]:
        node = json.loads(self.kubectl("get", "node", self.worker, "--output", "json"))
        return {name for image in node["status"].get("images") or [] for name in image["names"]}


def up() -> Cluster:
    """Return a cluster whose nodes and system Pods are Ready and whose worker has a GPU.

    Uses MODELSERVING_TEST_CONTEXT where it is set; else makes or repairs our kind cluster.
    Raises HarnessError naming what is missing.
    """
    if named := existing.named_context():
        return _existing(named)
    name = cluster_name()
    docker.ensure_daemon()
    with exclusive(f"cluster-{name}"):
        cluster = _handle(name)
        image = node_image.node_image()
        wanted = _specification(cluster, image)
        if not _is_well(cluster, wanted):
            _create(cluster, wanted, image)
        _give_gpu(cluster)
    return cluster


def find() -> Cluster:
    """Return the cluster that `up` made, or the one named on purpose. Starts nothing.

    Raises HarnessError when there is none. Tests get their cluster here and nowhere else.
    """
    if named := existing.named_context():
        return _existing(named)
    cluster = _handle(cluster_name())
    if not cluster.kubeconfig.exists() or not _marker(cluster).exists():
        raise HarnessError("there is no cluster; make one: python -m tests.harness up")
    existing.refuse_foreign(cluster.kubeconfig.read_text(), cluster.context)
    return cluster


def down(*, stop_docker: bool = True) -> None:
    """Delete our kind cluster and stop the Docker daemon that we started. Caches stay.

    Raises HarnessError for a cluster that somebody else made: it is theirs to delete.
    """
    if named := existing.named_context():
        raise HarnessError(
            f"{named!r} is not ours to take down; unset {existing.VARIABLE} to take down ours"
        )
    name = cluster_name()
    cluster = _handle(name)
    with exclusive(f"cluster-{name}"):
        if docker.is_answering() and kind.containers(name):
            with step(f"Delete the kind cluster {name}"):
                kind.delete(name, kubeconfig=cluster.kubeconfig)
        shutil.rmtree(_home(name), ignore_errors=True)
    if stop_docker and docker.own_pid() is not None and not _other_clusters(name):
        with step("Stop the Docker daemon"):
            docker.stop_own_daemon()


def _other_clusters(name: str) -> list[str]:
    rows = docker.docker(
        "ps", "--filter", "label=io.x-k8s.kind.cluster", "--format", "{{.Names}}"
    ).split()
    return [row for row in rows if row not in kind.node_names(name)]


def _home(name: str) -> Path:
    return cache_directory("clusters") / name


def _handle(name: str) -> Cluster:
    home = _home(name)
    home.mkdir(exist_ok=True)
    control_plane, worker = kind.node_names(name)
    return Cluster(
        name=name,
        provider="kind",
        kubeconfig=home / "kubeconfig",
        context=f"kind-{name}",
        control_plane=control_plane,
        worker=worker,
        models=cache_directory("models"),
        gpu_directory=home / "gpu",
        archives=cache_directory("archives"),
        audit_directory=home / "audit",
        gateway_url=f"http://127.0.0.1:{gateway_port(os.environ)}",
    )


def gateway_port(environment: Mapping[str, str]) -> int:
    """Return the port of this machine at which the gateway is published."""
    text = environment.get("MODELSERVING_GATEWAY_PORT") or str(DEFAULT_GATEWAY_PORT)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise HarnessError(f"MODELSERVING_GATEWAY_PORT={text!r} is not a port (1-65535)")
    return int(text)


def _marker(cluster: Cluster) -> Path:
    """Written last: a cluster without it was not finished, whatever its nodes say."""
    return cluster.kubeconfig.with_name("specification")


def _kind_config(cluster: Cluster) -> dict[str, Any]:
    mounts = [
        kind.Mount(cluster.models, MODELS_IN_NODE, read_only=True),
        kind.Mount(cluster.gpu_directory, GPU_IN_NODE, read_only=False),
        kind.Mount(cluster.archives, ARCHIVES_IN_NODE, read_only=True),
    ]
    return kind.config(
        cluster.name,
        mounts=mounts,
        audit_directory=cluster.audit_directory,
        gateway_port=gateway_port(os.environ),
    )


def _specification(cluster: Cluster, image: str) -> str:
    """Return a key of what the cluster is made of: another key, another cluster."""
    parts = (_kind_config(cluster), audit.POLICY)
    return content_hash.of(image, json.dumps(parts, sort_keys=True))


def _is_well(cluster: Cluster, wanted: str) -> bool:
    """Tell whether the cluster is the one wanted and serves, starting what is stopped if so."""
    states = kind.containers(cluster.name)
    if set(states) != {cluster.control_plane, cluster.worker}:
        return False
    marker = _marker(cluster)
    if not marker.exists():
        note("  … the last `up` did not finish; making the cluster anew")
        return False
    if marker.read_text() != wanted:
        note("  … the cluster was made of other parts; making it anew")
        return False
    within, since = _HEALTHY_SECONDS, ""
    try:
        if not cluster.kubeconfig.exists():
            kind.write_kubeconfig(cluster.name, kubeconfig=cluster.kubeconfig)
        if set(states.values()) != {"running"}:
            within, since = _RESTART_SECONDS, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            with step("Start the stopped nodes"):
                docker.docker("start", cluster.control_plane, cluster.worker)
                kind.write_kubeconfig(cluster.name, kubeconfig=cluster.kubeconfig)
        stopped.resume(states)
        _await_ready(cluster, within, since)
    except HarnessError as error:
        note(f"  … the cluster is not well ({str(error).splitlines()[0]}); making it anew")
        return False
    return True


def _create(cluster: Cluster, wanted: str, image: str) -> None:
    if kind.containers(cluster.name):
        with step("Delete the old cluster"):
            kind.delete(cluster.name, kubeconfig=cluster.kubeconfig)
    _marker(cluster).unlink(missing_ok=True)
    cluster.kubeconfig.unlink(missing_ok=True)
    # Removed rather than emptied: a new cluster begins without old violations.
    shutil.rmtree(cluster.gpu_directory, ignore_errors=True)
    cluster.gpu_directory.mkdir(parents=True)
    # Engines of any uid take their lock here, as in /tmp.
    cluster.gpu_directory.chmod(0o1777)
    shutil.rmtree(cluster.audit_directory, ignore_errors=True)
    audit.prepare(cluster.audit_directory)
    _require_free_port(gateway_port(os.environ))
    with step(f"Create the kind cluster {cluster.name} ({image})"):
        kind.create(
            cluster.name,
            configuration=_kind_config(cluster),
            image=image,
            kubeconfig=cluster.kubeconfig,
        )
    with step("Wait for nodes and system Pods"):
        _await_ready(cluster, _READY_SECONDS)
    _marker(cluster).write_text(wanted)


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HarnessError(
                f"port {port} of this machine, where the gateway is to be reached, is taken: "
                "stop what uses it, or name another with MODELSERVING_GATEWAY_PORT"
            ) from error


def _await_ready(cluster: Cluster, seconds: float, since: str = "") -> None:
    """Wait until both nodes and every Pod of kube-system are Ready."""
    deadline = time.monotonic() + seconds
    reason = "it was not asked"
    while True:
        try:
            reason = not_ready(*_observe(cluster), expected_nodes=2, since=since)
        except CommandError as error:
            reason = str(error).splitlines()[-1]
        if not reason:
            return
        if time.monotonic() > deadline:
            raise HarnessError(f"not Ready within {seconds:.0f} s: {reason}")
        time.sleep(0.5)


def _observe(cluster: Cluster) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the nodes and the Pods of kube-system, as API objects."""
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output", "json", timeout=10))
    pods = json.loads(
        cluster.kubectl("get", "pods", "--namespace", "kube-system", "--output", "json", timeout=10)
    )
    return nodes["items"], pods["items"]


def _give_gpu(cluster: Cluster) -> None:
    """Make the worker's node offer its GPUs, as NVIDIA's device plugin would."""
    if _gpus_now(cluster) == GPUS:
        return
    patch = {"status": {"capacity": {GPU_RESOURCE: str(GPUS)}}}
    cluster.kubectl(
        "patch", "node", cluster.worker, "--subresource=status", "--type=merge",
        f"--patch={json.dumps(patch)}",
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while _gpus_now(cluster) != GPUS:
        if time.monotonic() > deadline:
            raise HarnessError(f"node {cluster.worker} does not offer its {GPU_RESOURCE}")
        time.sleep(0.5)


def _gpus_now(cluster: Cluster) -> int:
    return gpus_of(json.loads(cluster.kubectl("get", "node", cluster.worker, "-o", "json")))


def _existing(context: str) -> Cluster:
    kubeconfig = existing.kubeconfig_of(context)
    nodes = json.loads(
        run(
            [
                tools.kubectl(),
                "--kubeconfig",
                kubeconfig,
                "--context",
                context,
                "get",
                "nodes",
                "--output",
                "json",
            ],
            timeout=30,
        )
    )["items"]
    shared = existing.shared_directory()
    return Cluster(
        name=context,
        provider="existing",
        kubeconfig=kubeconfig,
        context=context,
        control_plane="",
        worker=existing.gpu_node(nodes, GPU_RESOURCE, context),
        models=shared / "models",
        gpu_directory=shared / "gpu",
        archives=cache_directory("archives"),
        audit_directory=shared / "audit",
        gateway_url=None,
    )


@dataclass(frozen=True)
class Status:
    """What `status` prints."""

    docker: str
    cluster: str
    nodes: tuple[str, ...]
    gpus: int
    waiting_for: str


def status() -> Status:
    """Look, and change nothing. Raises HarnessError when there is no cluster."""
    cluster = find()
    daemon = "of our own" if docker.own_pid() else "already running"
    try:
        nodes, pods = _observe(cluster)
    except CommandError as error:
        reason = str(error).splitlines()[-1]
        raise HarnessError(
            f"{cluster.context} does not answer ({reason}); repair it: python -m tests.harness up"
        ) from error
    worker: dict[str, Any] = next(
        (item for item in nodes if item["metadata"]["name"] == cluster.worker), {}
    )
    return Status(
        docker=daemon,
        cluster=cluster.context,
        nodes=tuple(
            f"{item['metadata']['name']} {item['status']['nodeInfo']['kubeletVersion']}"
            for item in nodes
        ),
        gpus=gpus_of(worker),
        waiting_for=not_ready(nodes, pods, expected_nodes=len(nodes)),
    )
