"""The runc that does without CAP_SYS_RESOURCE, run as Docker runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import oci_runtime


def _process() -> dict[str, Any]:
    return {
        "args": ["sh"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576}],
        "oomScoreAdj": -999,
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"],
            "effective": ["CAP_SYS_RESOURCE"],
            "ambient": None,
        },
    }


def test_only_what_needs_the_capability_is_taken_out() -> None:
    assert oci_runtime.without_sys_resource(_process()) == {
        "args": ["sh"],
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": [], "ambient": []},
    }


def test_filtering_twice_changes_nothing() -> None:
    once = oci_runtime.without_sys_resource(_process())
    assert oci_runtime.without_sys_resource(once) == once


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--root /r --log /l create --bundle /b --pid-file /p id", ("/b/config.json", "bundle")),
        ("--log-format=json --systemd-cgroup run -b /b id", ("/b/config.json", "bundle")),
        ("create --bundle=/b id", ("/b/config.json", "bundle")),
        ("--root /r exec --process /x/p.json --detach id", ("/x/p.json", "process")),
        ("exec -p /x/p.json id", ("/x/p.json", "process")),
        ("exec id sh", None),
        ("--root create start id", None),
        ("delete --force id", None),
        ("--version", None),
        ("", None),
    ],
)
def test_the_file_that_runc_would_read_is_found(
    arguments: str, expected: tuple[str, str] | None
) -> None:
    assert oci_runtime.document_to_filter(arguments.split()) == expected


def _fake_runc(directory: Path) -> None:
    program = directory / "runc"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)


def test_as_a_program_it_rewrites_the_bundle_and_becomes_runc(tmp_path: Path) -> None:
    _fake_runc(tmp_path)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps({"process": _process(), "root": {}}))
    done = subprocess.run(
        [sys.executable, "-I", "-S", oci_runtime.__file__, "create", "--bundle", bundle, "id"],
        env={"PATH": str(tmp_path) + ":/bin:/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"create --bundle {bundle} id\n"
    assert json.loads((bundle / "config.json").read_text()) == {
        "process": oci_runtime.without_sys_resource(_process()),
        "root": {},
    }
    assert [path.name for path in bundle.iterdir()] == ["config.json"]
