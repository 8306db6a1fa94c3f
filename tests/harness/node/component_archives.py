"""Kubernetes' component images, as one-layer docker archives that containerd can import.

Runs while the node image is built, inside the base image with Debian's packages installed:
standard library only, no import from the harness.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian's merged /usr: the dynamic loader's path is /lib64, its file is below /usr.
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}

# Names under which kube-proxy calls the one program of the nftables-backed iptables.
_IPTABLES = "xtables-nft-multi"
_IPTABLES_NAMES = tuple(
    f"ip{version}tables{suffix}" for version in ("", "6") for suffix in ("", "-save", "-restore")
)


@dataclass(frozen=True)
class Component:
    """What goes into one image: files from this machine, by their path in the image."""

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()


def libraries_in(ldd_output: str) -> list[str]:
    """Return the paths in the output of ldd(1): libraries and the loader itself."""
    found = []
    for line in ldd_output.splitlines():
        words = line.split()
        if "=>" in words and len(words) > 2 and words[2].startswith("/"):
            found.append(words[2])
        elif words and words[0].startswith("/"):
            found.append(words[0])
    return found


def with_libraries(programs: Iterable[Path]) -> dict[str, Path]:
    """Return programs or plugins and every library they load, by their path in the image."""
    files: dict[str, Path] = {}
    for program in programs:
        # A library that plugins of iptables miss is seen only by a Service with several
        # endpoints: so each plugin is asked, not only the program.
        done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
        for path in (str(program), *libraries_in(done.stdout)):
            parent = Path(path).parent.resolve()
            files[str(parent / Path(path).name).lstrip("/")] = Path(path).resolve()
    return files


def components(binaries: Path) -> dict[str, Component]:
    """Return what each image of `kubeadm config images list` holds, by its short name."""
    control_plane = {
        name: Component(files={f"usr/local/bin/{name}": binaries / name})
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    }
    sbin = Path("/usr/sbin")
    plugins = sorted(Path("/usr/lib").glob("*/xtables/*.so"))
    proxy_programs = [sbin / _IPTABLES, sbin / "conntrack", Path("/usr/bin/dash"), *plugins]
    proxy = Component(
        files={
            "usr/local/bin/kube-proxy": binaries / "kube-proxy",
            **with_libraries(proxy_programs),
        },
        links={
            **_MERGED,
            "usr/bin/sh": "dash",
            **{f"usr/sbin/{name}": _IPTABLES for name in _IPTABLES_NAMES},
        },
    )
    return {
        **control_plane,
        "kube-proxy": proxy,
        "etcd": Component(files=with_libraries([Path("/usr/bin/etcd")]), links=_MERGED),
        "pause": Component(files={"pause": binaries / "pause"}, entrypoint=("/pause",)),
        "coredns": Component(files={"coredns": binaries / "cluster_dns"}, entrypoint=("/coredns",)),
    }


def short_name(reference: str) -> str:
    """Return `etcd` for `some.registry/library/etcd:3.4`."""
    return reference.rpartition("/")[2].partition(":")[0]


def write_archive(stream: IO[bytes], reference: str, component: Component) -> None:
    """Write a docker archive (image specification v1.2, as `docker save`) with one layer."""
    layer = _layer(component)
    digest = hashlib.sha256(layer).hexdigest()
    settings: dict[str, object] = {"Env": [_PATH]}
    if component.entrypoint:
        settings["Entrypoint"] = list(component.entrypoint)
    configuration = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[_machine()],
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, content in (
            (name, configuration),
            (f"{digest}/layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _machine() -> str:
    import platform

    return platform.machine()


def _layer(component: Component) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for path, target in sorted(component.links.items()):
            member = tarfile.TarInfo(path)
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
            layer.addfile(member)
        for path, source in sorted(component.files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = source.stat().st_size, 0o755
            with source.open("rb") as content:
                layer.addfile(member, content)
        # kube-proxy and etcd want somewhere to write.
        member = tarfile.TarInfo("tmp")
        member.type, member.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(member)
    return buffer.getvalue()


def main(binaries: Path, into: Path) -> None:
    """Write an archive for each image that kubeadm will ask for."""
    into.mkdir(parents=True)
    listing = subprocess.run(
        [
            binaries / "kubeadm",
            "config",
            "images",
            "list",
            "--kubernetes-version",
            (binaries / "version").read_text().strip(),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    known = components(binaries)
    for reference in listing.stdout.split():
        name = short_name(reference)
        with (into / f"{name}.tar").open("wb") as stream:
            write_archive(stream, reference, known[name])
        if name == "pause":
            (into / "pause-image").write_text(reference)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
