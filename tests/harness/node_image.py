"""The image kind's nodes are made of: kind's own where Docker can pull it, else from Debian.

Lays out the build; what happens inside is in node/Dockerfile and node/adapt.sh.
"""

import os
import shutil
from pathlib import Path

from tests.harness import (
    cluster_dns_build,
    content_hash,
    docker,
    images,
    kubernetes_build,
    tools,
)
from tests.harness.locking import exclusive, scratch
from tests.harness.progress import step

# The default of the kind release that Debian has (tools.KIND_VERSION).
PUBLISHED_IMAGE = "kindest/node:v1.32.2"

_FILES = Path(__file__).parent / "node"


def node_image() -> str:
    """Return the reference of the node image, pulling or building it if need be."""
    docker.ensure_daemon()
    if docker.has_image(PUBLISHED_IMAGE):
        return PUBLISHED_IMAGE
    if docker.can_pull(PUBLISHED_IMAGE):
        with step(f"Pull {PUBLISHED_IMAGE}"):
            docker.docker("pull", PUBLISHED_IMAGE, timeout=1800)
        return PUBLISHED_IMAGE
    return _from_debian()


def _from_debian() -> str:
    binaries = kubernetes_build.binaries()
    dns = cluster_dns_build.program()
    kind_files = tools.kind_node_files()
    base = images.base_image()
    tag = f"modelserving/node:{_key(binaries, dns, base)}"
    if docker.has_image(tag):
        return tag
    with exclusive("node-image"):
        if docker.has_image(tag):
            return tag
        with scratch("node") as context, step(f"Build the node image {tag}"):
            _lay_out(context, binaries, dns, kind_files)
            images.build_as(
                tag,
                dockerfile=_FILES / "Dockerfile",
                context=context,
                build_args={"BASE_IMAGE": base},
            )
    return tag


def _key(binaries: Path, dns: Path, base: str) -> str:
    ours = [path for path in _FILES.rglob("*") if path.is_file() and _goes_in(path)]
    return content_hash.of(
        binaries.name, dns.name, tools.KIND_VERSION, base, content_hash.of_files(_FILES, ours)
    )


def _goes_in(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.endswith("_test.go")


def _lay_out(context: Path, binaries: Path, dns: Path, kind_files: Path) -> None:
    programs = context / "bin"
    programs.mkdir()
    for program in (*kubernetes_build.PROGRAMS, "pause"):
        _place(binaries / program, programs / program)
    _place(dns, programs / "cluster_dns")
    (programs / "version").write_text(f"v{kubernetes_build.VERSION}\n")
    shutil.copytree(kind_files, context / "kind")
    shutil.copytree(_FILES / "files", context / "files")
    for name in ("component_archives.py", "adapt.sh"):
        shutil.copy2(_FILES / name, context / name)


def _place(source: Path, target: Path) -> None:
    """Link rather than copy: the programs are half a gigabyte, on the same file system."""
    os.link(source, target)
