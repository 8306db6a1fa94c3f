"""Running a program and saying, in a sentence, how it failed.

The only place of the harness that calls subprocess for programs that end by themselves.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.errors import HarnessError
from tests.harness.locking import held

# Lines of a failed program's output that go into the error. Enough for a kubeadm or
# compiler error with its context; the whole output is in the log file where one is kept.
_ERROR_LINES = 25


class CommandError(HarnessError):
    """A program ended with a non-zero status, or did not end in time."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
    log: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    `env` is added to the environment. `timeout` is in seconds. With `log`, standard output
    and error go to that file and the return value is empty.
    Raises CommandError with the last lines of the output; HarnessError if there is no such
    program.
    """
    shown = " ".join(str(part) for part in argv)
    environment = {**os.environ, **(env or {})}
    try:
        if log is None:
            done = subprocess.run(
                [str(part) for part in argv],
                input=input,
                env=environment,
                cwd=cwd,
                timeout=timeout,
                pass_fds=held(),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            stdout, output = done.stdout, done.stdout + done.stderr
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as sink:
                done = subprocess.run(
                    [str(part) for part in argv],
                    input=input,
                    env=environment,
                    cwd=cwd,
                    timeout=timeout,
                    pass_fds=held(),
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
            stdout, output = "", log.read_text(errors="replace")
    except FileNotFoundError as error:
        raise HarnessError(f"there is no program {argv[0]!s} on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"`{shown}` did not end within {timeout:.0f} s", "") from error
    if done.returncode != 0:
        last = "\n".join(output.strip().splitlines()[-_ERROR_LINES:])
        kept = f"\n(whole output: {log})" if log else ""
        raise CommandError(f"`{shown}` failed with status {done.returncode}:\n{last}{kept}", output)
    return stdout


def succeeds(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout: float = 30
) -> bool:
    """Tell whether a program ends with status 0 within `timeout` seconds."""
    try:
        run(argv, env=env, timeout=timeout)
    except HarnessError:
        return False
    return True
