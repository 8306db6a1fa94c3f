"""Tests and builds node/cluster_dns, the stand-in for CoreDNS, with Debian's Go. 20 s, once."""

import os
from pathlib import Path

from tests.harness import content_hash, debian
from tests.harness.locking import exclusive, scratch
from tests.harness.paths import cache_directory
from tests.harness.process import run
from tests.harness.progress import step

SOURCE = Path(__file__).parent / "node" / "cluster_dns"

_PACKAGES = ("golang-go", "golang-github-miekg-dns-dev")


def program() -> Path:
    """Return the static program, building it if its source changed."""
    key = content_hash.of_files(SOURCE, sources())
    result = cache_directory("cluster_dns") / key
    if result.exists():
        return result
    with exclusive("cluster_dns"):
        debian.require_packages(_PACKAGES, "building the cluster's DNS server")
        with scratch("cluster_dns") as work, step("Build the cluster's DNS server"):
            environment = {
                # Debian's Go libraries lie in a GOPATH; modules would be downloaded.
                "GOPATH": "/usr/share/gocode",
                "GO111MODULE": "off",
                "CGO_ENABLED": "0",
                "GOCACHE": str(work / "go-cache"),
            }
            run(["go", "test", "."], cwd=SOURCE, env=environment)
            run(
                ["go", "build", "-ldflags", "-s -w", "-o", work / "cluster_dns", "."],
                cwd=SOURCE,
                env=environment,
            )
            os.replace(work / "cluster_dns", result)
    return result


def sources() -> list[Path]:
    """Return the files the program is made of; its tests are not among them."""
    return [path for path in SOURCE.glob("*.go") if not path.name.endswith("_test.go")]
