"""Questions about an observation that more than one step of a swap asks.

Pure: each answers from the observation alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from modelserving_api.spec import Model
from modelserving_operator import manifests
from modelserving_operator.departures import departures
from modelserving_operator.observation import SPEC_HASH_ANNOTATION, Observation, PodView


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
    fresh = view.spec_hash == manifests.spec_hash(seen.serving, model)
    return fresh and not edited(seen, name)


def edited(seen: Observation, name: str) -> tuple[str, ...]:
    """Return the fields of a model's Deployment that somebody else has changed.

    None of one that is left as it is, or that was made from an older spec: it is applied anew.
    """
    model, view = declared(seen, name), seen.deployments.get(name)
    if model is None or view is None or ("Deployment", view.name) in seen.conceded:
        return ()
    wanted = manifests.deployment(seen.serving, model, view.replicas)
    if wanted["metadata"]["annotations"] != {SPEC_HASH_ANNOTATION: view.spec_hash}:
        return ()
    # The rest is a matter of the Deployment's controller, and none of it restarts an engine.
    judged = {name: wanted["spec"][name] for name in ("strategy", "template")}
    return departures(judged, view.ownership)


def edited_service(seen: Observation, model: Model) -> tuple[str, ...]:
    """Return the fields of a model's Service that somebody else has changed."""
    view = seen.services.get(model.name)
    if view is None or ("Service", view.name) in seen.conceded:
        return ()
    return departures(manifests.service(seen.serving, model)["spec"], view.ownership)


def edited_objects(seen: Observation) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of every object that somebody else has changed."""
    for model in seen.serving.spec.models:
        name = manifests.object_name(seen.serving.name, model.name)
        if edited(seen, model.name):
            yield "Deployment", name
        if edited_service(seen, model):
            yield "Service", name


def endpoint_of(pod: PodView) -> str:
    """Return the base URL of an engine: its Pod, since a Service lags behind a swap."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"http://{host}:{manifests.ENGINE_PORT}"


def has_failed(seen: Observation, model: Model) -> bool:
    """Return whether the model's last load failed as it is declared now."""
    known = seen.serving.status.model(model.name)
    return known.failures > 0 and known.failed_spec_hash == load_hash(seen, model)


def load_hash(seen: Observation, model: Model) -> str:
    """Return a hash of all that a load depends on: the Pod's template, its budget, its probe."""
    spec_hash = manifests.spec_hash(seen.serving, model)
    return manifests.digest([spec_hash, model.load_timeout_seconds, model.probe.model_dump()])


def blocked(seen: Observation) -> dict[str, datetime | None]:
    """Return the models that must not be tried, and until when; None: not as they are declared."""
    status = seen.serving.status
    failed = [model.name for model in seen.serving.spec.models if has_failed(seen, model)]
    retries = {name: status.model(name).next_retry_time for name in failed}
    return {name: retry for name, retry in retries.items() if retry is None or retry > seen.now}


def with_status(seen: Observation, **changes: Any) -> Observation:
    status = seen.serving.status.model_copy(update=changes)
    return replace(seen, serving=seen.serving.model_copy(update={"status": status}))
