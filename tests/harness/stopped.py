"""Lets go on what a run that was killed has left stopped on kind's nodes. Decides nothing."""

from collections.abc import Iterable
from typing import Final

from tests.harness import docker

RESUME: Final = """
stopped=$(grep --files-with-matches --no-messages '^State:[[:space:]]*T' "$1"/[0-9]*/status)
for status in $stopped; do
  pid=${status%/status}
  kill -s CONT "${pid##*/}" || true
done
"""
"""Every process that is in state T, wherever in the node it is; its argument is where /proc is."""


def resume(nodes: Iterable[str]) -> None:
    """Resume every stopped process of the nodes, and start a kubelet that is not there.

    Harmless to the rest. Raises HarnessError when a node does not run.
    """
    for node in nodes:
        docker.docker("exec", node, "sh", "-c", RESUME, "sh", "/proc")
        docker.docker("exec", node, "systemctl", "start", "kubelet")
