"""The real program against an API server that makes trouble: it converges each time, and lives on.

One process for all tests of this module: what one trouble has left behind meets the next one.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.unit.operator.hostile_server import (
    NAMESPACE,
    HostileServer,
    running,
    status,
)
from tests.unit.operator.world import model, spec

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = (sys.executable, "-m", "modelserving_operator.main")
SERVING = "l4"
OLD_FINALIZER = "modelserving.dev/operator"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def environment(url: str, directory: Path, **changes: str) -> dict[str, str]:
    """Return what the program needs to find the server, with short times."""
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "hostile",
                "contexts": [{"name": "hostile", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "not-a-secret"}}],
            }
        )
    )
    return {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "MODELSERVING_NAMESPACE": NAMESPACE,
        "MODELSERVING_STATUS_PORT": str(free_port()),
        "MODELSERVING_API_TIMEOUT_SECONDS": "1",
        "MODELSERVING_WATCH_SILENCE_SECONDS": "2",
        **changes,
    }


@dataclass
class Running:
    """The program, the server that it talks to, and how often the spec was changed."""

    server: HostileServer
    process: asyncio.subprocess.Process
    log: Path
    changes: int = 0

    def declare_another_model(self) -> str:
        """Change the spec: mistral and one more model, of a name never seen before."""
        self.changes += 1
        name = f"model{self.changes}"
        serving = self.server.objects["modelservings"][SERVING]
        changed = {**serving["spec"], "models": [model("mistral"), model(name)]}
        self.server.put("modelservings", SERVING, {**serving, "spec": changed})
        return name

    def converged(self, name: str) -> bool:
        """Whether the objects and the status are what the spec asks for."""
        serving = self.server.objects["modelservings"][SERVING]
        told = serving.get("status", {})
        return (
            set(self.server.objects["deployments"]) == {"l4-mistral", f"l4-{name}"}
            and set(self.server.objects["services"]) == {"l4-mistral", f"l4-{name}"}
            and told.get("observedGeneration") == serving["metadata"]["generation"]
            and [each["name"] for each in told["models"]] == ["mistral", name]
        )

    async def converges(self, name: str, within: float = 40) -> None:
        """Wait for that, in one and the same process."""
        await self.server.until(lambda: self.converged(name), f"{name} is served", within)
        assert self.process.returncode is None, self.log.read_text()[-3000:]

    async def is_watching(self) -> None:
        """Wait until every watch is there, so that trouble with it meets it."""
        for resource in ("modelservings", "deployments", "services", "pods"):
            await self.server.until(
                lambda resource=resource: self.server.watches(resource) == 1,  # type: ignore[misc]
                f"{resource} are watched",
            )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    directory = tmp_path_factory.mktemp("hostile")
    server = HostileServer()
    server.put(
        "modelservings",
        SERVING,
        {"metadata": {"finalizers": [OLD_FINALIZER]}, "spec": spec(models=[model("mistral")])},
    )
    log = directory / "log"
    async with running(server) as url:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *PROGRAM, env=environment(url, directory), stdout=output, stderr=output
            )
        try:
            yield Running(server, process, log)
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    code = await process.wait()
            finally:
                print(log.read_text()[-6000:])
    assert code == 0, "it does not end in order when it is told to"


async def test_it_begins(operator: Running) -> None:
    await operator.converges(operator.declare_another_model())


async def test_the_finalizer_of_older_operators_is_taken_off(operator: Running) -> None:
    def free() -> bool:
        serving = operator.server.objects["modelservings"][SERVING]
        return not serving["metadata"].get("finalizers")

    await operator.server.until(free, "nothing holds a deletion up")


@pytest.mark.parametrize("code", [409, 429, 500])
async def test_reads_that_are_refused_are_tried_again(operator: Running, code: int) -> None:
    met = operator.server.trouble(status(code), times=2, part=f"/modelservings/{SERVING}")
    await operator.converges(operator.declare_another_model())
    await operator.server.until(lambda: met.met == 2, "all of the trouble is met")


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("/deployments/", 409),
        ("/deployments/", 500),
        ("/services/", 429),
        ("/status", 409),
        ("/status", 500),
    ],
)
async def test_writes_that_are_refused_are_tried_again(
    operator: Running, part: str, code: int
) -> None:
    met = operator.server.trouble(status(code), method="PATCH", times=2, part=part)
    await operator.converges(operator.declare_another_model())
    await operator.server.until(lambda: met.met == 2, "all of the trouble is met")


async def test_calls_that_hang_are_given_up_and_made_again(operator: Running) -> None:
    read = operator.server.trouble(None, part=f"/modelservings/{SERVING}")
    written = operator.server.trouble(None, method="PATCH", part="/deployments/")
    await operator.converges(operator.declare_another_model())
    await operator.server.until(
        lambda: (read.met, written.met) == (1, 1), "all of the trouble is met"
    )


async def test_retry_after_is_obeyed(operator: Running) -> None:
    name = operator.declare_another_model()
    await operator.converges(name)
    met = operator.server.trouble(
        status(429, Retry_After="2"), times=1, part=f"/modelservings/{SERVING}"
    )
    began = asyncio.get_running_loop().time()
    name = operator.declare_another_model()
    await operator.server.until(lambda: met.met == 1, "the trouble is met")
    # Events come in crowds just then, and must not cut the pause short.
    for _ in range(5):
        operator.declare_another_model()
    await operator.converges(f"model{operator.changes}")
    assert asyncio.get_running_loop().time() - began >= 2


@pytest.mark.parametrize("resource", ["modelservings", "deployments", "pods"])
async def test_watches_that_are_cut_go_on(operator: Running, resource: str) -> None:
    await operator.is_watching()
    operator.server.cut(resource)
    await operator.converges(operator.declare_another_model())
    await operator.is_watching()


@pytest.mark.parametrize("code", [410, 500])
async def test_an_error_in_a_watch_begins_it_anew(operator: Running, code: int) -> None:
    event = {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "trouble"}}
    await operator.is_watching()
    operator.server.send("modelservings", event)
    await operator.converges(operator.declare_another_model())


@pytest.mark.parametrize("code", [401, 410, 429, 500])
async def test_a_watch_that_is_refused_begins_anew(operator: Running, code: int) -> None:
    met = operator.server.trouble(status(code), part="/modelservings", watch=True)
    await operator.is_watching()
    operator.server.cut("modelservings")
    await operator.server.until(lambda: met.met == 1, "the trouble is met")
    await operator.converges(operator.declare_another_model())


@pytest.mark.parametrize("code", [401, 403, 429, 500])
async def test_a_list_that_is_refused_is_tried_again(operator: Running, code: int) -> None:
    met = operator.server.trouble(
        status(code), part="/default/modelservings$", watch=False, times=3
    )
    await operator.is_watching()
    operator.server.send("modelservings", {"type": "ERROR", "object": {"code": 410}})
    await operator.converges(operator.declare_another_model())
    await operator.server.until(lambda: met.met == 3, "all of the trouble is met")


async def test_a_watch_that_falls_silent_is_begun_anew(operator: Running) -> None:
    await operator.is_watching()
    operator.server.silence()
    await operator.converges(operator.declare_another_model())


async def test_a_history_that_is_forgotten_is_made_up_for(operator: Running) -> None:
    await operator.is_watching()
    operator.server.silence()
    name = operator.declare_another_model()
    operator.server.forget_history()
    await operator.converges(name)
