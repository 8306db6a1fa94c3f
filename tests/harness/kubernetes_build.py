"""Kubernetes for machines without a registry: Debian's source package, built and cached.

Yields static binaries and the pause program. Takes about 8 minutes on 2 cores, once.
"""

import os
import shutil
from pathlib import Path

from tests.harness import content_hash, debian
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive, scratch
from tests.harness.paths import cache_directory
from tests.harness.process import run
from tests.harness.progress import step

# What Debian 12 has: the source package is called 1.20.5+really1.20.2.
VERSION = "1.20.2"

PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "kubeadm",
)

_REFLECT2 = "github.com/modern-go/reflect2"
_PACKAGES = (
    "golang-go",
    "golang-github-modern-go-reflect2-dev",
    "gcc",
    "libc6-dev",
    "make",
    "rsync",
    "jq",
    "dpkg-dev",
)
# Symbols and debug information are half of the size of these programs.
_LINKER_FLAGS = "-s -w"
# Part of the cache key: raise it when the steps below change.
_RECIPE = "2"

_KUBELET = "pkg/kubelet/kubelet.go"
_COLLECTS_SELDOM = "ContainerGCPeriod = time.Minute"
_COLLECTS_OFTEN = "ContainerGCPeriod = 5 * time.Second"

# Two cores need 5 to 8 minutes alone and more beside other work; this is for slower machines.
_BUILD_SECONDS = 3600


def binaries() -> Path:
    """Return a directory with PROGRAMS and `pause`, building them if need be.

    The key is the recipe and the upstream version, not Debian's revision: a security update
    of the package does not by itself cost everybody a build. Its revision is kept in
    the file `revision` beside the programs.
    """
    home = cache_directory("kubernetes")
    result = home / content_hash.of(_RECIPE, debian.RELEASE, VERSION, _LINKER_FLAGS, *PROGRAMS)
    if result.exists():
        return result
    with exclusive("kubernetes"):
        if result.exists():
            return result
        debian.require_release("Kubernetes cannot be pulled as an image")
        debian.require_packages(_PACKAGES, "building Kubernetes")
        with scratch("kubernetes") as work:
            with step("Download Kubernetes' source from Debian"):
                suite = debian.Suite(debian.RELEASE)
                suite.update()
                tree = suite.source_tree("kubernetes", work)
            with step(f"Build Kubernetes {VERSION} (about 8 minutes, once)"):
                _compile(tree, work, home / "build.log")
            _keep(tree, work / "kept", result)
    return result


def _compile(tree: Path, work: Path, log: Path) -> None:
    # The vendored reflect2 reads runtime internals that changed in Go 1.18: kube-apiserver
    # built with it crashes. Debian packages the fixed release.
    vendored = tree / "vendor" / _REFLECT2
    shutil.rmtree(vendored)
    shutil.copytree(Path("/usr/share/gocode/src") / _REFLECT2, vendored)
    _collect_sandboxes_often(tree)
    # The build wants to lie in a GOPATH; a link is enough, as in Debian's own rules.
    link = tree / ".go/src/k8s.io/kubernetes"
    link.parent.mkdir(parents=True)
    link.symlink_to(tree)
    run(
        ["make", f"WHAT={' '.join(f'cmd/{program}' for program in PROGRAMS)}"],
        cwd=link,
        env={
            "GOPATH": str(tree / ".go"),
            "GO111MODULE": "off",
            "CGO_ENABLED": "0",
            "GOCACHE": str(work / "go-cache"),
            "GOLDFLAGS": _LINKER_FLAGS,
            # make changes into the link by its logical name only when the shell does.
            "PWD": str(link),
        },
        timeout=_BUILD_SECONDS,
        log=log,
    )
    pause = tree / "build/pause/linux/pause.c"
    output = tree / "_output/bin/pause"
    run(["gcc", "-Os", "-Wall", "-static", f"-DVERSION={VERSION}", "-o", output, pause])


def _collect_sandboxes_often(tree: Path) -> None:
    """Let no Pod's end take a minute (kubernetes #97288, which later kubelets do not have).

    This kubelet removes a Pod from the API once its sandbox is gone, and the sandbox when its last
    container is, unless it was still being stopped then: that one waits for the garbage collector.
    """
    source = tree / _KUBELET
    text = source.read_text()
    if text.count(_COLLECTS_SELDOM) != 1:
        raise HarnessError(f"{_KUBELET} of Kubernetes {VERSION} is not what it was: see _RECIPE")
    source.write_text(text.replace(_COLLECTS_SELDOM, _COLLECTS_OFTEN))


def _keep(tree: Path, kept: Path, result: Path) -> None:
    """Move what was built to its place in one step, so that a killed build leaves nothing."""
    kept.mkdir()
    for program in (*PROGRAMS, "pause"):
        built = tree / "_output/bin" / program
        if not built.exists():
            raise HarnessError(f"the Kubernetes build ended without making {program}")
        shutil.copy2(built.resolve(), kept / program)
    changelog = run(["dpkg-parsechangelog", "-S", "Version", "-l", tree / "debian/changelog"])
    (kept / "revision").write_text(changelog)
    os.replace(kept, result)
