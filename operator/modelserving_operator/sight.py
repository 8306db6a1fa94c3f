"""What exists of one ModelServing: as the watches tell, or asked for where they cannot be believed.

A watch that was interrupted goes on with a list, and a list tells only of what exists: what went in
the gap stays in kopf's indexes for ever. No judgement here of what is seen.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from modelserving_api.status import CurrentSwap, SwapPhase
from modelserving_operator.observation import DeploymentView, PodView, ServiceView

_ASKED_EVERY_SECONDS: Final = 300.0
"""At rest, where a ghost does no harm but to be looked after. Often enough for a person who waits
for a deleted object to come back, and three lists a second for a thousand ModelServings."""

View = DeploymentView | ServiceView | PodView


class Views(Protocol):
    """The watched objects of one ModelServing, as the watches last told them."""

    def version(self) -> str | None: ...
    def deployments(self) -> Iterable[DeploymentView]: ...
    def services(self) -> Iterable[ServiceView]: ...
    def pods(self) -> Iterable[PodView]: ...


class Lists(Protocol):
    """What is needed of the Kubernetes API."""

    async def engines(self, kind: str, namespace: str, serving: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Objects:
    """Everything of one ModelServing at one moment."""

    deployments: tuple[DeploymentView, ...]
    services: tuple[ServiceView, ...]
    pods: tuple[PodView, ...]


@dataclass
class Sight:
    """The watches' tale without what is known to be gone. It may be forgotten at any moment."""

    _gone: frozenset[str] = frozenset()
    """Uids, which never come back."""
    _asked_all_at: float = field(default_factory=time.monotonic)

    async def look(
        self, api: Lists, namespace: str, name: str, views: Views, swap: CurrentSwap | None
    ) -> Objects:
        """Return what exists: asked for in a swap, whose next step must not rest on a ghost."""
        if time.monotonic() - self._asked_all_at > _ASKED_EVERY_SECONDS:
            return await self.ask(api, namespace, name, views, services=True)
        if swap is not None and swap.phase is not SwapPhase.DRAINING:
            return await self.ask(api, namespace, name, views)
        return self._believed(_told(views))

    async def ask(
        self, api: Lists, namespace: str, name: str, views: Views, *, services: bool = False
    ) -> Objects:
        """List the Deployments and Pods, and learn which of the watched ones are gone."""
        before = _told(views)
        kinds = ("Deployment", "Pod", *(["Service"] if services else []))
        deployments, pods, *asked = await asyncio.gather(
            *(api.engines(kind, namespace, name) for kind in kinds)
        )
        found = Objects(
            tuple(map(DeploymentView.parse, deployments)),
            tuple(map(ServiceView.parse, asked[0]))
            if services
            else self._believed(before).services,
            tuple(map(PodView.parse, pods)),
        )
        self._gone = _uids(before) - _uids(found)
        if services:
            self._asked_all_at = time.monotonic()
        return found

    def _believed(self, told: Objects) -> Objects:
        return Objects(
            tuple(view for view in told.deployments if view.uid not in self._gone),
            tuple(view for view in told.services if view.uid not in self._gone),
            tuple(view for view in told.pods if view.uid not in self._gone),
        )


def _told(views: Views) -> Objects:
    return Objects(tuple(views.deployments()), tuple(views.services()), tuple(views.pods()))


def _uids(objects: Objects) -> frozenset[str]:
    every: tuple[View, ...] = (*objects.deployments, *objects.services, *objects.pods)
    return frozenset(view.uid for view in every)
