"""Keys for cached builds: a short hash of everything that went into one.

Pure: reads files it is given, runs nothing.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

# 12 hexadecimal digits (48 bits): no collision in practice among the dozens of builds of
# one machine, and still readable in an image tag.
_DIGITS = 12


def of(*parts: str | bytes) -> str:
    """Return the key of some strings; their boundaries count ("a","b" differs from "ab")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:_DIGITS]


def of_files(root: Path, files: Iterable[Path]) -> str:
    """Return the key of files below `root`: their relative names, contents and mode bits."""
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            kind, size = f"link {path.readlink()}", 0
        else:
            kind, size = f"file {path.stat().st_mode & 0o111:o}", path.stat().st_size
        digest.update(f"{name}\0{kind}\0{size}\0".encode())
        if not path.is_symlink():
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:_DIGITS]
