"""The program `modelserving-operator`: settings, logs, kopf, and what follows when kopf ends."""

import asyncio
import random
import signal
import time
from types import FrameType
from typing import Final

import kopf
import structlog

from modelserving_operator import logs, metrics, watchdog
from modelserving_operator.handlers import Operator, register
from modelserving_operator.settings import Settings

_log = structlog.get_logger(__name__)

_TRIES: Final = 8
"""Lives of kopf in a row that end badly and soon; then the process ends, with the last error."""

_LONG_LIFE_SECONDS: Final = 30.0
"""A life that lasted longer than this was a good one."""

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 10.0


_LAST_SECONDS: Final = 8.0
"""For kopf to end in order, which takes five when any task of ours is left."""


class HungError(Exception):
    """Kopf was to end and did not: some task of its own waits for another that is gone."""


def main() -> None:
    """Run the operator until it is told to stop.

    Kopf ends when a watch gets an answer that it does not know how to go on from: an error other
    than 410 in the stream, 410 instead of a stream, something of its own that breaks. A new
    life in the same process is what a new process would be, without the kubelet's growing pauses.
    What is wrong with ourselves ends the process at once.
    """
    settings = Settings()
    logs.configure(settings.log_level)
    bad_lives = 0
    while True:
        # Between lives nobody else listens, and the first process of a container has no defaults.
        signal.signal(signal.SIGTERM, _leave)
        began = time.monotonic()
        operator = Operator(settings)
        try:
            _run(operator)
        except Exception as error:
            bad_lives = 1 if time.monotonic() - began > _LONG_LIFE_SECONDS else bad_lives + 1
            if _is_the_last(operator) or bad_lives > _TRIES:
                _log.error("the operator ends", error=repr(error), exc_info=error)
                raise SystemExit(1) from error
            pause = min(
                _FIRST_PAUSE_SECONDS * 2**bad_lives, _LONGEST_PAUSE_SECONDS
            ) * random.uniform(0.5, 1.0)  # noqa: S311
            _log.warning("watches begin anew", error=repr(error), retry_seconds=round(pause, 1))
            metrics.RESTARTS.inc()
            signal.signal(signal.SIGTERM, _leave)
            time.sleep(pause)
        else:
            return


def _is_the_last(operator: Operator) -> bool:
    """Return whether nothing may follow: it never came to live, failed by itself, or was told."""
    return operator.watch is None or operator.failure is not None or operator.told_to_end


def _leave(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _run(operator: Operator) -> None:
    try:
        asyncio.run(_live(operator))
    finally:
        watchdog.stand_down()


async def _live(operator: Operator) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, operator)
    # Made before kopf's life, which ends every task that was not there when it began.
    stop = asyncio.create_task(operator.stop.wait())
    life = asyncio.create_task(
        kopf.operator(
            registry=registry,
            # One replica, strategy Recreate: there is nobody to agree with.
            standalone=True,
            namespaces=[operator.settings.namespace],
            stop_flag=operator.stop,
        )
    )
    await asyncio.wait([life, stop], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([life], timeout=_LAST_SECONDS)
    if life.done():
        life.result()
    elif operator.failure is None:
        raise HungError("kopf does not end")
    if operator.failure is not None:
        raise operator.failure


if __name__ == "__main__":
    main()
