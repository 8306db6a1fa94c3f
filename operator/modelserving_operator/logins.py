"""How kopf gets its credentials: whenever it has none, which it finds out by being refused.

Where credentials are found is kopf's; here is only when, and that they count as new.
"""

import asyncio
import math
import time
from dataclasses import replace
from typing import Any, Final

import kopf

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 5.0
"""Before credentials that were refused at once are tried again, doubling in between."""

_GOOD_FOR_SECONDS: Final = 30.0
"""Credentials that lasted longer than this were accepted, and refused for another reason."""


class Logins:
    """Reads the credentials anew each time, since a service account's token is rotated.

    An API server that is coming up refuses good ones for a while. Kopf takes none that equal those
    it has seen refused, and ends when it has no others: so each time they are made to differ.
    """

    def __init__(self) -> None:
        self._count = 0
        self._refused = 0
        self._last = -math.inf

    async def login(self, **kwargs: Any) -> kopf.ConnectionInfo | None:
        """Return the service account's credentials or the kubeconfig's, after a pause."""
        await asyncio.sleep(self._pause())
        self._last = time.monotonic()
        found = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        if found is None:
            return None
        self._count += 1
        # It says which of several to prefer. There are no others, so it is free for this.
        return replace(found, priority=self._count)

    def _pause(self) -> float:
        if time.monotonic() - self._last > _GOOD_FOR_SECONDS:
            self._refused = 0
            return 0.0
        self._refused += 1
        return min(_FIRST_PAUSE_SECONDS * 2.0 ** min(self._refused - 1, 10), _LONGEST_PAUSE_SECONDS)
