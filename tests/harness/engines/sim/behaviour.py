"""How long the stand-in takes and how it fails, read from SIM_* variables.

The package's docstring says what each means. Reading only: nothing here sleeps or dies.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

BEHAVIOUR_FILE = "behaviour.json"


class Fault(StrEnum):
    NONE = ""
    CRASH = "crash"
    OUT_OF_MEMORY = "oom"
    OUT_OF_HOST_MEMORY = "host-oom"
    HANG = "hang"
    EMPTY = "empty"
    GARBAGE = "garbage"
    NO_WEIGHTS = "weights"
    DIE = "die"


@dataclass(frozen=True)
class Behaviour:
    """Times in seconds."""

    load_seconds: float = 0.0
    unload_seconds: float = 0.0
    first_token_seconds: float = 0.0
    seconds_per_token: float = 0.0
    tokens: int = 16
    fault: Fault = Fault.NONE
    fault_times: int | None = None
    exit_code: int = 1
    die_after_tokens: int = 3
    ignore_sigterm: bool = False


def read(environment: Mapping[str, str], directory: Path, model: str) -> Behaviour:
    """The behaviour of `model`: the environment, overridden by behaviour.json in `directory`.

    Raises ValueError that names the variable or the file when either cannot be read.
    """
    variables = {**environment, **_overrides(directory / BEHAVIOUR_FILE).get(model, {})}
    fault = variables.get("SIM_FAULT", "")
    try:
        kind = Fault(fault)
    except ValueError:
        known = ", ".join(kind for kind in Fault if kind)
        raise ValueError(f"SIM_FAULT is {fault!r}; it must be one of {known}") from None
    times = variables.get("SIM_FAULT_TIMES")
    return Behaviour(
        load_seconds=_number(variables, "SIM_LOAD_SECONDS", 0.0),
        unload_seconds=_number(variables, "SIM_UNLOAD_SECONDS", 0.0),
        first_token_seconds=_number(variables, "SIM_FIRST_TOKEN_SECONDS", 0.0),
        seconds_per_token=_number(variables, "SIM_SECONDS_PER_TOKEN", 0.0),
        tokens=_whole(variables, "SIM_TOKENS", 16),
        fault=kind,
        fault_times=None if times is None else _whole(variables, "SIM_FAULT_TIMES", 0),
        exit_code=_whole(variables, "SIM_EXIT_CODE", 1),
        die_after_tokens=_whole(variables, "SIM_DIE_AFTER_TOKENS", 3),
        ignore_sigterm=variables.get("SIM_IGNORE_SIGTERM") == "1",
    )


def _overrides(path: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be an object of models")
    return content


def _number(variables: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(variables.get(name, default))
    except ValueError:
        raise ValueError(f"{name} is {variables[name]!r}; it must be a number") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be finite and not negative")
    return value


def _whole(variables: Mapping[str, str], name: str, default: int) -> int:
    value = _number(variables, name, default)
    if value != int(value):
        raise ValueError(f"{name} is {value}; it must be a whole number")
    return int(value)
