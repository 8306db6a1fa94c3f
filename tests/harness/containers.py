"""What is done to a container from its node, since Kubernetes has no call for it.

Only on the harness's own cluster: nobody has a way into the nodes of another.
"""

from typing import Final

from tests.harness import docker
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError

_CTR: Final = ("ctr", "--namespace", "k8s.io")


class Container:
    """A running container of a Pod on the worker."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str, name: str) -> None:
        """Find it. Raises HarnessError when it does not run, or the cluster is not ours."""
        if cluster.provider == "existing":
            raise HarnessError(f"the harness has no way into the nodes of {cluster.context!r}")
        self._node = cluster.worker
        labels = {"pod.namespace": namespace, "pod.name": pod, "container.name": name}
        wanted = ",".join(f'labels."io.kubernetes.{key}"=={value}' for key, value in labels.items())
        found = docker.docker("exec", self._node, *_CTR, "containers", "list", "--quiet", wanted)
        running = docker.docker("exec", self._node, *_CTR, "tasks", "list", "--quiet").split()
        self._ids = [each for each in found.split() if each in running]
        if not self._ids:
            raise HarnessError(f"{namespace}/{pod} has no running container {name}")

    def kill(self) -> None:
        """End its first process with SIGKILL, as a crash or the kernel would.

        Even a forced deletion of its Pod begins with SIGTERM.
        """
        for each in self._ids:
            docker.docker("exec", self._node, *_CTR, "tasks", "kill", "--signal", "SIGKILL", each)
