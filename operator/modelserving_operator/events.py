"""Kubernetes Events on ModelServings: what they look like, and how they are posted.

Posted in the background, in order, and never waited for: a swap must not hang on its telling. What
waits to be posted is lost with the process; the status and the logs tell the same.
"""

import asyncio
import random
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from modelserving_api.names import GROUP, KIND, VERSION, Reason
from modelserving_operator import metrics
from modelserving_operator.actions import Announcement
from modelserving_operator.kubernetes_api import KubernetesApiError

_log = structlog.get_logger(__name__)

KubernetesObject = dict[str, Any]

COMPONENT: Final = "modelserving-operator"

MESSAGE_BYTES: Final = 1024
"""The API server refuses a longer message (core/v1 validation, counted in bytes)."""

_CUT: Final = " … "

_REPEATED_WITHIN_SECONDS: Final = 60.0
"""The very same Event of the same object is posted once in this time: something that fails in a
circle must not fill the API server. It is counted all the same."""

_REMEMBERED: Final = 1000
_WAITING: Final = 1000
"""Events of a hundred ModelServings over a minute without an API server; beyond that the newest
are dropped, and counted."""

_TRIES: Final = 6
_FIRST_PAUSE_SECONDS: Final = 0.5
"""Doubling: half a minute in all, then that Event is dropped, for the next ones wait behind it."""

_LAST_SECONDS: Final = 2.0
"""At the end of the process, for what still waits."""

_SWAPPING: Final = frozenset(
    {Reason.SWAP_STARTED, Reason.SWAP_FINISHED, Reason.SWAP_FAILED, Reason.SWAP_SUPERSEDED}
)


def event(serving: KubernetesObject, told: Announcement, now: datetime) -> KubernetesObject:
    """Return the Event that tells it, by the conventions of core/v1 as client-go keeps them."""
    metadata = serving["metadata"]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            # Unique for good: a counter would begin anew with the process.
            "name": f"{metadata['name'][:236]}.{secrets.token_hex(8)}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": told.type,
        "reason": told.reason.value,
        "message": shortened(told.message),
        "action": "Swap" if told.reason in _SWAPPING else "Reconcile",
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname()[:128],
        # What `kubectl describe` shows as From.
        "source": {"component": COMPONENT},
    }


def shortened(message: str) -> str:
    """Cut a message to what the API server takes: its middle goes, for its end tells most."""
    raw = message.encode()
    if len(raw) <= MESSAGE_BYTES:
        return message
    room = MESSAGE_BYTES - len(_CUT.encode())
    head, tail = raw[: room // 2], raw[-(room - room // 2) :]
    return head.decode(errors="ignore") + _CUT + tail.decode(errors="ignore")


class EventPoster:
    """Posts Events one after the other; `create` posts one."""

    def __init__(self, create: Callable[[KubernetesObject], Awaitable[None]]) -> None:
        self._create = create
        self._waiting: asyncio.Queue[KubernetesObject] = asyncio.Queue(_WAITING)
        self._recent: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._task = asyncio.create_task(self._run(), name="poster of events")

    def post(self, serving: KubernetesObject, told: Announcement) -> None:
        """Let an Event be posted soon. Never waits."""
        metadata = serving["metadata"]
        metrics.count_event(metadata["namespace"], metadata["name"], told.type, told.reason.value)
        if self._repeats(metadata["uid"], told):
            return
        try:
            self._waiting.put_nowait(event(serving, told, datetime.now(UTC)))
        except asyncio.QueueFull:
            _lost("too many wait to be posted", told.message)

    async def close(self) -> None:
        """Post what waits, for a moment at most, and end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._waiting.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _repeats(self, uid: str, told: Announcement) -> bool:
        key = (uid, told.reason.value, told.message)
        now = asyncio.get_running_loop().time()
        before = self._recent.get(key)
        if before is not None and now - before < _REPEATED_WITHIN_SECONDS:
            return True
        self._recent[key] = now
        self._recent.move_to_end(key)
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        return False

    async def _run(self) -> None:
        while True:
            body = await self._waiting.get()
            try:
                await self._post(body)
            finally:
                self._waiting.task_done()

    async def _post(self, body: KubernetesObject) -> None:
        for tried in range(_TRIES):
            try:
                await self._create(body)
            except KubernetesApiError as error:
                if error.status == 409 and tried > 0:
                    return  # the try before got through, only its answer did not
                # A namespace that ends takes no new objects, whatever is said of it.
                if error.refused or error.status == 404 or tried + 1 == _TRIES:
                    _lost(str(error), body["message"])
                    return
                pause = _FIRST_PAUSE_SECONDS * 2**tried * random.uniform(0.5, 1.0)  # noqa: S311
                await asyncio.sleep(max(pause, min(error.retry_after_seconds or 0.0, 10.0)))
            else:
                return


def _lost(why: str, message: str) -> None:
    metrics.EVENTS_LOST.inc()
    _log.warning("Event not posted", error=why, message=message)
