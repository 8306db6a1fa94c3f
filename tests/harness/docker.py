"""The Docker daemon: the one that answers, or one of our own; and the client to talk to it.

A daemon of our own has its socket, data and log in the cache directory and is stopped by its
pid. Never touches a daemon that somebody else started.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from tests.harness import debian, oci_runtime
from tests.harness.errors import HarnessError
from tests.harness.locking import exclusive
from tests.harness.paths import cache_directory
from tests.harness.process import CommandError, run, succeeds
from tests.harness.progress import step

# docker.io brings dockerd; containerd and runc are what it runs on; iptables is how it
# publishes ports.
PACKAGES = ("docker.io", "containerd", "runc", "iptables")

_RUNTIME_NAME = "runc-without-sys-resource"
_CAP_SYS_RESOURCE_BIT = 24  # linux/capability.h

# A daemon with a large data root takes a few seconds; a minute means it will not.
_START_SECONDS = 60
# Stopping the node containers takes Docker's 10 s of grace each at worst.
_STOP_SECONDS = 45


def has_sys_resource(status: str) -> bool:
    """Tell from the text of /proc/self/status whether CAP_SYS_RESOURCE can be granted."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE_BIT & 1)
    return True


def _home() -> Path:
    return cache_directory("docker")


def own_socket() -> Path:
    """Return where the socket of a daemon of our own is."""
    return _home() / "docker.sock"


def environment() -> dict[str, str]:
    """Return the environment that makes `docker` and `kind` talk to the chosen daemon.

    Starts no daemon; raises HarnessError when none answers.
    """
    host = _answering_host()
    if host is None:
        raise HarnessError("no Docker daemon answers; `python -m tests.harness up` starts one")
    return _client_environment(host)


def _client_environment(host: str) -> dict[str, str]:
    # The legacy builder: the client of Debian 12 has no buildx, and the same Dockerfiles
    # have to build everywhere.
    settings = {"DOCKER_BUILDKIT": "0"}
    return {**settings, "DOCKER_HOST": host} if host else settings


@cache
def _cached_host() -> str | None:
    for host in ("", f"unix://{own_socket()}"):
        if _answers(host):
            return host
    return None


def _answering_host() -> str | None:
    """Return the DOCKER_HOST of a daemon that answers ("" is the client's own default)."""
    host = _cached_host()
    if host is None:
        _cached_host.cache_clear()
    return host


def _answers(host: str) -> bool:
    if shutil.which("docker") is None:
        return False
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).exists():
        return False
    environment = {"DOCKER_HOST": host} if host else None
    return succeeds(["docker", "version", "--format", "{{.Server.Version}}"], env=environment)


def docker(*arguments: str | Path, timeout: float = 600, log: Path | None = None) -> str:
    """Run the docker client against the chosen daemon and return its standard output."""
    return run(["docker", *arguments], env=environment(), timeout=timeout, log=log)


def is_answering() -> bool:
    """Tell whether a daemon, anybody's, answers."""
    return _answering_host() is not None


def ensure_daemon() -> None:
    """Make sure that a daemon answers, starting one of our own if none does.

    Raises HarnessError naming what is missing when that is not possible.
    """
    if is_answering():
        return
    with exclusive("docker"):
        if is_answering():
            return
        if os.geteuid() != 0:
            raise HarnessError(
                "no Docker daemon answers, and starting one needs root. Start Docker, add "
                "yourself to its group, or run this as root"
            )
        if shutil.which("dockerd") is None or shutil.which("docker") is None:
            debian.require_packages(PACKAGES, "starting a Docker daemon")
        with step("Start a Docker daemon"):
            _start()


def _start() -> None:
    home = _home()
    pidfile = home / "docker.pid"
    # After a crash or a reboot pid files remain, and dockerd believes them when their number
    # has been given to another process since. A containerd that outlived its dockerd is kept:
    # it has our containers, and dockerd takes it over.
    for file in (pidfile, home / "exec/containerd/containerd.pid"):
        if _pid_of_ours(file) is None:
            file.unlink(missing_ok=True)
    command = [
        "dockerd",
        f"--data-root={home / 'data'}",
        f"--exec-root={home / 'exec'}",
        f"--pidfile={pidfile}",
        f"--host=unix://{own_socket()}",
    ]
    if not has_sys_resource(Path("/proc/self/status").read_text()):
        command += [
            f"--add-runtime={_RUNTIME_NAME}={_write_runtime()}",
            f"--default-runtime={_RUNTIME_NAME}",
        ]
    log = home / "dockerd.log"
    with log.open("w") as sink:
        daemon = subprocess.Popen(
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, start_new_session=True
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if is_answering():
            return
        if daemon.poll() is not None:
            break
        time.sleep(0.2)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise HarnessError(f"dockerd did not start (log: {log}):\n{last}")


def _write_runtime() -> Path:
    """Write the runtime as a program of its own, so that it outlives this checkout."""
    program = _home() / _RUNTIME_NAME
    source = Path(oci_runtime.__file__).read_text()
    interpreter = Path("/usr/bin/python3") if Path("/usr/bin/python3").exists() else sys.executable
    (_home() / "oci_runtime.py").write_text(source)
    script = _home() / "oci_runtime.py"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(str(interpreter))} -I -S {shlex.quote(str(script))} "$@"\n'
    )
    program.chmod(0o755)
    return program


def own_pid() -> int | None:
    """Return the pid of the daemon that we started from this cache directory, if it runs."""
    return _pid_of_ours(_home() / "docker.pid")


def _pid_of_ours(pidfile: Path) -> int | None:
    """Return the number in a pid file if it is that of a process with our directory in its
    command line, which both dockerd and its containerd have."""
    try:
        pid = int(pidfile.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if f"{_home()}/".encode() in command else None


def stop_own_daemon() -> bool:
    """Stop the daemon that we started; return whether there was one."""
    pid = own_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while own_pid() is not None:
        if time.monotonic() > deadline:
            raise HarnessError(f"dockerd (pid {pid}) did not stop within {_STOP_SECONDS} s")
        time.sleep(0.1)
    _cached_host.cache_clear()
    return True


# A registry that can be reached answers within a few seconds; a firewall that drops packets
# would otherwise cost the minutes of a TCP timeout.
_REGISTRY_SECONDS = 25


@cache
def can_pull(reference: str) -> bool:
    """Tell whether an image can be had from its registry, by asking for its manifest."""
    try:
        run(
            ["docker", "manifest", "inspect", reference],
            env=environment(),
            timeout=_REGISTRY_SECONDS,
        )
    except CommandError:
        return False
    return True


def has_image(reference: str) -> bool:
    """Tell whether the daemon has an image."""
    return succeeds(["docker", "image", "inspect", reference], env=environment())
