"""What the cluster looked like when something was wrong, as text. Changes nothing."""

from tests.cluster.kubernetes import World
from tests.harness.engines import gpu_lock
from tests.harness.errors import HarnessError

_LOOKS = (
    ("get", "modelservings,deployments,pods", "--output=wide"),
    ("get", "modelservings", "--output=yaml"),
    ("get", "events", "--sort-by=.lastTimestamp"),
    ("logs", "deployment/modelserving-operator", "--tail=60"),
    ("logs", "deployment/modelserving-operator", "--tail=20", "--previous"),
    ("logs", "--selector=app.kubernetes.io/component=gateway", "--tail=30", "--prefix"),
)


def gather(world: World) -> str:
    """Return state, events, logs and who had the GPUs last."""
    shown = []
    for look in _LOOKS:
        try:
            text = world.cluster.kubectl("--namespace", world.namespace, *look, timeout=20)
        except HarnessError as error:
            text = str(error)
        shown.append(f"$ kubectl {' '.join(look)}\n{text[-12000:]}")
    gpu = "\n".join(gpu_lock.history(world.cluster.gpu_directory)[-40:])
    return "\n".join([*shown, f"GPU locks:\n{gpu}"])
