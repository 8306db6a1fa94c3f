"""The files that a `docker build` sees, as one archive whose bytes depend on them alone.

Pure but for reading files. Follows .dockerignore, so that a build key changes exactly when
something the build can see changes.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

# The Dockerfile's name inside the archive: it may lie outside the context, and must not
# hide a file of the context.
DOCKERFILE = ".modelserving.Dockerfile"

# 1980-01-02: the same bytes for the same files, and young enough for the zip format, in
# which wheels are built.
_MODIFIED = 315_619_200


def pattern_to_regex(pattern: str) -> re.Pattern[str]:
    """Translate a .dockerignore pattern (Go's filepath.Match, with ** for any directories).

    The result matches the path itself and everything below it.
    """
    out, index = "", 0
    while index < len(pattern):
        if pattern.startswith("**/", index):
            out, index = out + "(?:.*/)?", index + 3
        elif pattern.startswith("**", index):
            out, index = out + ".*", index + 2
        elif pattern[index] == "*":
            out, index = out + "[^/]*", index + 1
        elif pattern[index] == "?":
            out, index = out + "[^/]", index + 1
        elif pattern[index] == "[" and "]" in pattern[index:]:
            end = pattern.index("]", index)
            out, index = out + pattern[index : end + 1], end + 1
        else:
            out, index = out + re.escape(pattern[index]), index + 1
    return re.compile(f"{out}(?:/.*)?")


class Ignore:
    """The rules of one .dockerignore: the last pattern that matches a path decides."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for raw in text.splitlines():
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            keeps = line.startswith("!")
            pattern = line.lstrip("!").strip().strip("/").removeprefix("./")
            self._rules.append((keeps, pattern_to_regex(pattern)))

    def excludes(self, path: str) -> bool:
        """Tell whether a path relative to the context stays out."""
        excluded = False
        for keeps, regex in self._rules:
            if regex.fullmatch(path):
                excluded = not keeps
        return excluded

    @property
    def has_exceptions(self) -> bool:
        """Tell whether something below an excluded directory may still be wanted."""
        return any(keeps for keeps, _ in self._rules)


def files(context: Path) -> list[Path]:
    """Return the files and links of a build context that its .dockerignore lets through."""
    rules = context / ".dockerignore"
    ignore = Ignore(rules.read_text() if rules.exists() else "")
    return sorted(_walk(context, context, ignore))


def _walk(root: Path, directory: Path, ignore: Ignore) -> Iterator[Path]:
    for entry in directory.iterdir():
        excluded = ignore.excludes(entry.relative_to(root).as_posix())
        if entry.is_dir() and not entry.is_symlink():
            if not excluded or ignore.has_exceptions:
                yield from _walk(root, entry, ignore)
        elif not excluded and entry.name != ".dockerignore":
            yield entry


def write(stream: IO[bytes], context: Path, paths: Sequence[Path], dockerfile: Path) -> None:
    """Write the context and its Dockerfile as a tar stream."""
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        text = dockerfile.read_bytes()
        member = tarfile.TarInfo(DOCKERFILE)
        member.size, member.mode, member.mtime = len(text), 0o644, _MODIFIED
        archive.addfile(member, io.BytesIO(text))
        for path in paths:
            member = archive.gettarinfo(path, path.relative_to(context).as_posix())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = _MODIFIED
            # Whether a file may be run matters to the image; the umask of a checkout does not.
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            # Hard links are a matter of this disk, not of the image.
            if member.islnk():
                member.type, member.linkname = tarfile.REGTYPE, ""
                member.size = path.stat().st_size
            if member.isreg():
                with path.open("rb") as source:
                    archive.addfile(member, source)
            else:
                archive.addfile(member)
