"""Images without a registry: built under a tag that is a hash of what went in, put into nodes.

Building or loading what is already there is skipped. Knows no image of the product.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.harness import build_context, content_hash, docker
from tests.harness.base_image import base_image
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive
from tests.harness.progress import step

__all__ = ["base_image", "build", "load", "load_archive", "node_has"]

# The kubelet's images are in this namespace of containerd.
_CTR = ("ctr", "--namespace", "k8s.io")

# Gigabytes on a busy disk; a load that takes longer hangs.
_LOAD_SECONDS = 1200


def build(
    name: str,
    *,
    dockerfile: Path,
    context: Path,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image unless it exists; return its tag, `modelserving/<name>:<hash>`.

    The hash covers the Dockerfile, every file of the context that .dockerignore lets through
    and the build arguments; pass the base as `BASE_IMAGE=base_image()`.
    Raises HarnessError with the end of the build's output.
    """
    docker.ensure_daemon()
    arguments = dict(build_args or {})
    paths = build_context.files(context)
    tag = f"modelserving/{name}:{build_key(dockerfile, context, paths, arguments)}"
    if docker.has_image(tag):
        return tag
    with exclusive(f"image-{name}"):
        if not docker.has_image(tag):
            with step(f"Build image {tag}"):
                _build(tag, dockerfile, context, paths, arguments)
    return tag


def build_key(
    dockerfile: Path, context: Path, paths: Sequence[Path], arguments: Mapping[str, str]
) -> str:
    """Return the hash that names a build."""
    return content_hash.of(
        dockerfile.read_bytes(),
        content_hash.of_files(context, paths),
        *(f"{key}={value}" for key, value in sorted(arguments.items())),
    )


def build_as(tag: str, *, dockerfile: Path, context: Path, build_args: Mapping[str, str]) -> None:
    """Build an image under a tag that the caller has made from what goes in."""
    _build(tag, dockerfile, context, build_context.files(context), build_args)


def _build(
    tag: str,
    dockerfile: Path,
    context: Path,
    paths: Sequence[Path],
    arguments: Mapping[str, str],
) -> None:
    command = ["docker", "build", "--network", "host", "--tag", tag]
    command += ["--file", build_context.DOCKERFILE]
    for key, value in sorted(arguments.items()):
        command += ["--build-arg", f"{key}={value}"]
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            [*command, "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **docker.environment()},
        ) as builder:
            assert builder.stdin is not None
            try:
                build_context.write(builder.stdin, context, paths, dockerfile)
                builder.stdin.close()
            except BrokenPipeError:
                pass  # the builder has given up; it says why in its output
        _raise_unless_ok(f"`docker build` of {tag}", builder.returncode, output)


def _raise_unless_ok(what: str, status: int, output: IO[bytes]) -> None:
    if status == 0:
        return
    output.seek(0)
    text = output.read().decode(errors="replace")
    last = "\n".join(text.strip().splitlines()[-40:])
    raise HarnessError(f"{what} failed with status {status}:\n{last}")


def node_has(node: str, tag: str) -> bool:
    """Tell whether a node's containerd has an image."""
    return canonical(tag) in docker.docker("exec", node, *_CTR, "images", "list", "-q").split()


def canonical(tag: str) -> str:
    """Return the full name that containerd and the kubelet use for an image.

    `modelserving/x:1` is `docker.io/modelserving/x:1`, `x:1` is `docker.io/library/x:1`.
    """
    first, slash, _ = tag.partition("/")
    if not slash:
        return f"docker.io/library/{tag}"
    if "." in first or ":" in first or first == "localhost":
        return tag
    return f"docker.io/{tag}"


@dataclass(frozen=True)
class SharedDirectory:
    """A directory of this machine that a node has mounted: files in it need no copying."""

    host: Path
    in_node: str


def load(tags: Sequence[str], *, node: str, through: SharedDirectory) -> None:
    """Copy images from Docker into a node, those that it does not have yet.

    By way of a file in a directory the node has mounted: twice as fast as piping through
    `docker exec`. Layers that several of the images share are copied once.
    """
    absent = [tag for tag in tags if not node_has(node, tag)]
    if not absent:
        return
    with (
        step(f"Load {', '.join(absent)} into {node}"),
        tempfile.NamedTemporaryFile(dir=through.host, suffix=".tar") as archive,
    ):
        docker.docker("save", "--output", archive.name, *absent, timeout=_LOAD_SECONDS)
        _import(Path(archive.name), node, through)


def load_by_command(tags: Sequence[str], command: str) -> None:
    """Pipe images from Docker into a shell command of the person's."""
    if not tags:
        return
    environment = {**os.environ, **docker.environment()}
    with step(f"Load {', '.join(tags)} with `{command}`"), tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            ["docker", "save", *tags], stdout=subprocess.PIPE, env=environment
        ) as saved:
            done = subprocess.run(
                ["sh", "-c", command],
                stdin=saved.stdout,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=_LOAD_SECONDS,
                check=False,
            )
        _raise_unless_ok(f"`{command}`", done.returncode or saved.returncode, output)


def load_archive(archive: Path, tag: str, *, node: str, through: SharedDirectory) -> None:
    """Import an image archive that lies in a directory the node has mounted.

    For images that were never in Docker, or whose archive is worth keeping.
    Raises HarnessError when the archive lies elsewhere or does not hold `tag`.
    """
    if node_has(node, tag):
        return
    if archive.parent.resolve() != through.host.resolve():
        raise HarnessError(f"{archive} does not lie in {through.host}, which the node sees")
    with step(f"Load {tag} into {node}"):
        _import(archive, node, through)
    if not node_has(node, tag):
        raise HarnessError(f"{archive} holds no image {tag}")


def _import(archive: Path, node: str, through: SharedDirectory) -> None:
    path = f"{through.in_node}/{archive.name}"
    docker.docker("exec", node, *_CTR, "images", "import", path, timeout=_LOAD_SECONDS)
