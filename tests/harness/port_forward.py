"""A way from this machine to a Service of the cluster, for as long as a block runs.

The machine that the harness runs on has no route to Pods. Never used by the product.
"""

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.harness import tools
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError

_READY_SECONDS: Final = 30
"""Until kubectl has found a Pod behind the Service and listens."""

_LISTENING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextmanager
def port_forward(cluster: Cluster, namespace: str, target: str, port: int) -> Iterator[str]:
    """Forward a free local port to `target` ("service/x") and give its base URL.

    Raises HarnessError when kubectl does not come to listen in time.
    """
    process = subprocess.Popen(
        [
            tools.kubectl(),
            *("--kubeconfig", str(cluster.kubeconfig), "--context", cluster.context),
            *("--namespace", namespace, "port-forward", target, f":{port}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield f"http://127.0.0.1:{_listening_port(process, target)}"
    finally:
        process.terminate()
        process.wait()


def _listening_port(process: subprocess.Popen[str], target: str) -> int:
    assert process.stdout is not None
    timer = threading.Timer(_READY_SECONDS, process.kill)
    timer.start()
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if match := _LISTENING.search(line):
                # kubectl writes a line for each connection: nobody reading would block it.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return int(match.group(1))
    finally:
        timer.cancel()
    raise HarnessError(f"cannot forward a port to {target}: {''.join(said).strip()}")
