"""What the harness takes from Debian: installed packages, and files of other suites.

Other suites are read through lists and caches of their own, so that the machine's package
lists stay as they are. Knows nothing of Docker or Kubernetes.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.harness.errors import HarnessError
from tests.harness.paths import cache_directory
from tests.harness.process import CommandError, run
from tests.harness.progress import step

# The release whose packages the node and base images are made of, and whose Kubernetes
# source package is known to build.
RELEASE = "bookworm"

_ARCHIVE_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# apt waits this many seconds for another apt to finish instead of failing at once.
_LOCK_TIMEOUT = "DPkg::Lock::Timeout=300"


def release_of(os_release: str) -> str:
    """Return "ID CODENAME" from the text of /etc/os-release, for example "debian bookworm"."""
    fields = dict(
        line.split("=", 1) for line in os_release.splitlines() if "=" in line and line[0] != "#"
    )
    identity = (fields.get("ID", "unknown"), fields.get("VERSION_CODENAME", "unknown"))
    return " ".join(field.strip("'\"") for field in identity)


def _this_release() -> str:
    path = Path("/etc/os-release")
    return release_of(path.read_text()) if path.exists() else "unknown unknown"


def is_debian() -> bool:
    """Tell whether this machine runs the Debian release the recipes are for."""
    return _this_release() == f"debian {RELEASE}"


def require_release(why: str) -> None:
    """Raise HarnessError unless this machine runs the Debian release the recipes are for."""
    if not is_debian():
        found = _this_release()
        raise HarnessError(
            f"{why}; building one from Debian packages needs Debian 12 ({RELEASE}), "
            f"and this machine is {found!r}. Give Docker access to a container registry, or name "
            "a cluster you already have with MODELSERVING_TEST_CONTEXT"
        )


def missing(packages: Iterable[str]) -> list[str]:
    """Return those of `packages` that are not installed."""
    absent = []
    for package in packages:
        try:
            status = run(["dpkg-query", "-W", "-f", "${Status}", package])
        except CommandError:
            status = ""
        if not status.endswith("ok installed"):
            absent.append(package)
    return absent


def require_packages(packages: Sequence[str], why: str) -> None:
    """Install what is missing of `packages`.

    Raises HarnessError naming them when this is no Debian system or we are not root.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        raise HarnessError(f"{why} needs {', '.join(packages)}, and there is no apt-get here")
    absent = missing(packages)
    if not absent:
        return
    if os.geteuid() != 0:
        raise HarnessError(
            f"{why} needs packages that are not installed. As root: apt-get install "
            + " ".join(absent)
        )
    with step(f"Install {' '.join(absent)}"):
        _refresh_package_lists()
        run(
            ["apt-get", "-o", _LOCK_TIMEOUT, "install", "-y", "--no-install-recommends", *absent],
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )


@cache
def _refresh_package_lists() -> None:
    run(["apt-get", "-o", _LOCK_TIMEOUT, "update"])


@cache
def archive() -> str:
    """Return the URI of the Debian archive this machine is configured to use."""
    listing = _index_targets() or (_refresh_package_lists() or _index_targets())
    if listing is None:
        raise HarnessError(
            "apt knows no Debian archive on this machine: its sources name none, "
            "or `apt-get update` did not reach it"
        )
    return listing


def _index_targets() -> str | None:
    rows = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)"]
    )
    return archive_among(rows)


def archive_among(rows: str) -> str | None:
    """Pick the main archive of our release from `ORIGIN|LABEL|CODENAME|URI` rows."""
    for row in rows.splitlines():
        origin, label, codename, uri = row.split("|", 3)
        if (origin, label, codename) == ("Debian", "Debian", RELEASE):
            return uri.rstrip("/")
    return None


@dataclass(frozen=True)
class Suite:
    """One suite of the Debian archive, read with lists and caches of our own."""

    name: str

    def _options(self) -> list[str]:
        home = cache_directory("apt", self.name)
        (home / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (home / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={_ARCHIVE_KEYRING}] " if _ARCHIVE_KEYRING.exists() else ""
        sources = home / "sources.list"
        sources.write_text(
            "".join(f"{kind} {signed}{archive()} {self.name} main\n" for kind in ("deb", "deb-src"))
        )
        settings = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": home / "lists",
            "Dir::Cache": home / "cache",
            # The unprivileged download user cannot write below a private home directory.
            "APT::Sandbox::User": "root",
        }
        return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the suite's package lists."""
        run(["apt-get", *self._options(), "update"])

    def download(self, package: str, into: Path) -> Path:
        """Download a binary package of the suite; return the .deb."""
        into.mkdir(parents=True, exist_ok=True)
        run(["apt-get", *self._options(), "download", package], cwd=into)
        return _only(into, f"{package}_*.deb")

    def source_tree(self, package: str, into: Path) -> Path:
        """Download and unpack a source package with Debian's patches; return its directory."""
        into.mkdir(parents=True, exist_ok=True)
        run(["apt-get", *self._options(), "source", "--download-only", package], cwd=into)
        tree = into / package
        run(["dpkg-source", "-x", _only(into, "*.dsc"), tree], cwd=into)
        return tree

    def upstream_tarball(self, package: str, version: str, into: Path) -> Path:
        """Download only the upstream tarball of a source package; return it."""
        into.mkdir(parents=True, exist_ok=True)
        source = f"{package}={version}"
        run(
            ["apt-get", *self._options(), "source", "--download-only", "--tar-only", source],
            cwd=into,
        )
        return _only(into, "*.orig.tar.*")


def _only(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        raise HarnessError(f"expected one {pattern} in {directory}, found {len(found)}")
    return found[0]
