"""What chaos is done to: the product installed for it, its ModelServings, and ways to them.

Each gateway has a Service of its own, so that clients reach it without the API server, which is
often away. Injects nothing and judges nothing.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from modelserving_api.names import SERVING_LABEL
from tests.cluster.kubernetes import DEPLOYMENTS, NODES, PODS, SERVICES, SERVINGS, World, is_serving
from tests.harness import deploy, stopped
from tests.harness.cluster import GPU_IN_NODE, Cluster
from tests.harness.engines import gpu_lock
from tests.harness.engines.engine_images import build_sim
from tests.harness.errors import HarnessError
from tests.harness.kubectl_server import KubectlServer
from tests.harness.servings import SimModel, sim_modelserving

Object = dict[str, Any]

REPLICA_SETS: Final = "/apis/apps/v1/namespaces/{}/replicasets"

VALUES: Final[dict[str, Any]] = {
    # Short, so that pauses outlast it and a gateway's entry is forgotten while it is stopped.
    "operator": {"demandExpirySeconds": 6},
    "gateway": {
        "replicas": 2,
        "renewSeconds": 2,
        "holdTimeoutSeconds": 600,
        "holdGraceSeconds": 1,
        "keepaliveSeconds": 2,
        "service": {"type": "NodePort"},
    },
}

MODELS: Final = {"east": ("mistral", "coder"), "west": ("llava", "qwen")}
"""Two ModelServings with a GPU each: twice the swaps in the same time, and they must not disturb
each other. Two models each, which are both wanted all the time, so that swaps never end."""

_SWAP: Final = {"minResidencySeconds": 1, "maxWaitSeconds": 15}
"""Neither model is ever idle, so maxWaitSeconds ends each one's turn: with swaps of 9 s it serves
for about four."""

_GATEWAY_LABEL: Final = "modelserving.dev/chaos-gateway"

_API_BACK_SECONDS: Final = 90.0
"""Until the API server answers after it was killed with its kubelet's back-off: usually 10 s."""

_UP_SECONDS: Final = 180.0


@dataclass
class Watched:
    """The ModelServings as a watch tells them that outlives the API server."""

    api: str
    namespace: str
    servings: dict[str, Object] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Watch until cancelled; whatever breaks it, list again."""
        path = SERVINGS.format(self.namespace)
        # The server ends a watch after 30 s, and one that is silent for longer is dead.
        async with httpx.AsyncClient(base_url=self.api, timeout=40) as client:
            while True:
                try:
                    listed = (await client.get(path, timeout=5)).raise_for_status().json()
                    await self._set({_name(each): each for each in listed["items"]})
                    await self._follow(client, path, listed["metadata"]["resourceVersion"])
                except (httpx.HTTPError, ValueError, KeyError):
                    await asyncio.sleep(0.2)

    async def _follow(self, client: httpx.AsyncClient, path: str, version: str) -> None:
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "30"}
        async with client.stream("GET", path, params=query) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                await self._set({**self.servings, _name(event["object"]): event["object"]})

    async def _set(self, servings: dict[str, Object]) -> None:
        async with self._changed:
            self.servings = servings
            self._changed.notify_all()

    async def until(self, condition: Callable[[Object], bool], *, within: float) -> str | None:
        """Return the name of the first ModelServing to meet a condition; None if none does."""
        try:
            async with asyncio.timeout(within), self._changed:
                while True:
                    for name, serving in sorted(self.servings.items()):
                        if condition(serving):
                            return name
                    await self._changed.wait()
        except TimeoutError:
            return None


@dataclass
class Site:
    """The installation under chaos."""

    world: World
    watched: Watched
    service_url: str
    gateways: dict[str, str]
    """URL of each gateway by its Pod's name."""
    operator: str

    @property
    def cluster(self) -> Cluster:
        """The cluster it is in."""
        return self.world.cluster

    async def objects(self, path: str, selector: str = "") -> list[Object]:
        """List a kind, as soon as the API server answers."""
        async for attempt in _while_away():
            with attempt:
                return await self.world.objects(path, selector)
        raise AssertionError("unreachable")

    async def engine_objects(self) -> dict[str, list[Object]]:
        """Return all that the operator made, by kind."""
        paths = {
            "Deployment": DEPLOYMENTS,
            "Service": SERVICES,
            "ReplicaSet": REPLICA_SETS,
            "Pod": PODS,
        }
        return {kind: await self.objects(path, SERVING_LABEL) for kind, path in paths.items()}

    async def program_pods(self) -> list[Object]:
        """Return the Pods of the operator and the gateways."""
        return [
            *await self.objects(PODS, "app.kubernetes.io/component=operator"),
            *await self.objects(PODS, "app.kubernetes.io/component=gateway"),
        ]

    async def until_ready(self) -> float:
        """Return when every ModelServing has been seen Ready and at rest since the call."""
        missing = set(MODELS)
        while missing:
            servings = {_name(each): each for each in await self.objects(SERVINGS)}
            missing -= {
                name
                for name in missing
                if is_serving(servings[name], servings[name].get("status", {}).get("activeModel"))
            }
            await asyncio.sleep(0.25 if missing else 0)
        return time.monotonic()

    async def replace_operator(self) -> None:
        """Delete the operator's Pod as a person does, and wait for the next one."""
        await self.world.kubectl("delete", "pod", self.operator, "--wait=false")
        pods = await self.world.until(
            PODS,
            lambda pods: any(_is_ready(pod) for pod in pods if _name(pod) != self.operator),
            what="another operator is Ready",
            within=_UP_SECONDS,
            selector="app.kubernetes.io/component=operator",
        )
        self.operator = next(_name(pod) for pod in pods if _name(pod) != self.operator)

    async def held(self) -> dict[str, int]:
        """Return how many requests each gateway holds or has running, by its own page."""
        found = {}
        async with httpx.AsyncClient(timeout=10) as client:
            for pod, url in self.gateways.items():
                page = (await client.get(f"{url}/status")).raise_for_status().json()
                found[pod] = page["held"] + page["in_flight"]
        return found


def _while_away() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type((httpx.HTTPError, HarnessError)),
        wait=wait_fixed(0.25),
        stop=stop_after_delay(_API_BACK_SECONDS),
        reraise=True,
    )


def new_namespace() -> str:
    """Return a name of its own for a run: the last run's namespace may take a minute to be gone."""
    return f"modelserving-chaos-{secrets.token_hex(3)}"


@contextmanager
def _installed(cluster: Cluster, namespace: str) -> Iterator[World]:
    """Install the product in a new namespace, with nothing of an earlier run beside it."""
    gpu_lock.prepare(cluster.gpu_directory)
    deploy.remove_namespaces(cluster, deploy.own_namespaces(cluster), wait=False)
    for name in MODELS:
        gpu_lock.prepare(cluster.gpu_directory / name)
    gpu_lock.reset(cluster.gpu_directory)
    deploy.install(cluster, namespace, values=VALUES)
    with KubectlServer(cluster, "proxy", "--port=0") as proxy:
        yield World(cluster, namespace, proxy.url)
    deploy.remove_namespaces(cluster, [namespace], wait=False)


@asynccontextmanager
async def installed(cluster: Cluster, namespace: str) -> AsyncIterator[Site]:
    """Yield the installation with every ModelServing serving. Takes it down unless that fails.

    Nothing is left stopped, whatever ends it.
    """
    tag = await asyncio.to_thread(build_sim)
    await asyncio.to_thread(cluster.load, tag)
    with _installed(cluster, namespace) as world:
        for name, models in MODELS.items():
            deploy.apply(cluster, _serving(name, models, tag), namespace=world.namespace)
        site = await _site(world)
        watching = asyncio.create_task(site.watched.run())
        try:
            async with asyncio.timeout(_UP_SECONDS):
                await site.until_ready()
            yield site
        finally:
            watching.cancel()
            await asyncio.to_thread(stopped.resume, (cluster.control_plane, cluster.worker))


def _serving(name: str, models: tuple[str, ...], image: str) -> Object:
    manifest = sim_modelserving(
        name,
        image=image,
        models=[SimModel(model) for model in models],
        default_model=models[0],
        env={"SIM_SECONDS_PER_TOKEN": "0.02"},
        swap=_SWAP,
    )
    # Inside of it the engines' default directory is where the lock is.
    manifest["spec"]["engine"]["volumes"][0]["hostPath"]["path"] = f"{GPU_IN_NODE}/{name}"
    return manifest


async def _site(world: World) -> Site:
    pods = await world.objects(PODS, "app.kubernetes.io/component=gateway")
    names = sorted(_name(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"])
    (operator,) = await world.objects(PODS, "app.kubernetes.io/component=operator")
    address = await _address(world)
    ports = {}
    for name in names:
        await world.kubectl("label", "pod", name, f"{_GATEWAY_LABEL}={name}")
        await asyncio.to_thread(
            deploy.apply, world.cluster, _own_service(name), namespace=world.namespace
        )
    for service in await world.objects(SERVICES):
        ports[_name(service)] = service["spec"]["ports"][0].get("nodePort")
    return Site(
        world,
        Watched(world.api, world.namespace),
        service_url=f"http://{address}:{ports['modelserving-gateway']}",
        gateways={name: f"http://{address}:{ports[f'own-{name[-5:]}']}" for name in names},
        operator=_name(operator),
    )


async def _address(world: World) -> str:
    """Return the worker's address, where node ports are, for this machine."""
    for node in await world.objects(NODES):
        if _name(node) == world.cluster.worker:
            for each in node["status"]["addresses"]:
                if each["type"] == "InternalIP":
                    return str(each["address"])
    raise HarnessError(f"{world.cluster.worker} has no address")


def _own_service(pod: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"own-{pod[-5:]}"},
        "spec": {
            "type": "NodePort",
            "selector": {_GATEWAY_LABEL: pod},
            # Ready or not: what a gateway answers then is part of what is looked at.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _name(each: Object) -> str:
    return str(each["metadata"]["name"])
