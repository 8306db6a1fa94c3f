"""Ways from this machine into the cluster, through a kubectl that runs as long as they are used.

The machine that the harness runs on has no route to Pods. Never used by the product.
"""

import re
import subprocess
import threading
from typing import Final, Self

from tests.harness import tools
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError

_READY_SECONDS: Final = 30
"""Until kubectl has found what it shall serve and listens."""


class KubectlServer:
    """A kubectl that serves on a free port of this machine until it is closed: proxy, forward."""

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        self._command = [
            str(tools.kubectl()),
            *("--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context),
            *arguments,
        ]
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        timer = threading.Timer(_READY_SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if found is None:
            self.close()
            raise HarnessError(f"`{' '.join(self._command)}` does not serve: {line!r}")
        # kubectl writes a line for each connection: nobody reading would block it in the end.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self.url = f"http://127.0.0.1:{found[1]}"

    @property
    def alive(self) -> bool:
        """Whether the process still runs: a forward ends with its Pod."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
