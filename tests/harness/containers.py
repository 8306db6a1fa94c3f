"""What is done to a process of the cluster from its node, since Kubernetes has no call for it.

Containers of Pods, and the kubelets themselves. Only on the harness's own cluster: nobody has a way
into the nodes of another.
"""

from typing import Final

from tests.harness import docker
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError

_CTR: Final = ("ctr", "--namespace", "k8s.io")


_PID: Final = "MainPID"
_STARTED: Final = "ExecMainStartTimestampMonotonic"
"""What systemd knows of a service's process. A pid may come again."""

_FIND: Final = """
running=$(ctr --namespace k8s.io tasks list --quiet)
for id in $(ctr --namespace k8s.io containers list --quiet "$1"); do
  case "$running" in *"$id"*) echo "$id" ;; esac
done
"""
"""One call, since an engine may be gone by the next."""


def _refuse_foreign(cluster: Cluster) -> None:
    if cluster.provider == "existing":
        raise HarnessError(f"the harness has no way into the nodes of {cluster.context!r}")


class Container:
    """A running container of a Pod: on the worker, unless another node is named."""

    def __init__(
        self, cluster: Cluster, namespace: str, pod: str, name: str, *, node: str = ""
    ) -> None:
        """Find it. Raises HarnessError when it does not run, or the cluster is not ours."""
        _refuse_foreign(cluster)
        self._node = node or cluster.worker
        labels = {"pod.namespace": namespace, "pod.name": pod, "container.name": name}
        wanted = ",".join(f'labels."io.kubernetes.{key}"=={value}' for key, value in labels.items())
        found = docker.docker("exec", self._node, "sh", "-c", _FIND, "sh", wanted)
        self._ids = found.split()
        if not self._ids:
            raise HarnessError(f"{namespace}/{pod} has no running container {name}")

    def kill(self) -> None:
        """End its first process with SIGKILL, as a crash or the kernel would.

        Even a forced deletion of its Pod begins with SIGTERM.
        """
        self._send("SIGKILL")

    def pause(self) -> None:
        """Stop its first process with SIGSTOP, as a starved machine seems to."""
        self._send("SIGSTOP")

    def resume(self) -> None:
        """Let it go on, unless it has ended meanwhile."""
        try:
            self._send("SIGCONT")
        except HarnessError:
            if not self.replaced():
                raise

    def replaced(self) -> bool:
        """Whether what was found has ended: a container that is started again is another one."""
        return self._running().isdisjoint(self._ids)

    def _send(self, signal: str) -> None:
        for each in self._ids:
            self._ctr("tasks", "kill", "--signal", signal, each)

    def _running(self) -> set[str]:
        rows = [line.split() for line in self._ctr("tasks", "list").splitlines()]
        return {row[0] for row in rows if row[2:] == ["RUNNING"]}

    def _ctr(self, *arguments: str) -> str:
        return docker.docker("exec", self._node, *_CTR, *arguments)


class Kubelet:
    """The kubelet of a node, which systemd starts again when it dies."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        """Find it. Raises HarnessError when it does not run, or the cluster is not ours."""
        _refuse_foreign(cluster)
        self._node = node
        self._found = self._process()
        if not self._found:
            raise HarnessError(f"no kubelet runs on {node}")

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._systemctl("kill", "--signal=KILL", "kubelet")

    def pause(self) -> None:
        """Stop it with SIGSTOP."""
        self._systemctl("kill", "--signal=STOP", "kubelet")

    def resume(self) -> None:
        """Let it go on."""
        self._systemctl("kill", "--signal=CONT", "kubelet")

    def replaced(self) -> bool:
        """Whether another one runs than the one that was found."""
        return self._process() not in {"", self._found}

    def _process(self) -> str:
        """Return what tells its process from any other, and nothing when there is none."""
        told = self._systemctl("show", f"--property={_PID},{_STARTED}", "kubelet")
        properties = dict(line.split("=", 1) for line in told.splitlines())
        if properties[_PID] == "0":
            return ""
        return f"{properties[_PID]} since {properties[_STARTED]}"

    def _systemctl(self, *arguments: str) -> str:
        return docker.docker("exec", self._node, "systemctl", *arguments)


def restart_kubelet(cluster: Cluster, node: str) -> None:
    """Start a node's kubelet anew; it forgets how often it has started each container."""
    _refuse_foreign(cluster)
    docker.docker("exec", node, "systemctl", "restart", "kubelet")
