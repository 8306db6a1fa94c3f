"""The host's view of the node's GPU locks: what was violated, and what the next start shall do.

A directory stands for a GPU. What is asked of the node's directory covers the ones below it too:
ModelServings that run at the same time have one each.

Reads and writes the files that the engines share through `SIM_GPU_DIR` (`sim.gpu`); holds no lock.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.harness.engines.sim import behaviour, gpu
from tests.harness.engines.sim.gpu import Holder


@dataclass(frozen=True)
class Violation:
    """Two engines were alive at once: `intruder` started while `holder` had the GPU."""

    time: datetime
    holder: Holder
    intruder: Holder

    def __str__(self) -> str:
        return (
            f"{self.time:%H:%M:%S.%f} {self.intruder.model} ({self.intruder.pod}) started while "
            f"{self.holder.model} ({self.holder.pod}) was alive"
        )


def prepare(directory: Path) -> Path:
    """Make the directory that the engines share, writable by whichever user they run as."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    return directory


def violations(directory: Path) -> list[Violation]:
    """Every violation since the last `reset`, oldest first."""
    return [
        Violation(
            time=datetime.fromisoformat(line["time"]),
            holder=Holder(**line["holder"]),
            intruder=Holder(**line["intruder"]),
        )
        for line in _all_lines(directory, gpu.VIOLATIONS_FILE)
    ]


def history(directory: Path) -> list[str]:
    """Who took and left a GPU since the last `reset`, a line each, for a post-mortem."""
    return [
        f"{line['time']} {line['event']} {line['holder']['model']} ({line['holder']['pod']})"
        for line in _all_lines(directory, gpu.HISTORY_FILE)
    ]


def set_behaviour(directory: Path, behaviours: Mapping[str, Mapping[str, str]]) -> None:
    """What each model's engine does from its next start on, as SIM_* variables by model name.

    Replaces what was set before, and forgets how often each model has started, so that
    SIM_FAULT_TIMES counts from here.
    """
    fresh = directory / f".{behaviour.BEHAVIOUR_FILE}"
    fresh.write_text(json.dumps(behaviours))
    fresh.chmod(0o644)
    fresh.rename(directory / behaviour.BEHAVIOUR_FILE)
    _forget_starts(directory)


def reset(directory: Path) -> None:
    """Forget violations, history, starts and behaviours. The locks themselves are left alone."""
    for one in _gpus(directory):
        for name in (gpu.VIOLATIONS_FILE, gpu.HISTORY_FILE, behaviour.BEHAVIOUR_FILE):
            (one / name).unlink(missing_ok=True)
        _forget_starts(one)


def _gpus(directory: Path) -> list[Path]:
    """Return the directories of all GPUs: the node's own, and those that were prepared below."""
    below = (path for path in directory.glob("*") if path.is_dir())
    return [directory, *(path for path in below if path.name != gpu.STARTS_DIRECTORY)]


def _forget_starts(directory: Path) -> None:
    for path in (directory / gpu.STARTS_DIRECTORY).glob("*"):
        path.unlink(missing_ok=True)


def _all_lines(directory: Path, name: str) -> list[dict[str, Any]]:
    lines = [line for one in _gpus(directory) for line in _lines(one / name)]
    return sorted(lines, key=lambda line: str(line["time"]))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
