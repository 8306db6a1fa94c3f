"""Start the real vLLM server in this process, after taking the node's GPU if there is one to take.

The GPU is the same lock as the stand-in's (`gpu`, copied beside this file into the image), so the
rule that no two engines are ever alive at once is watched for the real engine too. Where the
lock's directory is not mounted, vLLM starts without it.
"""

import os
import sys
from pathlib import Path

DEFAULT_GPU_DIRECTORY = "/var/lib/modelserving-gpu"


def main() -> None:
    """Run `python -m vllm.entrypoints.openai.api_server` with this process's arguments."""
    directory = Path(os.environ.get("SIM_GPU_DIR", DEFAULT_GPU_DIRECTORY))
    if directory.is_dir():
        _take_gpu(directory)
    from vllm.entrypoints.launchers.api_server.entry import (  # type: ignore[import-not-found]
        main as serve,
    )

    serve()


def _take_gpu(directory: Path) -> None:
    from gpu import Gpu, GpuInUseError, Holder  # type: ignore[import-not-found]

    arguments = sys.argv[1:]
    named = "--served-model-name"
    model = arguments[arguments.index(named) + 1] if named in arguments else "unnamed"
    try:
        Gpu(directory, Holder(os.environ.get("HOSTNAME", "host"), model, os.getpid())).acquire()
    except GpuInUseError as error:
        raise SystemExit(f"torch.OutOfMemoryError: CUDA out of memory ({error})") from error


if __name__ == "__main__":
    main()
