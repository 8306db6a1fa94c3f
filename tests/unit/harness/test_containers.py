"""Signals to what runs on a node, and whether they took effect: on a node that is not there."""

from dataclasses import dataclass, field

import pytest

from tests.harness import containers
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError
from tests.harness.process import CommandError

CLUSTER = Cluster(
    **dict.fromkeys(("kubeconfig", "models", "gpu_directory", "archives", "audit_directory")),  # type: ignore[arg-type]
    name="a",
    provider="kind",
    context="kind-a",
    control_plane="a-control-plane",
    worker="a-worker",
    gateway_url=None,
)


@dataclass
class Node:
    """Answers as containerd and systemd do on a node."""

    tasks: dict[str, str] = field(default_factory=dict)
    """State of each container's process."""
    deaf: bool = False
    """Whether no signal arrives."""
    kubelet: str = "MainPID=7\nExecMainStartTimestampMonotonic=100\n"

    def docker(self, *arguments: str) -> str:
        match arguments:
            case ("exec", _, "sh", "-c", _, "sh", _):
                return "\n".join(self.tasks)
            case ("exec", _, "ctr", _, _, "tasks", "list"):
                rows = [f"{name}    12    {state}" for name, state in self.tasks.items()]
                return "\n".join(["TASK    PID    STATUS", *rows])
            case ("exec", _, "ctr", _, _, "tasks", "kill", "--signal", _, name):
                if self.deaf or self.tasks.get(name) != "RUNNING":
                    raise CommandError("ctr: process already finished: not found", "")
                return ""
            case ("exec", _, "systemctl", "show", _, "kubelet"):
                return self.kubelet
        raise AssertionError(arguments)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node({"first": "RUNNING"})
    monkeypatch.setattr("tests.harness.docker.docker", made.docker)
    return made


def container() -> containers.Container:
    return containers.Container(CLUSTER, "models", "gateway-1", "gateway")


@pytest.mark.parametrize(
    ("tasks", "replaced"),
    [
        ({"first": "RUNNING"}, False),
        ({"first": "RUNNING", "second": "RUNNING"}, False),
        ({"first": "STOPPED", "second": "RUNNING"}, True),
        ({"second": "RUNNING"}, True),
        ({}, True),
    ],
)
def test_a_container_is_replaced_when_the_very_one_that_was_found_has_ended(
    node: Node, tasks: dict[str, str], replaced: bool
) -> None:
    found = container()
    node.tasks = tasks
    assert found.replaced() is replaced


@pytest.mark.parametrize(
    ("now", "replaced"), [((7, 100), False), ((9, 200), True), ((7, 200), True), ((0, 100), False)]
)
def test_a_kubelet_is_replaced_when_another_one_runs(
    node: Node, now: tuple[int, int], replaced: bool
) -> None:
    found = containers.Kubelet(CLUSTER, "a-worker")
    node.kubelet = "MainPID={}\nExecMainStartTimestampMonotonic={}\n".format(*now)
    assert found.replaced() is replaced


def test_what_has_ended_is_resumed_without_an_error(node: Node) -> None:
    found = container()
    node.tasks = {"first": "STOPPED", "second": "RUNNING"}
    found.resume()


def test_what_runs_and_cannot_be_resumed_is_an_error(node: Node) -> None:
    found = container()
    node.deaf = True
    with pytest.raises(HarnessError):
        found.resume()


def test_a_kubelet_that_does_not_run_is_not_found(node: Node) -> None:
    node.kubelet = "MainPID=0\nExecMainStartTimestampMonotonic=100\n"
    with pytest.raises(HarnessError, match="no kubelet runs"):
        containers.Kubelet(CLUSTER, "a-worker")
