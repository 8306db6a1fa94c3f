"""Doing a fault to the cluster. Which and when is faults.py's, what came of it the runner's."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from modelserving_operator.manifests import CONTAINER_NAME
from tests.chaos.site import MODELS, Object, Site
from tests.cluster.kubernetes import NODES, PODS
from tests.harness.containers import Container, Kubelet, restart_kubelet
from tests.harness.errors import HarnessError
from tests.harness.faults import Deed, Fault, Target

_FIND_SECONDS: Final = 180.0
"""Until there is an engine to do something to: in a swap there is none for 16 s, now and then for a
minute, and what was found may end before it is met."""

_RESUME_SECONDS: Final = 10.0
"""For a call of docker that fails once; each takes a quarter of a second."""

_STATIC_PODS: Final = {Target.API_SERVER: "kube-apiserver", Target.ETCD: "etcd"}


class Process(Protocol):
    """What can be killed, paused and resumed."""

    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def replaced(self) -> bool: ...


@dataclass(frozen=True)
class Injected:
    """What was done, and to what exactly."""

    victim: str
    """The Pod or the node."""
    healed: float
    """When the fault was over, by the monotonic clock: at the kill, or with SIGCONT."""
    killed: Process | None
    """What should have ended by it; None after a pause."""


async def inject(site: Site, fault: Fault, serving: str) -> Injected:
    """Do it now, after its delay, and return when it is over.

    `serving` is the ModelServing whose engine is meant.
    """
    pausing = fault.kind.deed is Deed.PAUSE
    due = time.monotonic() + fault.delay_seconds
    stopped: list[Process] = []
    try:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(HarnessError),
            wait=wait_fixed(0.1),
            stop=stop_after_delay(_FIND_SECONDS),
            reraise=True,
        ):
            with attempt:
                # Looked for before the delay: that takes a second, and an engine may serve for two.
                process, victim = await _find(site, fault, serving)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                stopped += [process] * pausing
                await _to_its_end(process.pause if pausing else process.kill)
        await asyncio.sleep(fault.pause_seconds)
    finally:
        # What could not be stopped as well: it may have been, and the answer was lost.
        for each in stopped:
            await _resume(each)
    return Injected(victim, time.monotonic(), None if pausing else process)


async def _to_its_end(do: Callable[[], None]) -> None:
    """Do it in a thread. A cancellation waits for that: a thread goes on whoever is cancelled."""
    doing = asyncio.ensure_future(asyncio.to_thread(do))
    try:
        await asyncio.shield(doing)
    finally:
        await asyncio.wait([doing])


async def _resume(process: Process) -> None:
    """Let it go on, if it has not ended. Raises HarnessError when that fails for a while."""
    await AsyncRetrying(
        retry=retry_if_exception_type(HarnessError),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(_RESUME_SECONDS),
        reraise=True,
    )(asyncio.to_thread, process.resume)


async def _find(site: Site, fault: Fault, serving: str) -> tuple[Process, str]:
    cluster, namespace = site.cluster, site.world.namespace
    match fault.kind.target:
        case Target.KUBELET:
            # The engines' node more often than the other: that is where Pods come and go.
            nodes = (cluster.worker, cluster.worker, cluster.control_plane)
            node = fault.pick(nodes)
            return await asyncio.to_thread(Kubelet, cluster, node), node
        case Target.API_SERVER | Target.ETCD as target:
            component, node = _STATIC_PODS[target], cluster.control_plane
            pod = f"{component}-{node}"
            return await _container("kube-system", pod, component, site, node), pod
        case Target.OPERATOR:
            return await _container(namespace, site.operator, "operator", site), site.operator
        case Target.GATEWAY:
            pod = fault.pick(list(site.gateways))
            return await _container(namespace, pod, "gateway", site), pod
        case Target.ENGINE:
            return await _engine(site, serving)


async def _container(namespace: str, pod: str, name: str, site: Site, node: str = "") -> Container:
    return await asyncio.to_thread(Container, site.cluster, namespace, pod, name, node=node)


async def _engine(site: Site, serving: str) -> tuple[Process, str]:
    """Find the engine that runs, or that of another ModelServing when it has none just now.

    Raises HarnessError when no engine runs at all.
    """
    for owner in sorted(MODELS, key=lambda name: name != serving):
        for pod in _newest_first(await site.world.engines(PODS, owner)):
            name = pod["metadata"]["name"]
            with contextlib.suppress(HarnessError):
                return await _container(site.world.namespace, name, CONTAINER_NAME, site), name
    raise HarnessError("there is no engine to do anything to")


def _newest_first(pods: Sequence[Object]) -> list[Object]:
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)


async def forget_back_off(site: Site, fault: Fault) -> None:
    """See to it that the next kill of the same process is answered by a start at once.

    A kubelet waits 10 s before it starts a container for the second time, then 20 s, up to five
    minutes, and forgets after ten quiet ones. That is meant for what crashes by itself. A gateway
    has its ten quiet minutes more often than not, since there are two of them.
    """
    target, deed = fault.kind.target, fault.kind.deed
    if target is Target.OPERATOR and deed is Deed.KILL:
        await site.replace_operator()
    if target not in {Target.API_SERVER, Target.ETCD}:
        return
    # The scheduler and the controller manager end themselves when they have been without an API
    # server for ten seconds, of which two lie between two tries.
    if deed is Deed.KILL or fault.pause_seconds > 8:
        await _restart_kubelet(site, site.cluster.control_plane)


async def _restart_kubelet(site: Site, node: str) -> None:
    """Start a node's kubelet anew, and wait until it is at work.

    One that has just started and finds no API server starts no Pod for half a minute: that would be
    two faults at once. And never the worker's: it would lose sight of containers that end
    meanwhile, and let go of their Pods a minute late.
    """
    # The API has whole seconds.
    restarted = datetime.now(UTC).replace(microsecond=0)
    await asyncio.to_thread(restart_kubelet, site.cluster, node)
    await AsyncRetrying(
        retry=retry_if_result(lambda heard: heard <= restarted),
        wait=wait_fixed(0.25),
        stop=stop_after_delay(_FIND_SECONDS),
    )(_heard_of, site, node)


async def _heard_of(site: Site, node: str) -> datetime:
    """Return when a kubelet last told its node's state."""
    for each in await site.objects(NODES):
        if each["metadata"]["name"] == node:
            beats = [str(one["lastHeartbeatTime"]) for one in each["status"]["conditions"]]
            return datetime.fromisoformat(max(beats))
    raise HarnessError(f"there is no node {node}")
