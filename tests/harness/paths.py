"""Where the harness keeps what it makes, and what it calls its cluster.

Everything lies under one cache directory. Nothing is ever written to ~/.kube or ~/.docker.
"""

import os
import re
from pathlib import Path

from tests.harness.errors import HarnessError

DEFAULT_CLUSTER = "modelserving"

# kind's own rule for names; node names add "-control-plane" and must stay DNS labels (63).
_CLUSTER_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,47}")


def cache_root() -> Path:
    """Return `${XDG_CACHE_HOME:-~/.cache}/modelserving` (not created)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "modelserving"


def cache_directory(*parts: str) -> Path:
    """Return a directory below the cache root, creating it."""
    directory = cache_root().joinpath(*parts)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def cluster_name() -> str:
    """Return the name of the kind cluster: MODELSERVING_CLUSTER, or `modelserving`.

    Raises HarnessError when the name is one kind would refuse.
    """
    name = os.environ.get("MODELSERVING_CLUSTER") or DEFAULT_CLUSTER
    if not _CLUSTER_NAME.fullmatch(name):
        raise HarnessError(
            f"MODELSERVING_CLUSTER={name!r} is not a kind cluster name: use lower-case letters, "
            "digits, '-' and '.', 48 characters at most"
        )
    return name
