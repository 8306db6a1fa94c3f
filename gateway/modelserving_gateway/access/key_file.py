"""The file that a Secret with API keys is mounted as: read at the start, and again when it changes.

Thin: what is in it is keys.py's. A change that cannot be read leaves the last good keys in force.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from modelserving_gateway.access.keys import Keys, KeysError, read_keys

POLL_SECONDS: Final = 5.0
"""The kubelet itself takes up to a minute to bring a changed Secret into the Pod."""

_MAX_BYTES: Final = 1_048_576
"""The most that a Secret holds."""

_Identity = tuple[int, int, int, int]


class KeyFile:
    """Watches one file by its identity: a kubelet swaps a symbolic link, editors write anew."""

    def __init__(
        self, path: Path, take: Callable[[Keys], None], report: Callable[[bool], None]
    ) -> None:
        self._path = path
        self._take = take
        self._report = report
        self._seen: _Identity | None = None
        self._problem: str | None = None
        self._log = structlog.get_logger(__name__)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Take the keys if the file has changed; report whether the file is in order."""
        try:
            # In a thread: the file may be large, and its volume slow.
            identity, keys = await asyncio.to_thread(_read_if_changed, self._path, self._seen)
        except (OSError, KeysError, UnicodeDecodeError) as error:
            self._seen = None
            self._tell(_wording(error))
            return
        self._seen = identity
        if keys is None:
            return
        self._take(keys)
        self._problem = None
        self._report(True)
        self._log.info("keys read", file=str(self._path), keys=len(keys))

    def _tell(self, problem: str) -> None:
        self._report(False)
        if problem == self._problem:
            return
        self._problem = problem
        self._log.error(
            "the API keys cannot be read; the last good ones stay in force",
            file=str(self._path),
            error=problem,
        )


def _read_if_changed(path: Path, seen: _Identity | None) -> tuple[_Identity, Keys | None]:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if identity == seen:
            return identity, None
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise KeysError(f"the file is larger than {_MAX_BYTES} bytes, the most of a Secret")
    return identity, read_keys(content.decode())


def _wording(error: Exception) -> str:
    """Say what is wrong, without the content of the file."""
    match error:
        case OSError():
            return error.strerror or type(error).__name__
        case UnicodeDecodeError():
            return "the file is not UTF-8"
        case _:
            return str(error)
