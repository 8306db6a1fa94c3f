"""Images without a registry: built under a tag that is a hash of what went in, put into nodes.

Building or loading what is already there is skipped. Knows no image of the product.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.harness import build_context, content_hash, docker
from tests.harness.base_image import base_image
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive
from tests.harness.process import run
from tests.harness.progress import step

__all__ = ["base_image", "build", "load", "load_archive", "node_has"]


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
    names = docker.docker(
        "exec", node, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet"
    ).split()
    return canonical(tag) in names


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


def load(tag: str, *, nodes: Sequence[str]) -> None:
    """Copy an image from Docker into the nodes that do not have it yet.

    `nodes` are node container names (`Cluster.control_plane`, `Cluster.worker`).
    """
    for node in nodes:
        if node_has(node, tag):
            continue
        with step(f"Load {tag} into {node}"):
            _pipe_into(node, ["docker", "save", tag], tag)


def _pipe_into(node: str, source: Sequence[str], tag: str) -> None:
    environment = {**os.environ, **docker.environment()}
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(source, stdout=subprocess.PIPE, env=environment) as saved:
            done = subprocess.run(
                ["docker", "exec", "--interactive", node, *_import_command("-")],
                stdin=saved.stdout,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                check=False,
            )
        _raise_unless_ok(f"loading {tag} into {node}", done.returncode or saved.returncode, output)


def _import_command(path: str) -> list[str]:
    # Like kind: digests too, so that the kubelet's garbage collection knows the image.
    return ["ctr", "--namespace", "k8s.io", "images", "import", "--digests", path]


def load_archive(archive: Path, tag: str, *, nodes: Sequence[str], mounted_at: str) -> None:
    """Import an image archive that the nodes see as a mounted file, without piping it.

    `archive` lies in `Cluster.archives` on this machine, which the nodes have at
    `mounted_at` (`Cluster.archives_in_node`). For images of gigabytes.
    """
    for node in nodes:
        if node_has(node, tag):
            continue
        with step(f"Load {tag} into {node}"):
            run(
                ["docker", "exec", node, *_import_command(f"{mounted_at}/{archive.name}")],
                env=docker.environment(),
                timeout=1200,
            )
