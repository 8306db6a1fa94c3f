"""How long the real vLLM takes to start and to stop on this machine's CPU, and what our flags save.

`make bench-engine-start`: runs the image in Docker, as vLLM starts by default and as the demo
starts it, in turns. No Kubernetes. An idle machine is needed: it is all CPU time.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks import results
from tests.harness import docker
from tests.harness.engines.engine_images import build_vllm_cpu
from tests.harness.engines.tiny_models import ensure_models

ROUNDS = 3
PORT = 8399
# A start on 2 busy cores was seen to take 100 s.
LIMIT_SECONDS = 300
SCRATCH = "/tmp"  # noqa: S108 - in the container

COMMON = ("--dtype", "float32", "--max-model-len", "2048", "--enforce-eager")


@dataclass(frozen=True)
class Variant:
    """One way to start the engine; `environment` replaces what the image sets."""

    name: str
    flags: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)


VARIANTS = (
    Variant(
        "default",
        environment={
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "auto",
            "VLLM_CACHE_ROOT": f"{SCRATCH}/cache",  # empty: every class is inspected anew
        },
    ),
    Variant("ours", flags=("--max-num-seqs", "8", "--distributed-executor-backend", "uni")),
)


def main() -> None:
    """Measure, print the table, and write benchmarks/out/engine_start.json."""
    image = build_vllm_cpu()
    measured: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        ensure_models(models)
        models.chmod(0o755)
        for variant in VARIANTS * ROUNDS:
            measured[variant.name].append(_start_and_stop(image, models, variant))
    figures = {
        name: {
            "start_s": round(statistics.median(start for start, _ in runs), 1),
            "stop_s": round(statistics.median(stop for _, stop in runs), 1),
        }
        for name, runs in measured.items()
    }
    table = Table("engine start", "ready after s", "gone after s", title=f"medians of {ROUNDS}")
    for name, row in figures.items():
        table.add_row(name, f"{row['start_s']}", f"{row['stop_s']}")
    console = Console()
    console.print(table)
    console.print(f"written to {results.write('engine_start', figures)}")


def _start_and_stop(image: str, models: Path, variant: Variant) -> tuple[float, float]:
    """Seconds from `docker run` to a healthy port, and from SIGTERM to the end of the process."""
    # Docker's 64 MB of shared memory are too few for vLLM's worker process.
    command = ["run", "--detach", "--network", "host", "--shm-size", "1g"]
    command += ["--volume", f"{models}:/mnt/models:ro"]
    for name, value in {"HOME": SCRATCH, **variant.environment}.items():
        command += ["--env", f"{name}={value}"]
    command += [image, "--model", "/mnt/models/mistral", "--host", "127.0.0.1"]
    command += ["--port", str(PORT), "--shutdown-timeout", "10", *COMMON, *variant.flags]
    began = time.monotonic()
    container = docker.docker(*command).strip()
    try:
        while not _is_healthy():
            if time.monotonic() - began > LIMIT_SECONDS:
                raise SystemExit(f"{variant.name}: not ready within {LIMIT_SECONDS} s")
            if docker.docker("inspect", "--format", "{{.State.Running}}", container) != "true\n":
                raise SystemExit(f"{variant.name}: {docker.docker('logs', container)[-2000:]}")
            time.sleep(0.1)
        ready = time.monotonic()
        docker.docker("stop", "--time", "60", container)
        return ready - began, time.monotonic() - ready
    finally:
        docker.docker("rm", "--force", container)


def _is_healthy() -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{PORT}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
