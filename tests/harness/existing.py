"""A cluster that somebody else made, used only when a person names its context on purpose.

Everything that keeps tests away from the wrong cluster is here. Pure but for reading files.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.harness.errors import HarnessError

VARIABLE = "MODELSERVING_TEST_CONTEXT"
LOAD_VARIABLE = "MODELSERVING_TEST_LOAD"
DIRECTORY_VARIABLE = "MODELSERVING_TEST_DIRECTORY"


def named_context() -> str | None:
    """Return the context a person has named with MODELSERVING_TEST_CONTEXT, if any."""
    return os.environ.get(VARIABLE) or None


def kubeconfig_of(context: str) -> Path:
    """Return the kubeconfig file that has a context, of those KUBECONFIG names.

    Raises HarnessError when none has: there is no falling back to a current context.
    """
    listed = os.environ.get("KUBECONFIG")
    files = [Path(part) for part in listed.split(os.pathsep) if part] if listed else []
    files = files or [Path.home() / ".kube" / "config"]
    for path in files:
        if path.exists() and context in contexts_in(path.read_text()):
            return path
    looked = ", ".join(str(path) for path in files)
    raise HarnessError(f"{VARIABLE} names the context {context!r}, which is not in {looked}")


def load_command() -> str:
    """Return the shell command that reads `docker save` on its standard input and gives the
    images to the cluster's nodes, for example `k3s ctr images import -`."""
    command = os.environ.get(LOAD_VARIABLE)
    if not command:
        raise HarnessError(
            f"name the shell command that gives images to your cluster with {LOAD_VARIABLE}; it "
            "reads `docker save` on its standard input, for example: k3s ctr images import -"
        )
    return command


def shared_directory() -> Path:
    """Return the directory of this machine that the cluster's GPU node shares.

    Without it nobody could read what the engines' GPU lock has seen, and a test run would
    find no violation because it looked in the wrong place.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    if not named or not Path(named).is_dir():
        raise HarnessError(
            f"name with {DIRECTORY_VARIABLE} a directory of this machine whose `models` and `gpu` "
            "the GPU node of your cluster has as /mnt/models and /var/lib/modelserving-gpu"
        )
    return Path(named)


def contexts_in(kubeconfig: str) -> dict[str, str]:
    """Return the contexts of a kubeconfig, each with the URL of its API server."""
    document = yaml.safe_load(kubeconfig) or {}
    servers = {
        one["name"]: one.get("cluster", {}).get("server", "")
        for one in document.get("clusters") or []
    }
    return {
        one["name"]: servers.get(one.get("context", {}).get("cluster", ""), "")
        for one in document.get("contexts") or []
    }


def refuse_foreign(kubeconfig: str, context: str) -> None:
    """Raise HarnessError unless a kubeconfig leads to a kind cluster on this machine.

    Tests create, break and delete things; a kubeconfig that has come to point elsewhere must
    stop them.
    """
    server = contexts_in(kubeconfig).get(context)
    if server is None:
        raise HarnessError(f"the harness's kubeconfig has no context {context!r}: run up again")
    if not context.startswith("kind-") or not server.startswith("https://127.0.0.1:"):
        raise HarnessError(
            f"refusing to test on {context!r} ({server}): it is not a cluster that the harness "
            f"made. To use it, name it: {VARIABLE}={context}"
        )


def gpu_node(nodes: Iterable[Mapping[str, Any]], resource: str, context: str) -> str:
    """Return the name of the first node (API objects) that offers a GPU."""
    for node in nodes:
        if int(node["status"].get("allocatable", {}).get(resource, "0")) > 0:
            return str(node["metadata"]["name"])
    raise HarnessError(f"no node of {context!r} offers {resource}")
