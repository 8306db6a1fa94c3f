"""The daemon: when a capability is missing, whose pid is ours, which names images have."""

import os
from pathlib import Path

import pytest

from tests.harness import docker, images
from tests.harness.errors import HarnessError


@pytest.mark.parametrize(
    ("bounding", "expected"), [("000001ffffffffff", True), ("000001fffeffffff", False)]
)
def test_the_capability_is_read_from_the_bounding_set(bounding: str, expected: bool) -> None:
    status = f"Name:\tsh\nCapEff:\t0000000000000000\nCapBnd:\t{bounding}\n"
    assert docker.has_sys_resource(status) is expected


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "modelserving" / "docker"
    home.mkdir(parents=True)
    return home


def test_the_pid_of_a_process_that_is_not_our_daemon_is_not_taken_for_it(cache: Path) -> None:
    (cache / "docker.pid").write_text(str(os.getpid()))
    assert docker.own_pid() is None
    assert docker.stop_own_daemon() is False


@pytest.mark.parametrize("text", ["", "no number", "999999999"])
def test_a_pid_file_that_leads_to_nothing_is_no_daemon(cache: Path, text: str) -> None:
    (cache / "docker.pid").write_text(text)
    assert docker.own_pid() is None


def test_without_a_daemon_and_without_root_the_error_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "is_answering", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HarnessError, match=r"Start Docker.*or run this as root"):
        docker.ensure_daemon()


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("modelserving/gateway:abc", "docker.io/modelserving/gateway:abc"),
        ("busybox:1", "docker.io/library/busybox:1"),
        ("registry.example/a/b:1", "registry.example/a/b:1"),
        ("localhost/a:1", "localhost/a:1"),
        ("host:5000/a:1", "host:5000/a:1"),
    ],
)
def test_an_image_is_looked_up_by_the_name_containerd_gives_it(tag: str, name: str) -> None:
    assert images.canonical(tag) == name


def test_a_build_has_another_key_when_anything_it_sees_changes(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM a\n")
    context = tmp_path / "context"
    context.mkdir()
    file = context / "file"
    file.write_text("1")

    def key(**arguments: str) -> str:
        return images.build_key(dockerfile, context, [file], arguments)

    keys = [key(), key(BASE="a"), key(BASE="b")]
    file.write_text("2")
    keys.append(key())
    dockerfile.write_text("FROM b\n")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_an_archive_outside_the_shared_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "node_has", lambda node, tag: False)
    shared = images.SharedDirectory(tmp_path / "shared", "/shared")
    with pytest.raises(HarnessError, match="does not lie in"):
        images.load_archive(tmp_path / "image.tar", "a:1", node="worker", through=shared)
