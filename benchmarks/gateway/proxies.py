"""The proxies that are compared: how each is installed when it is missing, and started.

Others are installed beside this project, never into its own environment. Each runs as its vendor
starts it, with one worker, its access log (where it has one) in a file.
"""

import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.gateway.api_server import NAMESPACE
from benchmarks.gateway.processes import (
    PROXY_CORE,
    child,
    free_port,
    wait_until_it_answers,
)
from tests.harness.paths import cache_directory

_START_SECONDS: Final = 120
"""LiteLLM imports for 20 s on a busy core."""


@dataclass(frozen=True)
class Place:
    """Where a proxy is to listen, what it forwards to, and a directory for its files."""

    port: int
    engine: int
    files: Path
    kubeconfig: Path


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs."""

    name: str
    version: str
    port: int
    process: subprocess.Popen[bytes] | None
    """None for no proxy at all: the load asks the engine."""

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run in this block only: what it does when idle takes nothing from the others."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        """Stop it where it is, until it is let run."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)


@dataclass(frozen=True)
class _Command:
    argv: list[str | Path]
    health: str
    version: str
    env: Mapping[str, str]


def _nginx(place: Place) -> _Command:
    program = _nginx_program()
    configuration = place.files / "nginx.conf"
    configuration.write_text(_NGINX.format(files=place.files, port=place.port, engine=place.engine))
    shown = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    version = shown.strip().rpartition("/")[2]
    argv: list[str | Path] = [program, "-p", place.files, "-c", configuration]
    return _Command([*argv, "-e", "stderr"], "/health", version, {})


_NGINX: Final = """
daemon off; master_process off; pid {files}/nginx.pid; error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log {files}/access.log;
    client_body_temp_path {files}/body; proxy_temp_path {files}/proxy;
    fastcgi_temp_path {files}/fastcgi; uwsgi_temp_path {files}/uwsgi; scgi_temp_path {files}/scgi;
    keepalive_requests 1000000;
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""


def _vllm_router(place: Place) -> _Command:
    home = _environment("vllm-router", "vllm_router")
    argv: list[str | Path] = [
        home / "bin/vllm-router",
        *("--host", "127.0.0.1", "--port", str(place.port)),
        *("--worker-urls", f"http://127.0.0.1:{place.engine}", "--policy", "round_robin"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
    ]
    return _Command(argv, "/health", _version(home, "vllm-router"), {})


def _litellm(place: Place) -> _Command:
    home = _environment("litellm[proxy]", "litellm")
    configuration = place.files / "litellm.yaml"
    configuration.write_text(_LITELLM.format(engine=place.engine))
    argv: list[str | Path] = [
        home / "bin/litellm",
        *("--config", configuration, "--host", "127.0.0.1", "--port", str(place.port)),
        *("--num_workers", "1", "--telemetry", "False"),
    ]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network for a price list
        "LITELLM_LOG": "ERROR",
        # None of the proxies checks keys here.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    return _Command(argv, "/health/liveliness", _version(home, "litellm"), env)


_LITELLM: Final = """
model_list:
  - model_name: mistral
    litellm_params:
      model: openai/mistral
      api_base: http://127.0.0.1:{engine}/v1
      api_key: none
"""


def _ours(place: Place) -> _Command:
    program = Path(sys.executable).parent / "modelserving-gateway"
    env = {
        "KUBECONFIG": str(place.kubeconfig),
        "MODELSERVING_NAMESPACE": NAMESPACE,
        "MODELSERVING_POD_NAME": f"gateway-{place.port}",
        "MODELSERVING_HOST": "127.0.0.1",
        "MODELSERVING_PORT": str(place.port),
        # 2,000 held requests for one model are part of the benchmark.
        "MODELSERVING_MAX_HELD_REQUESTS": "4000",
    }
    return _Command([program], "/readyz", "this checkout", env)


OURS: Final = "ours"
DIRECT: Final = "direct"
_COMMANDS: Final[Mapping[str, Callable[[Place], _Command]]] = {
    "nginx": _nginx,
    "vllm_router": _vllm_router,
    "litellm": _litellm,
    OURS: _ours,
}
NAMES: Final = (DIRECT, *_COMMANDS)


@asynccontextmanager
async def started(name: str, engine: int, files: Path, kubeconfig: Path) -> AsyncIterator[Proxy]:
    """Run a proxy until the end of the block. Raises RuntimeError when it does not come up."""
    if name == DIRECT:
        yield Proxy(name, "", engine, None)
        return
    place = Place(free_port(), engine, files / f"{name}-files", kubeconfig)
    place.files.mkdir(exist_ok=True)
    command = _COMMANDS[name](place)
    log = files / f"{name}.log"
    with child(command.argv, PROXY_CORE, log, command.env) as process:
        address = f"http://127.0.0.1:{place.port}{command.health}"
        await wait_until_it_answers(address, process, log, _START_SECONDS)
        yield Proxy(name, command.version, place.port, process)


def install(names: list[str]) -> None:
    """Install what is missing, before anything is measured."""
    if "nginx" in names:
        _nginx_program()
    if "vllm_router" in names:
        _environment("vllm-router", "vllm_router")
    if "litellm" in names:
        _environment("litellm[proxy]", "litellm")


def _nginx_program() -> str:
    """Return nginx's program: the machine's own, else Debian's package, unpacked."""
    if (installed := shutil.which("nginx")) is not None:
        return installed
    home = cache_directory("bench", "nginx")
    program = home / "usr/sbin/nginx"
    if not program.exists():
        subprocess.run(["apt-get", "download", "nginx"], cwd=home, check=True)
        for package in home.glob("nginx_*.deb"):
            subprocess.run(["dpkg", "-x", package, home], check=True)
    return str(program)


def _environment(requirement: str, name: str) -> Path:
    """Return a virtual environment that holds the requirement, made when it is missing."""
    home = cache_directory("bench") / name
    made = home / ".installed"
    if not made.exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [home / "bin/pip", "install", "--quiet", "--disable-pip-version-check", requirement]
        subprocess.run([str(part) for part in pip], check=True)
        made.touch()
    return home


def _version(home: Path, distribution: str) -> str:
    code = f"import importlib.metadata as m; print(m.version('{distribution}'))"
    shown = subprocess.run([home / "bin/python", "-c", code], capture_output=True, check=True)
    return shown.stdout.decode().strip()
