"""The image that every Dockerfile of the project starts from.

The public slim Python image where Docker can pull it; elsewhere the same thing (Debian 12
with its Python 3.11) made by debootstrap from Debian packages.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests.harness import content_hash, debian, docker
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive, scratch
from tests.harness.paths import cache_directory
from tests.harness.process import run
from tests.harness.progress import step

# What the Dockerfiles default to.
PUBLIC_IMAGE = "python:3.11-slim-bookworm"

_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
# Part of the cache key: raise it when the recipe below changes.
_RECIPE = "1"

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

# Of pip's configuration, what says where packages come from and holds inside a container.
# Paths of this machine (find-links, constraints, file: indexes) do not.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")


def base_image() -> str:
    """Return the reference of the base image, making or pulling it if need be."""
    docker.ensure_daemon()
    # Asked again for what is already here, the registry would be a needless wait.
    if docker.has_image(PUBLIC_IMAGE):
        return PUBLIC_IMAGE
    if docker.has_image(own_tag()):
        return own_tag()
    with exclusive("base-image"):
        if docker.has_image(own_tag()):
            return own_tag()
        if docker.can_pull(PUBLIC_IMAGE):
            with step(f"Pull {PUBLIC_IMAGE}"):
                docker.docker("pull", PUBLIC_IMAGE, timeout=1800)
            return PUBLIC_IMAGE
        with step("Make a Python base image from Debian packages"):
            _debootstrap(own_tag())
        return own_tag()


def own_tag() -> str:
    """Return the tag of the base image that this machine makes for itself."""
    certificates = _CERTIFICATES.read_bytes() if _CERTIFICATES.exists() else b""
    key = content_hash.of(
        _RECIPE, debian.RELEASE, *_PACKAGES, certificates, _pip_configuration(), _apt_settings()
    )
    return f"modelserving/base:{key}"


@cache
def _pip_configuration() -> str:
    listing = run([sys.executable, "-m", "pip", "config", "list"])
    return pip_configuration(listing, os.environ)


def pip_configuration(listing: str, environment: Mapping[str, str]) -> str:
    """Render a pip.conf from `pip config list`, without what is only true on this machine.

    `listing` has lines like `global.index-url='https://…'`; environment variables win over
    files, as they do for pip.
    """
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        setting = name.rpartition(".")[2]
        if separator and setting in _PIP_SETTINGS:
            found[setting] = value.strip().strip("'\"")
    for setting in _PIP_SETTINGS:
        variable = "PIP_" + setting.upper().replace("-", "_")
        if variable in environment:
            found[setting] = environment[variable]
    lines = []
    for setting, value in sorted(found.items()):
        words = [word for word in value.replace("\\n", " ").split() if not _is_local(word)]
        if words:
            lines.append(f"{setting} = {' '.join(words)}")
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def _is_local(word: str) -> bool:
    return word.startswith(("file:", "/", "."))


def _apt_settings() -> str:
    """Return apt's settings about validity dates: a mirror of the past needs them inside too."""
    dump = run(["apt-config", "dump"]) if shutil.which("apt-config") else ""
    wanted = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::http::Proxy")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(wanted))


def _debootstrap(tag: str) -> None:
    debian.require_release(f"Docker cannot pull {PUBLIC_IMAGE}")
    if os.geteuid() != 0:
        raise HarnessError("making a base image with debootstrap needs root: run this as root")
    debian.require_packages(("debootstrap",), "making a base image from Debian packages")
    with scratch("base") as root:
        # Its chroot has to be traversable for the users that packages create in it.
        root.chmod(0o755)
        run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(_PACKAGES)}",
                debian.RELEASE,
                root,
                debian.archive(),
            ],
            timeout=1200,
            log=cache_directory("base") / "debootstrap.log",
        )
        _configure(root)
        _import(root, tag)


def _configure(root: Path) -> None:
    if _CERTIFICATES.exists():
        shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
    if configuration := _pip_configuration():
        (root / "etc/pip.conf").write_text(configuration)
    # The public image, which Dockerfiles are written for, lets pip install and has `python`.
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    (root / "etc/apt/apt.conf.d/90modelserving").write_text(
        _apt_settings() + 'APT::Install-Recommends "false";\n'
    )
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
    for lists in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(lists) if lists.is_dir() else lists.unlink()


def _import(root: Path, tag: str) -> None:
    """Import a root file system as an image, without a copy on disk in between."""
    settings = ["--change", "ENV LANG=C.UTF-8", "--change", 'CMD ["python3"]']
    with subprocess.Popen(
        ["tar", "--numeric-owner", "-C", root, "-c", "."], stdout=subprocess.PIPE
    ) as archive:
        done = subprocess.run(
            ["docker", "import", *settings, "-", tag],
            stdin=archive.stdout,
            env={**os.environ, **docker.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or archive.returncode != 0:
        raise HarnessError(f"`docker import` of the base image failed: {done.stderr.strip()}")
