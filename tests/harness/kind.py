"""kind: what cluster we ask it for, and the few commands of it that we use.

`config` is pure. Readiness, the GPU and the kubeconfig of others are in cluster.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.harness import audit, docker, tools
from tests.harness.process import run

# The Service port on every node that the gateway is published at, and what a person curls.
GATEWAY_NODE_PORT = 30080

GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
GPU_PRODUCT = "NVIDIA-L4"

# A control plane needs about 40 s on 2 idle cores. kind only warns when this runs out; our
# own wait comes after it.
_CONTROL_PLANE_WAIT = "120s"


# How often a kubelet makes up for what it has missed. With its own minute, the old kubelet that the
# harness builds removed one Pod in ten or twenty a minute late, and most of them on a busy machine.
_KUBELET_SYNC_SECONDS = 5


@dataclass(frozen=True)
class Mount:
    """A directory of this machine that a node sees."""

    host: Path
    node: str
    read_only: bool

    def as_kind(self) -> dict[str, Any]:
        """Render for kind's configuration."""
        return {
            "hostPath": str(self.host),
            "containerPath": self.node,
            "readOnly": self.read_only,
        }


def config(
    name: str, *, mounts: Sequence[Mount], audit_directory: Path, gateway_port: int
) -> dict[str, Any]:
    """Return kind's configuration: one control plane, one worker that is the GPU node.

    The worker has the `mounts`; the API server writes its audit log in `audit_directory`. The
    gateway's NodePort is published on 127.0.0.1:`gateway_port` of this machine.
    """
    log = Mount(audit_directory, audit.DIRECTORY_IN_NODE, read_only=False)
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": name,
        "kubeadmConfigPatches": [_kubelet_patch()],
        "nodes": [
            {
                "role": "control-plane",
                "kubeadmConfigPatches": [audit.kubeadm_patch()],
                "extraMounts": [log.as_kind()],
                "extraPortMappings": [
                    {
                        "containerPort": GATEWAY_NODE_PORT,
                        "hostPort": gateway_port,
                        "listenAddress": "127.0.0.1",
                    }
                ],
            },
            {
                "role": "worker",
                "labels": {GPU_PRODUCT_LABEL: GPU_PRODUCT},
                "extraMounts": [mount.as_kind() for mount in mounts],
            },
        ],
    }


def _kubelet_patch() -> str:
    """Return the patch of every kubelet's configuration.

    Without an apiVersion: kind then fits it to whatever version kubeadm speaks.
    """
    frequency = f"{_KUBELET_SYNC_SECONDS}s"
    return yaml.safe_dump({"kind": "KubeletConfiguration", "syncFrequency": frequency})


def node_names(cluster: str) -> tuple[str, str]:
    """Return kind's names for the control plane and the worker (containers and nodes alike)."""
    return f"{cluster}-control-plane", f"{cluster}-worker"


def create(name: str, *, configuration: dict[str, Any], image: str, kubeconfig: Path) -> None:
    """Create the cluster and write its kubeconfig."""
    run(
        [
            tools.kind(),
            "create",
            "cluster",
            "--image",
            image,
            "--wait",
            _CONTROL_PLANE_WAIT,
            "--kubeconfig",
            str(kubeconfig),
            "--config",
            "-",
        ],
        input=yaml.safe_dump(configuration),
        env=docker.environment(),
        timeout=900,
    )


def delete(name: str, *, kubeconfig: Path) -> None:
    """Delete the cluster; no error when there is none."""
    run(
        [tools.kind(), "delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig)],
        env=docker.environment(),
        timeout=300,
    )


def write_kubeconfig(name: str, *, kubeconfig: Path) -> None:
    """Write the kubeconfig again (Docker may have published the API at another port)."""
    run(
        [tools.kind(), "export", "kubeconfig", "--name", name, "--kubeconfig", str(kubeconfig)],
        env=docker.environment(),
    )


def containers(cluster: str) -> dict[str, str]:
    """Return the state ("running", "exited", …) of each node container of a cluster."""
    rows = docker.docker(
        "ps",
        "--all",
        "--filter",
        f"label=io.x-k8s.kind.cluster={cluster}",
        "--format",
        "{{.Names}} {{.State}}",
    )
    return dict(row.split(" ", 1) for row in rows.splitlines())
