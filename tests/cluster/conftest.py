"""The cluster, the installed product and its models, shared as far as tests do not disturb it.

The oracle for "no two engines are ever alive at once" is reset when the session begins and judged
when it ends: the run fails on one violation, whatever the tests said.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from modelserving_api.names import SERVING_LABEL
from tests.cluster.gpus import Gpus
from tests.cluster.kubernetes import (
    DEPLOYMENTS,
    PODS,
    SERVICES,
    World,
    is_serving,
)
from tests.harness import cluster as harness_cluster
from tests.harness import deploy
from tests.harness.cluster import Cluster
from tests.harness.engines import gpu_lock
from tests.harness.engines.engine_images import build_sim
from tests.harness.errors import HarnessError
from tests.harness.kubectl_server import KubectlServer

VALUES: dict[str, Any] = {
    # Short, so that a gateway that dies while it holds requests is forgotten within the test.
    "operator": {"demandExpirySeconds": 6},
    "gateway": {
        "replicas": 2,
        "renewSeconds": 2,
        "holdTimeoutSeconds": 300,
        # Short, so that a swap of half a minute, or of ten seconds, has comments.
        "holdGraceSeconds": 1,
        "keepaliveSeconds": 2,
        "maxBodyBytes": 1_048_576,
        "shutdownDelaySeconds": 1,
        # Any free port: clients that go through the Service come in there.
        "service": {"type": "NodePort"},
    },
}

_LOCK = pytest.StashKey[Path]()
_WORLD = pytest.StashKey[World]()

HERE = Path(__file__).parent


_RAN = pytest.StashKey["Ran"]()

LAST = "test_rights.py"
"""It judges what all the others have made the programs do."""


@dataclass(frozen=True)
class Ran:
    """Which part of this suite a run has."""

    whole: bool
    said: str


def whole_suite(config: pytest.Config) -> Ran:
    """Tell whether all of this suite is being run."""
    return config.stash[_RAN]


def _part_of(config: pytest.Config, items: list[pytest.Item]) -> Ran:
    chosen = {item.path.name for item in items if item.path.parent == HERE}
    absent = {path.name for path in HERE.glob("test_*.py")} - chosen
    if absent:
        return Ran(False, f"without {', '.join(sorted(absent))}")
    if config.option.keyword or any("::" in each for each in config.args):
        return Ran(False, "only tests chosen by name")
    return Ran(True, "all of it")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs the cluster, so that a person can deselect it; judge rights last."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
    last = [item for item in items if item.path == HERE / LAST]
    items[:] = [*(item for item in items if item not in last), *last]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note what is left once others have deselected."""
    session.config.stash[_RAN] = _part_of(session.config, session.items)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The harness's cluster. Fails, never skips, when there is none."""
    found = harness_cluster.find()
    gpu_lock.prepare(found.gpu_directory)
    gpu_lock.reset(found.gpu_directory)
    request.config.stash[_LOCK] = found.gpu_directory
    # What a killed run or the demo has left holds the only GPU.
    deploy.remove_namespaces(found, deploy.own_namespaces(found), wait=False)
    return found


@pytest.fixture(scope="session")
def world(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[World]:
    """A namespace with the chart installed and two gateways."""
    # A name of its own: the last run's namespace may take a minute to be gone.
    namespace = f"modelserving-test-{secrets.token_hex(3)}"
    deploy.install(cluster, namespace, values=VALUES)
    with KubectlServer(cluster, "proxy", "--port=0") as proxy:
        world = World(cluster, namespace, proxy.url)
        request.config.stash[_WORLD] = world
        yield world
        del request.config.stash[_WORLD]
    deploy.remove_namespaces(cluster, [namespace], wait=False)


@pytest.fixture(scope="session")
def sim_image(cluster: Cluster) -> str:
    """The stand-in engine's image, in the worker."""
    tag = build_sim()
    cluster.load(tag)
    return tag


class Forwards:
    """Ways to Pods, made on demand and made again when they broke."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._servers: dict[str, KubectlServer] = {}

    def url(self, pod: str, port: int) -> str:
        """Return a URL on this machine that leads to a Pod's port."""
        server = self._servers.get(pod)
        if server is None or not server.alive:
            server = KubectlServer(
                self._world.cluster,
                *("--namespace", self._world.namespace),
                *("port-forward", f"pod/{pod}", f":{port}"),
            )
            self._servers[pod] = server
        return server.url

    def close(self) -> None:
        """Close them all."""
        for server in self._servers.values():
            server.close()


@pytest.fixture(scope="session")
def forwards(world: World) -> Iterator[Forwards]:
    """Ways to the two programs' Pods."""
    made = Forwards(world)
    yield made
    made.close()


async def ready_pods(world: World, component: str, count: int) -> list[str]:
    """Return the names of a program's Pods once exactly so many are there, all Ready."""

    def all_ready(pods: list[dict[str, Any]]) -> bool:
        return len(pods) == count and all(_is_ready(pod) for pod in pods)

    pods = await world.until(
        PODS,
        all_ready,
        what=f"{count} Pods of the {component} are Ready",
        within=120,
        selector=f"app.kubernetes.io/component={component}",
    )
    return sorted(pod["metadata"]["name"] for pod in pods)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        each["type"] == "Ready" and each["status"] == "True" for each in conditions
    )


@pytest.fixture
async def gateways(world: World, forwards: Forwards) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client for each of the two gateways."""
    pods = await ready_pods(world, "gateway", 2)
    clients = [
        httpx.AsyncClient(base_url=forwards.url(pod, 8080), timeout=330, headers={"x-pod": pod})
        for pod in pods
    ]
    yield clients
    for client in clients:
        await client.aclose()


@pytest.fixture
def gateway(gateways: list[httpx.AsyncClient]) -> httpx.AsyncClient:
    """A client of one of the gateways."""
    return gateways[0]


@pytest.fixture
async def operator(world: World, forwards: Forwards) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the operator's own page."""
    (pod,) = await ready_pods(world, "operator", 1)
    async with httpx.AsyncClient(base_url=forwards.url(pod, 8888), timeout=10) as client:
        yield client


Make = Callable[..., Any]


@pytest.fixture(scope="session")
def gpus(world: World) -> Gpus:
    """The worker's GPUs."""
    return Gpus(world)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(world: World, gpus: Gpus) -> AsyncIterator[Make]:
    """A function that applies a ModelServing, waits for its default model, and undoes it all."""
    names: list[str] = []

    async def make(manifest: dict[str, Any], *, gpu: str | None = None, within: float = 60) -> str:
        name: str = manifest["metadata"]["name"]
        names.append(name)
        await apply(world, await gpus.lend(manifest, gpu))
        default = manifest["spec"].get("defaultModel")
        if default is not None:
            await world.until_serving(
                name,
                lambda serving: is_serving(serving, default),
                what=f"{default} serves by default",
                within=within,
            )
        return name

    yield make
    for name in names:
        await remove(world, name)


async def apply(world: World, manifest: dict[str, Any]) -> None:
    """Apply a ModelServing as a person does."""
    await world.kubectl("apply", "--filename", "-", input=yaml.safe_dump(manifest))


async def remove(world: World, name: str) -> None:
    """Delete a ModelServing and wait until nothing of it is left but Pods that end."""
    await world.kubectl("delete", "modelserving", name, "--ignore-not-found", "--timeout=60s")
    for path in (DEPLOYMENTS, SERVICES):
        await world.until(
            path,
            lambda items: not items,
            what=f"nothing of {name} is left in {path}",
            within=180,
            selector=f"{SERVING_LABEL}={name}",
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the cluster looked like to a test that failed."""
    report = yield
    world = item.config.stash.get(_WORLD, None)
    if report.failed and world is not None and item.path.is_relative_to(HERE):
        report.sections.append(("The cluster", _post_mortem(world)))
    return report


def _post_mortem(world: World) -> str:
    looks = (
        ("get", "modelservings,deployments,pods", "--output=wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "deployment/modelserving-operator", "--tail=40"),
        ("logs", "--selector=app.kubernetes.io/component=gateway", "--tail=20", "--prefix"),
    )
    shown = []
    for look in looks:
        try:
            text = world.cluster.kubectl("--namespace", world.namespace, *look, timeout=20)
        except HarnessError as error:
            text = str(error)
        shown.append(f"$ kubectl {' '.join(look)}\n{text[-6000:]}")
    gpu = "\n".join(gpu_lock.history(world.cluster.gpu_directory)[-20:])
    return "\n".join([*shown, f"GPU lock:\n{gpu}"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if two engines were ever alive at once."""
    directory = session.config.stash.get(_LOCK, None)
    if directory is not None and gpu_lock.violations(directory):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the count of violations as the last line of the run."""
    directory = config.stash.get(_LOCK, None)
    if directory is None:
        return
    found = gpu_lock.violations(directory)
    for violation in found:
        print(violation)
    print(f"GPU lock violations: {len(found)}")
