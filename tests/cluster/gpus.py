"""The worker's GPUs, lent to one ModelServing after the other. Judges nothing: the locks do.

The kubelet may need ten seconds to let go of a Pod. With two GPUs nobody waits for that: the
next ModelServing gets the other one, and a GPU is only lent again when its last engine is gone.
"""

import copy
from typing import Any, Final

from modelserving_api.names import SERVING_LABEL
from tests.cluster.kubernetes import PODS, World
from tests.harness.cluster import GPU_IN_NODE
from tests.harness.engines import gpu_lock

FIRST: Final = ""
SECOND: Final = "second"
"""Directories of the locks, below that of the node."""

_GONE_SECONDS: Final = 180


class Gpus:
    """Who had which GPU last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: dict[str, str] = {FIRST: "", SECOND: ""}

    async def lend(self, manifest: dict[str, Any], gpu: str | None) -> dict[str, Any]:
        """Return the ModelServing with a GPU of its own: the named one, or that longest unused."""
        name = next(iter(self._last)) if gpu is None else gpu
        await self._until_free(name)
        # The one lent latest stands last.
        del self._last[name]
        self._last[name] = manifest["metadata"]["name"]
        gpu_lock.prepare(self._world.cluster.gpu_directory / name)
        lent = copy.deepcopy(manifest)
        for volume in lent["spec"]["engine"].get("volumes", []):
            if volume["name"] == "gpu":
                volume["hostPath"]["path"] = f"{GPU_IN_NODE}/{name}".rstrip("/")
        return lent

    async def _until_free(self, name: str) -> None:
        if last := self._last[name]:
            await self._world.until(
                PODS,
                lambda pods: not pods,
                what=f"no engine of {last} is left",
                within=_GONE_SECONDS,
                selector=f"{SERVING_LABEL}={last}",
            )
