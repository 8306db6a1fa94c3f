"""Events: what they look like, and that telling never holds anything up."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from modelserving_api.names import Reason
from modelserving_operator import events
from modelserving_operator.actions import Announcement
from modelserving_operator.events import MESSAGE_BYTES, EventPoster, event, shortened
from modelserving_operator.kubernetes_api import KubernetesApiError

SERVING: dict[str, Any] = {
    "metadata": {"name": "l4", "namespace": "default", "uid": "u1", "resourceVersion": "7"}
}


def told(message: str = "mistral → coder", reason: Reason = Reason.SWAP_STARTED) -> Announcement:
    return Announcement("Normal", reason, message)


@dataclass
class Server:
    """Takes Events, with the trouble that a test wants."""

    made: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[KubernetesApiError] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, body: dict[str, Any]) -> None:
        await self.open.wait()
        if self.trouble:
            raise self.trouble.pop(0)
        self.made.append(body)

    @property
    def messages(self) -> list[str]:
        return [each["message"] for each in self.made]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(events, "_FIRST_PAUSE_SECONDS", 0.001)
    made = Server()
    made.open.set()
    return made


@pytest.fixture
async def poster(server: Server) -> AsyncIterator[EventPoster]:
    made = EventPoster(server.create)
    yield made
    await made.close()


def test_an_event_has_all_that_the_conventions_ask_for() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)

    made = event(SERVING, told(), now)

    assert made["involvedObject"]["kind"] == "ModelServing"
    assert made["involvedObject"]["uid"] == "u1"
    assert made["metadata"]["name"].startswith("l4.")
    assert made["metadata"]["namespace"] == "default"
    assert (made["type"], made["reason"], made["action"]) == ("Normal", "SwapStarted", "Swap")
    assert made["reportingComponent"] == "modelserving-operator"
    assert made["reportingInstance"]
    assert made["eventTime"] == "2026-01-01T12:00:00.123456Z"
    assert made["lastTimestamp"] == "2026-01-01T12:00:00Z"


def test_two_events_have_two_names() -> None:
    now = datetime.now(UTC)
    assert event(SERVING, told(), now)["metadata"] != event(SERVING, told(), now)["metadata"]


@given(st.text(max_size=2000))
def test_no_message_is_longer_than_the_api_server_takes(message: str) -> None:
    assert len(shortened(message).encode()) <= MESSAGE_BYTES


def test_the_begin_and_the_end_of_a_long_message_stay() -> None:
    cut = shortened("OutOfMemory: " + "é" * 2000 + " CUDA out of memory")
    assert cut.startswith("OutOfMemory: é")
    assert cut.endswith("é CUDA out of memory")


async def test_events_are_posted_in_order(server: Server, poster: EventPoster) -> None:
    for number in range(20):
        poster.post(SERVING, told(str(number)))
    await poster.close()
    assert server.messages == [str(number) for number in range(20)]


async def test_trouble_is_waited_out_and_the_order_stays(
    server: Server, poster: EventPoster
) -> None:
    server.trouble = [
        KubernetesApiError("POST", 0, "no answer"),
        KubernetesApiError("POST", 429, "busy", 0.01),
        KubernetesApiError("POST", 500, "etcd"),
    ]
    poster.post(SERVING, told("first"))
    poster.post(SERVING, told("second"))
    await poster.close()
    assert server.messages == ["first", "second"]


async def test_one_that_got_through_without_an_answer_is_not_lost(
    server: Server, poster: EventPoster
) -> None:
    lost = REGISTRY.get_sample_value("modelserving_events_lost_total")
    server.trouble = [
        KubernetesApiError("POST", 0, "no answer"),
        KubernetesApiError("POST", 409, "already exists"),
    ]
    poster.post(SERVING, told())
    await poster.close()
    assert REGISTRY.get_sample_value("modelserving_events_lost_total") == lost


async def test_one_that_is_refused_is_dropped_and_the_next_goes_on(
    server: Server, poster: EventPoster
) -> None:
    server.trouble = [KubernetesApiError("POST", 403, "the namespace is being terminated")]
    poster.post(SERVING, told("first"))
    poster.post(SERVING, told("second"))
    await poster.close()
    assert server.messages == ["second"]


async def test_the_very_same_is_posted_once_in_a_while_and_counted_each_time(
    server: Server, poster: EventPoster
) -> None:
    reason = Reason.SWAP_FAILED
    labels = {"modelserving": "l4", "namespace": "default", "type": "Normal"}
    before = REGISTRY.get_sample_value(
        "modelserving_events_total", {**labels, "reason": reason.value}
    )
    for _ in range(5):
        poster.post(SERVING, told("again", reason))
    poster.post({"metadata": {**SERVING["metadata"], "uid": "u2"}}, told("again", reason))
    await poster.close()
    assert server.messages == ["again", "again"]
    after = REGISTRY.get_sample_value(
        "modelserving_events_total", {**labels, "reason": reason.value}
    )
    assert (after or 0) - (before or 0) == 6


async def test_an_api_server_that_hangs_holds_nothing_up(
    server: Server, poster: EventPoster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_LAST_SECONDS", 0.05)
    server.open.clear()
    before = REGISTRY.get_sample_value("modelserving_events_lost_total") or 0
    for number in range(1100):
        poster.post(SERVING, told(str(number)))
    async with asyncio.timeout(2):
        await poster.close()
    after = REGISTRY.get_sample_value("modelserving_events_lost_total") or 0
    assert after - before == 100
