"""Start the stand-in: read the command line, take the GPU, load, serve, drain. Wiring only."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import uvloop

from . import app, behaviour, failures, options, server
from .behaviour import Behaviour, Fault
from .engine import Engine
from .gpu import Gpu, GpuInUseError, Holder
from .metrics import Metrics

DEFAULT_GPU_DIRECTORY = "/var/lib/modelserving-gpu"

logger = logging.getLogger("sim")


def main() -> None:
    """Run the engine until SIGTERM; the exit code is 0 when it drained."""
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(asctime)s [sim] %(message)s", stream=sys.stderr
    )
    arguments = options.parse(sys.argv[1:])
    if arguments.ignored:
        logger.info("flags that mean nothing here: %s", " ".join(arguments.ignored))
    directory = Path(os.environ.get("SIM_GPU_DIR", DEFAULT_GPU_DIRECTORY))
    try:
        acts = behaviour.read(os.environ, directory, arguments.name)
        listener = server.bind(arguments.host, arguments.port)
    except (ValueError, OSError) as error:
        raise SystemExit(f"sim: {error}") from error
    # As PID 1 it would be ignored without a handler.
    signal.signal(signal.SIGTERM, signal.SIG_IGN if acts.ignore_sigterm else _end_loading)
    me = Holder(os.environ.get("HOSTNAME", "host"), arguments.name, os.getpid())
    gpu = Gpu(directory, me)
    _take(gpu, directory)
    acts = replace(acts, fault=_fault(gpu, acts, arguments.name))
    _load(acts)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(arguments, acts, gpu, listener))
        logger.info("unloading for %s s", acts.unload_seconds)
        time.sleep(acts.unload_seconds)
    finally:
        gpu.record("exits")  # the kernel releases the lock when the process is gone


def _take(gpu: Gpu, directory: Path) -> None:
    try:
        gpu.acquire()
    except GpuInUseError as error:
        logger.error("violation: %s", error)
        failures.die_of_memory()
    except OSError as error:
        raise SystemExit(
            f"sim: cannot lock the GPU in {directory}: {error}. Mount a directory of the node "
            "there that this user may write, or name another in SIM_GPU_DIR."
        ) from error


def _fault(gpu: Gpu, acts: Behaviour, name: str) -> Fault:
    """The fault of this start: none when it has struck as often as it was to."""
    starts = gpu.count_start(name)
    if acts.fault_times is not None and starts > acts.fault_times:
        return Fault.NONE
    return acts.fault


def _load(acts: Behaviour) -> None:
    logger.info("loading for %s s", acts.load_seconds)
    time.sleep(acts.load_seconds)
    if acts.fault is Fault.CRASH:
        failures.crash(acts.exit_code)
    if acts.fault is Fault.NO_WEIGHTS:
        failures.die_without_weights()
    if acts.fault is Fault.OUT_OF_MEMORY:
        failures.die_of_memory()
    if acts.fault is Fault.OUT_OF_HOST_MEMORY:
        failures.exceed_memory_limit()
    while acts.fault is Fault.HANG:
        logger.info("hanging")
        signal.pause()


async def _serve(
    arguments: options.Options, acts: Behaviour, gpu: Gpu, listener: socket.socket
) -> None:
    engine = Engine(acts, Metrics(arguments.name), gpu, slots=arguments.max_num_seqs)
    dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
    await server.serve(
        app.build(arguments, acts, engine, dev_mode=dev_mode),
        engine,
        listener,
        shutdown_timeout=arguments.shutdown_timeout,
        ignore_sigterm=acts.ignore_sigterm,
    )


def _end_loading(*_: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
