"""What a Pod's own status does not tell: the Events of one that does not start, the end of a log.

An edge: it asks the API server, and only about a Pod in trouble. What the answers mean is judged in
diagnosis and words. What is remembered here may be lost at any moment.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import structlog

from modelserving_operator import words
from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.manifests import CONTAINER_NAME
from modelserving_operator.observation import PodView, in_trouble, last_warning

_log = structlog.get_logger(__name__)


class Api(Protocol):
    """What is asked of the Kubernetes API."""

    async def events_of(self, namespace: str, uid: str) -> list[dict[str, Any]]: ...
    async def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> str: ...


class Explanations:
    """Explains the Pods of one ModelServing. A log is read once for each end of an engine."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._causes: dict[tuple[str, int], str] = {}

    async def explained(
        self, namespace: str, pods: tuple[PodView, ...], now: datetime
    ) -> tuple[PodView, ...]:
        """Return the Pods with what else is known of those in trouble."""
        explained = [await self._explained(namespace, pod, now) for pod in pods]
        known = {(pod.uid, pod.ends) for pod in pods}
        self._causes = {key: cause for key, cause in self._causes.items() if key in known}
        return tuple(explained)

    async def _explained(self, namespace: str, pod: PodView, now: datetime) -> PodView:
        if in_trouble(pod, now):
            return replace(pod, trouble=await self._trouble(namespace, pod))
        if words.name_no_cause(pod.exit_message):
            cause = await self._cause(namespace, pod)
            return replace(pod, exit_message=cause or pod.exit_message)
        return pod

    async def _trouble(self, namespace: str, pod: PodView) -> str:
        try:
            return last_warning(await self._api.events_of(namespace, pod.uid))
        except KubernetesApiError as error:
            # An explanation less; the swap itself must not wait for it.
            _log.warning("events of a Pod unknown", pod=pod.name, error=str(error))
            return ""

    async def _cause(self, namespace: str, pod: PodView) -> str:
        key = (pod.uid, pod.ends)
        if key not in self._causes:
            try:
                log = await self._api.log_of(
                    namespace, pod.name, CONTAINER_NAME, previous=not pod.ended
                )
            except KubernetesApiError as error:
                _log.warning("log of a Pod unknown", pod=pod.name, error=str(error))
                log = ""
            self._causes[key] = words.cause(log)
        return self._causes[key]
