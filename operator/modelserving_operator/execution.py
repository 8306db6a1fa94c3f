"""How an action is carried out: objects are applied, scaled and deleted, engines are asked.

No policy here: which action and when is planning's.
"""

import asyncio
from typing import Any, Final, Protocol

from modelserving_operator import manifests
from modelserving_operator.actions import (
    RESYNC_SECONDS,
    Action,
    ApplyDeployment,
    ApplyService,
    Delete,
    Probe,
    RemoveRequest,
    ScaleDown,
    ScaleUp,
)
from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.memory import Memory
from modelserving_operator.observation import DeploymentView, Observation, PodView, ProbeResult
from modelserving_operator.planning import scale_up_is_safe
from modelserving_operator.standing import declared
from modelserving_operator.upkeep import undoes

_UNSAFE_PAUSE_SECONDS: Final = 0.25
"""Until the next try of a scale-up that a fresh list did not allow."""

KubernetesObject = dict[str, Any]


class Api(Protocol):
    """What is needed of the Kubernetes API."""

    async def engines(self, kind: str, namespace: str, serving: str) -> list[KubernetesObject]: ...
    async def owner_of(self, kind: str, namespace: str, name: str) -> str | None: ...
    async def apply(self, manifest: KubernetesObject) -> None: ...
    async def scale_down(self, namespace: str, deployment: str, replicas: int) -> None: ...
    async def delete(self, kind: str, namespace: str, name: str) -> None: ...
    async def remove_request(self, serving: KubernetesObject, requester: str) -> None: ...


class Engines(Protocol):
    """What is needed of the engines."""

    async def probe(self, probe: Probe) -> ProbeResult: ...


class Execution:
    """Carries out actions, one at a time."""

    def __init__(self, api: Api, engines: Engines) -> None:
        self._api = api
        self._engines = engines

    async def carry_out(self, seen: Observation, action: Action, memory: Memory) -> float:
        """Do it and return after how many seconds its effect should be looked at."""
        serving = seen.serving
        put_back = undoes(seen, action)
        if put_back is not None and action not in seen.just_done:
            memory.fights.note(put_back, seen.now)
        memory.recent.note(action, seen)
        match action:
            case ApplyDeployment(model):
                return await self._apply_deployment(seen, model, memory, replicas=0)
            case ApplyService(model):
                declared_model = declared(seen, model)
                if declared_model is not None:
                    service = manifests.service(serving, declared_model)
                    return await self._apply(seen, model, service, memory)
            case ScaleDown(deployment, replicas):
                await self._api.scale_down(serving.namespace, deployment, replicas)
            case ScaleUp(model):
                return await self._scale_up(seen, model, memory)
            case Delete(kind, name):
                await self._api.delete(kind, serving.namespace, name)
            case RemoveRequest(requester):
                memory.cached.doubt()
                await self._api.remove_request(memory.cached.body, requester)
            case Probe():
                memory.probe = await self._engines.probe(action)
                return 0.0
        return RESYNC_SECONDS

    async def _scale_up(self, seen: Observation, model: str, memory: Memory) -> float:
        """Scale up only on a fresh list: what the watches told may be old by now (R4)."""
        namespace, name = seen.serving.namespace, seen.serving.name
        pods, deployments = await asyncio.gather(
            *(self._api.engines(kind, namespace, name) for kind in ("Pod", "Deployment"))
        )
        safe = scale_up_is_safe(
            model,
            [DeploymentView.parse(each) for each in deployments],
            [PodView.parse(each) for each in pods],
        )
        if not safe:
            return _UNSAFE_PAUSE_SECONDS
        return await self._apply_deployment(seen, model, memory, replicas=1)

    async def _apply_deployment(
        self, seen: Observation, model: str, memory: Memory, *, replicas: int
    ) -> float:
        declared_model = declared(seen, model)
        if declared_model is None:
            return RESYNC_SECONDS
        manifest = manifests.deployment(seen.serving, declared_model, replicas)
        return await self._apply(seen, model, manifest, memory)

    async def _apply(
        self, seen: Observation, model: str, manifest: KubernetesObject, memory: Memory
    ) -> float:
        """Apply an object of a model; a refusal is a finding of the next turn, not the end of this.

        Otherwise one model's bad resources would stop the swaps of all the others.
        """
        refused, key = memory.refused, (model, manifest["kind"])
        refusal = await self._refusal(seen, model, manifest)
        if refusal is None:
            refused.pop(key, None)
            return RESYNC_SECONDS
        known = refused.get(key) == refusal
        refused[key] = refusal
        return RESYNC_SECONDS if known else 0.0

    async def _refusal(
        self, seen: Observation, model: str, manifest: KubernetesObject
    ) -> str | None:
        """Apply an object; return why that must not or could not be, or None when it was done."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        views = seen.deployments if kind == "Deployment" else seen.services
        if model not in views:
            # Ours to make, unless someone else has the name: a forced apply would take it over.
            owner = await self._api.owner_of(kind, metadata["namespace"], metadata["name"])
            if owner == "":
                return f"there is a {kind} {metadata['name']} that is not this ModelServing's"
            if owner is not None and owner != seen.serving.uid:
                # Of a predecessor with the same name, which is being collected: wait for that.
                raise KubernetesApiError(f"apply {kind}", 409, f"{metadata['name']} is going")
        try:
            await self._api.apply(manifest)
        except KubernetesApiError as error:
            if not error.refused:
                raise
            return error.message
        return None
