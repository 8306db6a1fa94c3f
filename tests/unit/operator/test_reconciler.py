"""The order of things: intent before act, fresh list before scale-up, nothing on a bad spec."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from modelserving_operator import manifests
from modelserving_operator.actions import RESYNC_SECONDS, Announcement, Probe
from modelserving_operator.handlers import Operator
from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.observation import (
    DeploymentView,
    EngineActivity,
    PodView,
    ProbeResult,
    ServiceView,
)
from modelserving_operator.reconciler import Reconciler
from modelserving_operator.reports import stale, status_page
from modelserving_operator.settings import Settings
from modelserving_operator.sight import Sight
from tests.unit.operator.world import serving, spec


@dataclass
class RecordedApi:
    """An API server's port that remembers what was asked of it, in order."""

    body: dict[str, Any] | None
    calls: list[str] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    reads: int = 0
    written: int = 0
    failing: bool = False
    losing: bool = False
    meanwhile: dict[str, Any] = field(default_factory=dict)
    """What somebody else changes of the spec right before the next status is written."""
    refusing: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()

    async def serving(self, namespace: str, name: str) -> dict[str, Any] | None:
        if self.failing:
            raise ConnectionError("the API server is away")
        self.reads += 1
        return self.body

    async def engines(self, kind: str, namespace: str, serving: str) -> list[dict[str, Any]]:
        self.calls.append(f"list {kind}")
        return self.pods if kind == "Pod" else []

    async def events_of(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        self.calls.append(f"list Events of {uid}")
        return self.events

    async def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> str:
        raise AssertionError("no engine has ended")

    async def owner_of(self, kind: str, namespace: str, name: str) -> str | None:
        return "" if name in self.taken else None

    async def apply(self, manifest: dict[str, Any]) -> None:
        if manifest["metadata"]["name"] in self.refusing and manifest["kind"] == "Deployment":
            raise KubernetesApiError("PATCH", 422, "limits are below requests")
        replicas = manifest["spec"].get("replicas", "")
        self.calls.append(f"apply {manifest['kind']} {manifest['metadata']['name']} {replicas}")

    async def scale_down(self, namespace: str, deployment: str, replicas: int) -> None:
        self.calls.append(f"scale down {deployment} to {replicas}")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self.calls.append(f"delete {kind} {name}")

    async def write_status(
        self, namespace: str, name: str, uid: str, status: dict[str, Any]
    ) -> dict[str, Any] | None:
        if self.body is None:
            self.calls.append("write status")
            return None
        if self.body["metadata"]["uid"] != uid:
            raise KubernetesApiError("PATCH", 422, "the test failed")
        assert self.body is not None
        self.written += 1
        version = f"w{self.written}"
        metadata = {**self.body["metadata"], "resourceVersion": version}
        spec, self.meanwhile = {**self.body["spec"], **self.meanwhile}, {}
        self.body = {**self.body, "metadata": metadata, "spec": spec, "status": status}
        self.calls.append("write status")
        if self.losing:
            raise ConnectionError("the answer is lost")
        return self.body

    async def remove_request(self, serving: dict[str, Any], requester: str) -> None:
        self.calls.append(f"remove request {requester}")


class NoEngines:
    """Engines that nobody should ask."""

    async def activity(self, endpoint: str) -> EngineActivity | None:
        raise AssertionError(endpoint)

    async def probe(self, probe: Probe) -> ProbeResult:
        raise AssertionError(probe)


class EmptyViews:
    """A ModelServing of which no object exists yet."""

    def __init__(self, version: str | None = None) -> None:
        self._version = version

    def version(self) -> str | None:
        return self._version

    def deployments(self) -> Iterable[DeploymentView]:
        return []

    def services(self) -> Iterable[ServiceView]:
        return []

    def pods(self) -> Iterable[PodView]:
        return []


def body(**fields: Any) -> dict[str, Any]:
    metadata = {"name": "l4", "namespace": "default", "uid": "u1", "generation": 3}
    return {"metadata": metadata, "spec": spec(**fields)}


def reconciler(
    api: RecordedApi,
    told: list[Announcement] | None = None,
    demand_expiry: timedelta = timedelta(seconds=30),
) -> Reconciler:
    heard = told if told is not None else []
    return Reconciler(api, NoEngines(), lambda _, each: heard.append(each), demand_expiry)


async def test_a_swap_is_written_down_before_anything_is_done() -> None:
    api = RecordedApi(body(defaultModel="mistral"))

    pause = await reconciler(api).turn("default", "l4", EmptyViews())

    assert api.calls[0] == "write status"
    assert pause == 0.0


async def test_a_scale_up_comes_after_a_fresh_list() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews())
    api.calls.clear()

    await subject.turn("default", "l4", EmptyViews())

    scaled = api.calls.index("apply Deployment l4-mistral 1")
    assert {"list Pod", "list Deployment"} <= set(api.calls[:scaled])


async def test_a_pod_that_only_the_fresh_list_shows_stops_the_scale_up() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews())
    api.pods = [
        {
            "metadata": {
                "name": "l4-coder-x",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "status": {"phase": "Running"},
        }
    ]

    pause = await subject.turn("default", "l4", EmptyViews())

    assert "apply Deployment l4-mistral 1" not in api.calls
    assert pause is not None
    assert pause < 1


async def test_a_bad_spec_is_told_once_and_nothing_else_happens() -> None:
    api = RecordedApi(body(defaultModel="ghost"))
    subject = reconciler(api)

    await subject.turn("default", "l4", EmptyViews())
    await subject.turn("default", "l4", EmptyViews())

    assert api.calls == ["write status"]
    assert api.body is not None
    ready = next(each for each in api.body["status"]["conditions"] if each["type"] == "Ready")
    assert ready["reason"] == "InvalidSpec"
    assert "spec.defaultModel" in ready["message"]


async def test_a_failed_turn_is_reported_and_counts_as_a_turn() -> None:
    api = RecordedApi(body(), failing=True)
    subject = reconciler(api)

    with pytest.raises(ConnectionError):
        await subject.turn("default", "l4", EmptyViews())

    report = subject.reports["default", "l4"]
    assert report.error == "the API server is away"
    assert not stale({}, subject.reports, report.finished + 1, 60)


async def test_a_model_serving_that_is_gone_needs_nothing() -> None:
    api = RecordedApi(None)

    assert await reconciler(api).turn("default", "l4", EmptyViews()) is None

    assert api.calls == []


async def test_a_model_serving_that_is_being_deleted_is_let_alone() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    assert api.body is not None
    api.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    await reconciler(api).turn("default", "l4", EmptyViews())

    assert api.calls == []


async def test_nothing_is_read_again_until_the_watch_tells_of_news() -> None:
    # A bad spec is told once, and then there is nothing to do.
    api = RecordedApi(body(defaultModel="ghost"))
    subject = reconciler(api)
    for _ in range(4):
        await subject.turn("default", "l4", EmptyViews("w1"))
    assert api.reads == 1

    await subject.turn("default", "l4", EmptyViews("edited"))
    assert api.reads == 2


async def test_what_was_read_is_not_believed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    api = RecordedApi(body(defaultModel="ghost"))
    subject = reconciler(api)
    for _ in range(2):
        await subject.turn("default", "l4", EmptyViews("w1"))
    later = time.monotonic() + RESYNC_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)

    await subject.turn("default", "l4", EmptyViews("w1"))

    assert api.reads == 2


async def test_a_model_serving_whose_watch_is_dead_turns_liveness_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    api = RecordedApi(body(defaultModel="ghost"))
    operator = Operator(Settings(namespace="default"))
    operator.reconciler = subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("w1"))
    assert operator.stalled() == []

    # Somebody edits, and the watch does not tell; by then it has been begun anew twice.
    assert api.body is not None
    api.body = {**api.body, "metadata": {**api.body["metadata"], "resourceVersion": "edited"}}
    for _ in range(20):
        now += RESYNC_SECONDS
        await subject.turn("default", "l4", EmptyViews("w1"))
    assert operator.stalled() == ["default/l4 (its watch is dead)"]

    now += RESYNC_SECONDS
    await subject.turn("default", "l4", EmptyViews("edited"))
    assert operator.stalled() == []


async def test_a_turn_goes_on_with_what_the_last_one_has_written() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)

    await subject.turn("default", "l4", EmptyViews("w1"))
    await subject.turn("default", "l4", EmptyViews("w1"))

    assert api.reads == 1
    assert api.calls.count("write status") == 2
    assert subject.knows("default", "l4", "w1")
    assert not subject.knows("default", "l4", "edited")


async def test_a_crowd_that_arrives_makes_no_write_of_ours_for_each_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    api = RecordedApi(body())
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("0"))
    assert api.written == 1

    pauses = []
    for count in range(4):
        assert api.body is not None
        metadata = {**api.body["metadata"], "generation": 4 + count, "resourceVersion": str(count)}
        api.body = {**api.body, "metadata": metadata}
        pauses.append(await subject.turn("default", "l4", EmptyViews(str(count))))
        now += 1
    assert api.written == 1
    assert pauses == [5, 4, 3, 2]

    now += 1
    await subject.turn("default", "l4", EmptyViews("3"))
    assert api.written == 2
    assert api.body is not None
    assert api.body["status"]["observedGeneration"] == 7


async def test_a_new_spec_that_is_still_refused_is_told_of_at_once() -> None:
    api = RecordedApi(body(defaultModel="ghost"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("0"))
    assert api.body is not None
    api.body = {**api.body, "metadata": {**api.body["metadata"], "generation": 4}}

    await subject.turn("default", "l4", EmptyViews("1"))

    assert api.body["status"]["observedGeneration"] == 4


async def test_an_answer_with_somebody_elses_change_in_it_is_news() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    api.meanwhile = {"activeModel": "coder"}

    await subject.turn("default", "l4", EmptyViews("w1"))
    assert not subject.knows("default", "l4", "w1")
    await subject.turn("default", "l4", EmptyViews("w1"))

    assert api.reads == 2


async def test_a_status_whose_answer_was_lost_is_read_again() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("w1"))
    api.losing = True
    with pytest.raises(ConnectionError):
        await subject.turn("default", "l4", EmptyViews("w1"))
    api.losing = False

    await subject.turn("default", "l4", EmptyViews("w2"))

    assert api.reads == 2


async def test_nothing_is_done_for_one_that_is_gone_when_its_status_is_written() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("w1"))
    api.calls.clear()
    api.body = None

    assert await subject.turn("default", "l4", EmptyViews("w1")) == 0.0
    assert api.calls == ["write status"]
    assert await subject.turn("default", "l4", EmptyViews(None)) is None


async def test_a_status_is_not_written_to_another_one_of_the_same_name() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews("w1"))
    api.calls.clear()
    api.body = body(defaultModel="mistral")
    api.body["metadata"]["uid"] = "u2"

    with pytest.raises(KubernetesApiError):
        await subject.turn("default", "l4", EmptyViews("w1"))
    assert "write status" not in api.calls
    assert not [each for each in api.calls if each.startswith("apply")]
    assert "status" not in api.body


async def test_demand_is_not_expired_by_entries_that_were_read_a_while_ago() -> None:
    def entry(renewed: str) -> dict[str, Any]:
        models = [{"name": "coder", "waiting": 1, "since": "2026-01-01T00:00:00Z"}]
        return {"requester": "a", "renewTime": renewed, "models": models}

    api = RecordedApi(body(requests=[entry("2026-01-01T00:00:00Z")]))
    subject = reconciler(api, demand_expiry=timedelta(seconds=0.2))
    await subject.turn("default", "l4", EmptyViews("w1"))
    await subject.turn("default", "l4", EmptyViews("w1"))
    assert api.reads == 1
    assert api.body is not None
    api.body["spec"] = {**api.body["spec"], "requests": [entry("2026-01-01T00:00:10Z")]}
    await asyncio.sleep(0.2)  # what is waited for is the time itself

    await subject.turn("default", "l4", EmptyViews("w1"))

    assert api.reads == 2
    assert not [each for each in api.calls if each.startswith("remove request")]


async def test_one_of_the_same_name_is_another_one() -> None:
    api = RecordedApi(body(defaultModel="mistral"), refusing=("l4-coder",))
    subject = reconciler(api)
    for _ in range(3):
        await subject.turn("default", "l4", EmptyViews())
    api.refusing = ()
    api.body = body(defaultModel="mistral")
    api.body["metadata"]["uid"] = "u2"

    await subject.turn("default", "l4", EmptyViews())

    coder = next(each for each in api.body["status"]["models"] if each["name"] == "coder")
    assert "reason" not in coder


async def test_the_status_page_shows_every_model_serving() -> None:
    api = RecordedApi(body())
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews())
    subject.reports["default", "l4"].finished -= 5

    page = status_page(subject.reports, subject.reports["default", "l4"].finished + 5)

    (shown,) = page["modelservings"]
    assert shown["name"] == "l4"
    assert shown["reconciledSecondsAgo"] == 5.0
    assert shown["status"]["conditions"][0]["reason"] == "NoDemand"


async def test_a_stalled_loop_turns_liveness_red() -> None:
    api = RecordedApi(body())
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews())

    finished = subject.reports["default", "l4"].finished
    assert stale({}, subject.reports, finished + 61, 60) == ["default/l4"]


async def test_a_model_whose_objects_are_refused_does_not_hold_up_another_ones_swap() -> None:
    api = RecordedApi(body(defaultModel="mistral"), refusing=("l4-coder",))
    subject = reconciler(api)

    for _ in range(3):
        await subject.turn("default", "l4", EmptyViews())

    assert "apply Deployment l4-mistral 1" in api.calls
    assert api.body is not None
    coder = next(each for each in api.body["status"]["models"] if each["name"] == "coder")
    assert coder["reason"] == "ManifestRefused"
    assert "limits are below requests" in coder["message"]


async def test_a_refused_target_is_a_failed_load() -> None:
    api = RecordedApi(body(defaultModel="mistral"), refusing=("l4-mistral",))
    subject = reconciler(api)

    for _ in range(4):
        await subject.turn("default", "l4", EmptyViews())

    assert api.body is not None
    assert api.body["status"]["lastSwap"]["outcome"] == "Failed"
    assert "currentSwap" not in api.body["status"]


class Ghosts(EmptyViews):
    """Watches that never told of an end: a Deployment at 1 and its Pod are long gone."""

    def __init__(self) -> None:
        super().__init__()
        parsed = serving(spec(), uid="u1")
        deployment = manifests.deployment(parsed, parsed.spec.models[0], 1)
        deployment["metadata"]["uid"] = "deployment-ghost"
        template = deployment["spec"]["template"]["metadata"]
        pod = {
            "metadata": {
                **template,
                "name": "l4-mistral-x",
                "uid": "pod-ghost",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": "True"},
                ],
            },
        }
        self._deployment, self._pod = DeploymentView.parse(deployment), PodView.parse(pod)

    def deployments(self) -> Iterable[DeploymentView]:
        return [self._deployment]

    def pods(self) -> Iterable[PodView]:
        return [self._pod]


class SilentEngines(NoEngines):
    """Engines that do not answer."""

    async def activity(self, endpoint: str) -> EngineActivity | None:
        return None


async def test_while_old_pods_go_they_are_asked_for_and_not_remembered() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    subject = reconciler(api)
    await subject.turn("default", "l4", EmptyViews())
    assert api.body is not None
    api.body["status"]["currentSwap"]["phase"] = "Stopping"

    await subject.turn("default", "l4", Ghosts())

    assert "apply Deployment l4-mistral 1" in api.calls
    assert not any(call.startswith("scale down") for call in api.calls)


async def test_an_engine_that_went_without_a_word_of_the_watches_is_missed_and_comes_back() -> None:
    api = RecordedApi(body(defaultModel="mistral"))
    api.body = {**body(defaultModel="mistral"), "status": {"observedGeneration": 3}}
    api.body["status"] |= {"activeModel": "mistral", "endpoint": "http://10.0.0.1:8000"}
    told: list[Announcement] = []
    subject = Reconciler(
        api, SilentEngines(), lambda _, each: told.append(each), timedelta(seconds=30)
    )

    for _ in range(3):
        await subject.turn("default", "l4", Ghosts())

    assert "activeModel" not in api.body["status"]
    assert "apply Deployment l4-mistral 1" in api.calls


async def test_what_is_known_to_be_gone_is_not_seen_again_until_a_new_one_is() -> None:
    api = RecordedApi(body())
    sight = Sight()
    ghosts = Ghosts()
    before = await sight.look(api, "default", "l4", ghosts, None)
    await sight.ask(api, "default", "l4", ghosts)
    after = await sight.look(api, "default", "l4", ghosts, None)

    assert [view.uid for view in before.deployments] == ["deployment-ghost"]
    assert [view.uid for view in before.pods] == ["pod-ghost"]
    assert (after.deployments, after.pods) == ((), ())


async def test_an_object_of_somebody_else_is_never_taken_over() -> None:
    api = RecordedApi(body(defaultModel="mistral"), taken=("l4-coder",))
    subject = reconciler(api)

    for _ in range(3):
        await subject.turn("default", "l4", EmptyViews())

    assert not any("l4-coder" in call for call in api.calls)
    assert api.body is not None
    coder = next(each for each in api.body["status"]["models"] if each["name"] == "coder")
    assert "not this ModelServing's" in coder["message"]


WAITING_POD = {
    "metadata": {"name": "l4-mistral-x", "uid": "p1", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "status": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    },
}


class OnePod(EmptyViews):
    """A Pod that was scheduled long ago and has no container yet."""

    def pods(self) -> Iterable[PodView]:
        return [PodView.parse(WAITING_POD)]


async def test_why_a_container_is_not_made_is_asked_of_its_pods_events_alone() -> None:
    api = RecordedApi(body())
    api.events = [
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": "no such directory",
            "source": {"component": "kubelet"},
        }
    ]
    subject = reconciler(api)

    await subject.turn("default", "l4", EmptyViews())
    assert not any(call.startswith("list Events") for call in api.calls)
    await subject.turn("default", "l4", OnePod())

    assert "list Events of p1" in api.calls


async def test_events_that_cannot_be_listed_hold_nothing_up() -> None:
    class Secretive(RecordedApi):
        async def events_of(self, namespace: str, uid: str) -> list[dict[str, Any]]:
            raise KubernetesApiError("GET events", 403, "forbidden")

    api = Secretive(body(defaultModel="mistral"))

    await reconciler(api).turn("default", "l4", OnePod())

    assert "write status" in api.calls


@pytest.mark.parametrize(
    ("status", "message", "refused"),
    [
        (422, 'Deployment.apps "l4-coder" is invalid: limits', True),
        (403, 'deployments.apps "l4-coder" is forbidden: exceeded quota: gpus', True),
        (
            403,
            'deployments.apps "l4-coder" is forbidden: User "system:serviceaccount:models:'
            'modelserving-operator" cannot patch resource "deployments" in API group "apps"',
            False,
        ),
        (409, "the object has been modified", False),
        (500, "etcdserver: request timed out", False),
    ],
)
def test_a_refusal_is_of_the_object_and_not_of_the_moment(
    status: int, message: str, refused: bool
) -> None:
    assert KubernetesApiError("PATCH", status, message).refused is refused
