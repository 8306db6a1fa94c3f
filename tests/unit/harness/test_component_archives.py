"""Component images: archives as `docker save` writes them, with the libraries programs need."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.harness.node import component_archives


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("registry.example/kube-proxy:v1.20.2", "kube-proxy"),
        ("registry.example:5000/library/etcd:3.4.13-0", "etcd"),
        ("pause:3.2", "pause"),
    ],
)
def test_the_short_name_of_an_image_is_without_registry_and_tag(reference: str, name: str) -> None:
    assert component_archives.short_name(reference) == name


def test_libraries_and_the_loader_are_read_from_ldd() -> None:
    output = (
        "\tlinux-vdso.so.1 (0x00007ffd)\n"
        "\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n"
        "\tlibgone.so => not found\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
    )
    assert component_archives.libraries_in(output) == [
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib64/ld-linux-x86-64.so.2",
    ]


def test_an_archive_names_its_image_and_its_digests_hold(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    component = component_archives.Component(
        files={"usr/bin/program": program}, links={"bin": "usr/bin"}, entrypoint=("/bin/program",)
    )
    stream = io.BytesIO()
    component_archives.write_archive(stream, "some/image:1", component)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        content = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    (manifest,) = json.loads(content["manifest.json"])
    assert manifest["RepoTags"] == ["some/image:1"]
    configuration = json.loads(content[manifest["Config"]])
    assert configuration["config"]["Entrypoint"] == ["/bin/program"]
    (layer,) = (content[name] for name in manifest["Layers"])
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        assert files.getmember("bin").linkname == "usr/bin"
        assert files.getmember("usr/bin/program").mode == 0o755
