"""What is asked about a Pod in trouble, and how often."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from modelserving_operator import words
from modelserving_operator.explanations import Explanations
from modelserving_operator.kubernetes_api import KubernetesApiError
from modelserving_operator.observation import PodView
from tests.harness.engines.sim import failures
from tests.unit.operator.world import START

CUT_OFF = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s)"
)
LOG = failures.OUT_OF_MEMORY.format(pid=17, traceback="  File x\n    y(\n" * 40)


@dataclass
class RecordedApi:
    """An API server that knows one log."""

    log: str = LOG
    failing: bool = False
    asked: list[str] = field(default_factory=list)

    async def events_of(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        raise AssertionError(uid)

    async def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> str:
        self.asked.append(f"{pod} previous={previous}")
        if self.failing:
            raise KubernetesApiError("GET log", 400, "previous terminated container not found")
        return self.log


def pod(**fields: Any) -> PodView:
    defaults: dict[str, Any] = {
        "name": "l4-coder-1",
        "uid": "p1",
        "model": "coder",
        "spec_hash": "h",
        "phase": "Running",
        "created": START,
        "exit_code": 1,
        "exit_message": CUT_OFF,
    }
    return PodView(**{**defaults, **fields})


async def explained(subject: Explanations, seen: PodView) -> PodView:
    (result,) = await subject.explained("default", (seen,), START + timedelta(minutes=1))
    return result


async def test_the_cause_is_read_where_the_last_words_say_that_it_stands_further_up() -> None:
    api = RecordedApi()
    result = await explained(Explanations(api), pod())

    assert words.out_of_gpu_memory(result.exit_message)
    assert "Tried to allocate" in result.exit_message
    assert "root cause" not in result.exit_message


async def test_a_log_is_read_once_for_each_end_of_an_engine() -> None:
    api = RecordedApi()
    subject = Explanations(api)
    for _ in range(3):
        await explained(subject, pod(ended=True))
        await explained(subject, pod(waiting_reason="CrashLoopBackOff"))
        await explained(subject, pod(restarts=1, running_since=START))

    assert api.asked == ["l4-coder-1 previous=False"]
    await explained(subject, pod(restarts=1))
    assert api.asked[1:] == ["l4-coder-1 previous=True"]


async def test_last_words_that_name_a_cause_are_left_alone() -> None:
    api = RecordedApi()
    result = await explained(Explanations(api), pod(exit_message="ValueError: an unknown flag"))

    assert result.exit_message == "ValueError: an unknown flag"
    assert api.asked == []


async def test_a_log_that_is_gone_leaves_the_words_that_there_are() -> None:
    for api in (RecordedApi(failing=True), RecordedApi(log="")):
        subject = Explanations(api)
        for _ in range(3):
            assert (await explained(subject, pod())).exit_message == CUT_OFF
        assert len(api.asked) == 1


async def test_what_is_known_of_a_pod_goes_with_it() -> None:
    subject = Explanations(RecordedApi())
    await explained(subject, pod())
    await subject.explained("default", (), START)

    assert subject._causes == {}
