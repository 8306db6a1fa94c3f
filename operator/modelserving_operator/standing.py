"""Questions about an observation that more than one step of a swap asks.

Pure: each answers from the observation alone.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from modelserving_api.spec import Model
from modelserving_operator import manifests
from modelserving_operator.observation import Observation


def declared(seen: Observation, name: str) -> Model | None:
    return next((model for model in seen.serving.spec.models if model.name == name), None)


def is_declared(seen: Observation, name: str | None) -> bool:
    return name is not None and declared(seen, name) is not None


def replicas(seen: Observation, model: str) -> int:
    view = seen.deployments.get(model)
    return view.replicas if view is not None else 0


def up_to_date(seen: Observation, name: str) -> bool:
    model = declared(seen, name)
    view = seen.deployments.get(name)
    if model is None or view is None:
        return False
    return view.spec_hash == manifests.spec_hash(seen.serving, model)


def lost(seen: Observation, active: str) -> bool:
    pod = seen.engine_pod(active)
    return pod is None or not pod.ready or replicas(seen, active) == 0


def blocked(seen: Observation) -> dict[str, datetime]:
    """Return the models that must not be tried yet; one whose spec changed may be."""
    blocked: dict[str, datetime] = {}
    for model in seen.serving.spec.models:
        known = seen.serving.status.model(model.name)
        if known.next_retry_time is None or known.next_retry_time <= seen.now:
            continue
        if known.failed_spec_hash == manifests.spec_hash(seen.serving, model):
            blocked[model.name] = known.next_retry_time
    return blocked


def with_status(seen: Observation, **changes: Any) -> Observation:
    status = seen.serving.status.model_copy(update=changes)
    return replace(seen, serving=seen.serving.model_copy(update={"status": status}))
