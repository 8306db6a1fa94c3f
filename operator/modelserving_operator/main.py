"""The program `modelserving-operator`: settings, logs, kopf, and what follows when kopf ends."""

import asyncio
import random
import time
from typing import Final

import kopf
import structlog

from modelserving_operator import logs, metrics
from modelserving_operator.handlers import Operator, register
from modelserving_operator.settings import Settings

_log = structlog.get_logger(__name__)

_TRIES: Final = 8
"""Lives of kopf in a row that end badly and soon; then the process ends, with the last error."""

_LONG_LIFE_SECONDS: Final = 30.0
"""A life that lasted longer than this was a good one."""

_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 10.0


def main() -> None:
    """Run the operator until it is told to stop.

    Kopf ends when a watch gets an answer that it does not know how to go on from: an error other
    than 410 in the stream, 410 instead of a stream, 401 while the API server is coming up. A new
    life in the same process is what a new process would be, without the kubelet's growing pauses.
    What is wrong with ourselves ends the process at once.
    """
    settings = Settings()
    logs.configure(settings.log_level)
    bad_lives = 0
    while True:
        began = time.monotonic()
        operator = Operator(settings)
        try:
            asyncio.run(_live(operator))
        except Exception as error:
            bad_lives = 1 if time.monotonic() - began > _LONG_LIFE_SECONDS else bad_lives + 1
            if operator.watch is None or operator.failure is not None or bad_lives > _TRIES:
                _log.error("the operator ends", error=repr(error), exc_info=error)
                raise SystemExit(1) from error
            pause = min(
                _FIRST_PAUSE_SECONDS * 2**bad_lives, _LONGEST_PAUSE_SECONDS
            ) * random.uniform(0.5, 1.0)  # noqa: S311
            _log.warning("watches begin anew", error=repr(error), retry_seconds=round(pause, 1))
            metrics.RESTARTS.inc()
            time.sleep(pause)
        else:
            return


async def _live(operator: Operator) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, operator)
    await kopf.operator(
        registry=registry,
        # One replica, strategy Recreate: there is nobody to agree with.
        standalone=True,
        namespaces=[operator.settings.namespace],
        stop_flag=operator.stop,
    )
    if operator.failure is not None:
        raise operator.failure


if __name__ == "__main__":
    main()
