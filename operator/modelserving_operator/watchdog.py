"""Ends the process when it sits: its event loop is blocked, or a ModelServing has stalled.

Liveness asks from outside and needs a loop that answers; this looks from inside. What is stale is
told by whoever counts; here is only what follows from it.
"""

import asyncio
import faulthandler
from collections.abc import Callable
from typing import Final

BEAT_SECONDS: Final = 1.0

PATIENCE_SECONDS: Final = 60.0
"""How long liveness may be red before this acts: the kubelet, who asks thrice, ten seconds apart,
goes first. Counted in beats, so that a process that was stopped does not wake up condemned."""

_LAST_GRACE_SECONDS: Final = 20.0
"""For an orderly end once that is decided; then the process is ended as if it were blocked."""


class StalledError(Exception):
    """ModelServings are not reconciled, or not watched, for so long that only a restart helps."""


async def watch(
    stalled: Callable[[], list[str]],
    fail: Callable[[BaseException], None],
    *,
    blocked_after_seconds: float,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Watch until cancelled, or until it has failed the process.

    A blocked loop cannot end the process itself, and a thread of Python needs the interpreter lock,
    so faulthandler's own thread does: unless it is put off by the next beat, it writes down where
    every thread stands and exits with status 1.
    """
    red_seconds = 0.0
    found: list[str] = []
    try:
        while red_seconds <= patience_seconds:
            faulthandler.dump_traceback_later(blocked_after_seconds, exit=True)
            await asyncio.sleep(BEAT_SECONDS)
            found = stalled()
            red_seconds = red_seconds + BEAT_SECONDS if found else 0.0
    except asyncio.CancelledError:
        # Whoever looked after the process looks no more: what is left to do is to end.
        expect_end()
        raise
    expect_end()
    fail(StalledError(f"stalled: {', '.join(found)}"))


def expect_end() -> None:
    """End the process unless it, or kopf's life in it, ends by itself before long."""
    faulthandler.dump_traceback_later(_LAST_GRACE_SECONDS, exit=True)


def stand_down() -> None:
    """Call the end of the process off."""
    faulthandler.cancel_dump_traceback_later()
