"""What an engine is doing, read from vLLM's own metrics.

Pure: text in, numbers out, time passed in. Asking the engine is the edge's business. Traffic that
bypasses the gateway counts too, which is why the engine is asked and not the gateways.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from modelserving_operator.observation import EngineActivity

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_FINISHED: Final = "vllm:request_success_total"


def parse_activity(text: str) -> EngineActivity:
    """Read vLLM's metrics in the Prometheus text format.

    Raises ValueError when the text is not that, or holds no number of running requests: an
    engine of which nothing is known must not pass for an idle one.
    """
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (_RUNNING, _WAITING, _FINISHED):
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    if _RUNNING not in totals:
        raise ValueError(f"the engine's metrics do not hold {_RUNNING}")
    return EngineActivity(
        running=int(totals[_RUNNING]),
        waiting=int(totals.get(_WAITING, 0)),
        finished=totals.get(_FINISHED, 0.0),
    )


@dataclass
class SilenceTracker:
    """Since when one engine has not answered, as far as looks at it can tell.

    Forgetting it is safe: a fresh tracker gives the engine its whole patience anew.
    """

    _pod_uid: str = ""
    _silent_since: datetime | None = None

    def update(
        self, pod_uid: str, activity: EngineActivity | None, now: datetime
    ) -> datetime | None:
        """Take in a look and return since when the engine is silent; None: it answers."""
        if activity is not None:
            self._silent_since = None
        elif self._silent_since is None or pod_uid != self._pod_uid:
            self._silent_since = now
        self._pod_uid = pod_uid
        return self._silent_since


@dataclass
class IdleTracker:
    """Since when one engine has had nothing to do, as far as looks at it can tell.

    Forgetting it is safe: a fresh tracker believes that the idle time begins at its first look.
    """

    _pod_uid: str = ""
    _finished: float = 0.0
    _idle_since: datetime | None = None

    def update(
        self, pod_uid: str, activity: EngineActivity | None, now: datetime
    ) -> datetime | None:
        """Take in a look and return since when the engine is idle; None: busy or unknown."""
        if activity is None or activity.busy:
            self._idle_since = None
        elif (
            self._idle_since is None
            or pod_uid != self._pod_uid
            or activity.finished != self._finished
        ):
            self._idle_since = now
        self._pod_uid = pod_uid
        self._finished = activity.finished if activity else 0.0
        return self._idle_since
