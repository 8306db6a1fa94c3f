"""The line that each request leaves in the log: the same JSON as all other lines, written directly.

It is on the path of every request: structlog's pipeline would cost a fifth of all that a request
costs.
"""

import sys
from collections.abc import Mapping
from typing import Any

import orjson


class RequestLog:
    """Writes to standard output, unless the level is above `info`."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line of level `info`, at once: nothing is lost when the process is killed."""
        if not self._enabled:
            return
        output = sys.stdout.buffer
        output.write(orjson.dumps(line, option=_OPTIONS))
        output.flush()


_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
