"""What a docker build sees: .dockerignore as Docker reads it, and bytes that repeat."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.harness import build_context


@pytest.mark.parametrize(
    ("pattern", "path", "excluded"),
    [
        ("*.md", "README.md", True),
        ("*.md", "docs/README.md", False),
        ("**/*.md", "docs/README.md", True),
        ("**/*.md", "README.md", True),
        ("docs", "docs/deep/file", True),
        ("docs/", "docs/file", True),
        ("/docs", "docs/file", True),
        ("docs", "other/docs", False),
        ("**/__pycache__", "a/b/__pycache__/c.pyc", True),
        ("*.py[cod]", "a.pyc", True),
        ("*.py[cod]", "a.py", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.b", "axb", False),
    ],
)
def test_a_pattern_excludes_what_docker_would(pattern: str, path: str, excluded: bool) -> None:
    assert build_context.Ignore(pattern).excludes(path) is excluded


def test_the_last_pattern_that_matches_decides() -> None:
    ignore = build_context.Ignore("# all but code\n*\n!src\nsrc/secret\n")
    assert ignore.excludes("README.md")
    assert not ignore.excludes("src/code.py")
    assert ignore.excludes("src/secret")


def _names(context: Path) -> list[str]:
    return [path.relative_to(context).as_posix() for path in build_context.files(context)]


def test_a_file_below_an_excluded_directory_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/kept").touch()
    (tmp_path / "a/gone").touch()
    (tmp_path / ".dockerignore").write_text("a\n!a/b/kept\n")
    assert _names(tmp_path) == ["a/b/kept"]


def test_a_link_to_a_directory_is_taken_as_a_link_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "loop").symlink_to(".")
    assert _names(tmp_path) == ["loop", "real/file"]


def _archive(context: Path, dockerfile: Path) -> bytes:
    stream = io.BytesIO()
    build_context.write(stream, context, build_context.files(context), dockerfile)
    return stream.getvalue()


def _context(root: Path, mode: int) -> Path:
    root.mkdir()
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(mode)
    return root


def test_the_archive_is_the_same_whenever_and_under_whatever_umask_files_were_made(
    tmp_path: Path,
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n")
    one, other = _context(tmp_path / "one", 0o755), _context(tmp_path / "other", 0o700)
    os.utime(other / "program", (1, 1))
    assert _archive(one, dockerfile) == _archive(other, dockerfile)


def test_the_dockerfile_may_lie_outside_and_hides_no_file_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM outside\n")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM inside\n")
    with tarfile.open(fileobj=io.BytesIO(_archive(context, tmp_path / "Dockerfile"))) as archive:
        texts = {
            member.name: stream.read()
            for member in archive
            if (stream := archive.extractfile(member))
        }
    assert texts == {
        build_context.DOCKERFILE: b"FROM outside\n",
        "Dockerfile": b"FROM inside\n",
    }


def test_both_names_of_a_hard_linked_file_carry_its_content(tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n")
    context = tmp_path / "context"
    context.mkdir()
    (context / "a").write_text("content")
    os.link(context / "a", context / "b")
    with tarfile.open(fileobj=io.BytesIO(_archive(context, dockerfile))) as archive:
        second = archive.extractfile("b")
        assert second is not None
        assert second.read() == b"content"
