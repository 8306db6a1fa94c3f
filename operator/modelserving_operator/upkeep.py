"""What keeps a ModelServing's objects as declared, whatever is swapped and whoever edits them.

Pure: returns actions and what is to be told of them, does nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from modelserving_api.names import Reason
from modelserving_api.spec import Model
from modelserving_operator import manifests
from modelserving_operator.actions import (
    Action,
    Announcement,
    ApplyDeployment,
    ApplyService,
    Delete,
    RemoveRequest,
    ScaleDown,
    ScaleUp,
)
from modelserving_operator.observation import SPEC_HASH_ANNOTATION, Observation
from modelserving_operator.standing import declared, edited, edited_service, up_to_date

_PATHS_TOLD: Final = 5
"""Of the fields that somebody has changed; the first ones say what it was about."""

Kind = Literal["Deployment", "Service"]


@dataclass(frozen=True)
class Work:
    """Actions, and Events about those that undo what a person did."""

    actions: tuple[Action, ...] = ()
    announcements: tuple[Announcement, ...] = ()

    @classmethod
    def of(cls, steps: Iterable["Action | Announcement"]) -> "Work":
        """Sort steps into what is done and what is told."""
        each = tuple(steps)
        told = tuple(step for step in each if isinstance(step, Announcement))
        return cls(tuple(step for step in each if not isinstance(step, Announcement)), told)


Steps = Iterator[Action | Announcement]


def upkeep(seen: Observation, planned: tuple[Action, ...]) -> Work:
    """Return what keeps the objects of every model as declared, beside what is planned already."""
    return Work.of(_steps(seen, planned))


def put_back(seen: Observation, active: str | None) -> Work:
    """Undo what someone scaled by hand: R1 allows one engine, and the status says which."""
    return Work.of(_put_back(seen, active))


def undoes(seen: Observation, action: Action) -> tuple[Kind, str] | None:
    """Return the kind and name of the object that an action puts back, if somebody edited it."""
    if not isinstance(action, ApplyDeployment | ApplyService | ScaleUp):
        return None
    name = manifests.object_name(seen.serving.name, action.model)
    if not isinstance(action, ApplyService):
        return ("Deployment", name) if edited(seen, action.model) else None
    model = declared(seen, action.model)
    return ("Service", name) if model is not None and edited_service(seen, model) else None


def edited_message(name: str, paths: tuple[str, ...]) -> str:
    """Return what somebody did to an object, as people read it."""
    more = f" and {len(paths) - _PATHS_TOLD} more" if len(paths) > _PATHS_TOLD else ""
    return f"{name} was edited by hand ({', '.join(paths[:_PATHS_TOLD])}{more}); it is put back"


def _steps(seen: Observation, planned: tuple[Action, ...]) -> Steps:
    going_up = {action.model for action in planned if isinstance(action, ScaleUp)}
    declared = {model.name for model in seen.serving.spec.models}
    for model in seen.serving.spec.models:
        name = manifests.object_name(seen.serving.name, model.name)
        if model.name not in going_up:
            yield from _deployment(seen, model, name)
        yield from _service(seen, model, name)
    for view in seen.deployments.values():
        if view.model not in declared and view.replicas == 0:
            yield Delete("Deployment", view.name)
    for service in seen.services.values():
        if service.model not in declared:
            yield Delete("Service", service.name)
    for requester in seen.expired_requesters:
        yield RemoveRequest(requester)
    for (kind, name), since in seen.conceded.items():
        if since == seen.now:
            told = f"{kind} {name} is changed again and again; it is left so until its spec changes"
            yield Announcement("Warning", Reason.EDITED_BY_HAND, told)


def _deployment(seen: Observation, model: Model, name: str) -> Steps:
    view = seen.deployments.get(model.name)
    if view is None:
        yield from _made(seen, model, "Deployment", ApplyDeployment(model.name))
    elif view.replicas == 0 and (paths := edited(seen, model.name)):
        told = edited_message(f"Deployment {name}", paths)
        yield from _told(seen, ApplyDeployment(model.name), Reason.EDITED_BY_HAND, told)
        yield ApplyDeployment(model.name)
    elif view.replicas == 0 and not up_to_date(seen, model.name):
        yield ApplyDeployment(model.name)


def _service(seen: Observation, model: Model, name: str) -> Steps:
    view = seen.services.get(model.name)
    if view is None:
        yield from _made(seen, model, "Service", ApplyService(model.name))
        return
    wanted: dict[str, Any] = manifests.service(seen.serving, model)["metadata"]["annotations"]
    if {SPEC_HASH_ANNOTATION: view.spec_hash} != wanted:
        yield ApplyService(model.name)
    elif paths := edited_service(seen, model):
        told = edited_message(f"Service {name}", paths)
        yield from _told(seen, ApplyService(model.name), Reason.EDITED_BY_HAND, told)
        yield ApplyService(model.name)


def _made(seen: Observation, model: Model, kind: Kind, action: Action) -> Steps:
    """Make an object; if it was there, somebody has deleted it: its model has a status by then."""
    name = manifests.object_name(seen.serving.name, model.name)
    known = any(each.name == model.name for each in seen.serving.status.models)
    if known and model.name not in seen.refused:
        told = f"{kind} {name} was deleted by hand; it is made anew"
        yield from _told(seen, action, Reason.DELETED_BY_HAND, told)
    yield action


def _put_back(seen: Observation, active: str | None) -> Steps:
    for view in seen.deployments.values():
        allowed = 1 if view.model == active else 0
        if view.replicas <= allowed:
            continue
        action = ScaleDown(view.name, replicas=allowed)
        told = (
            f"Deployment {view.name} was scaled to {view.replicas} by hand while "
            f"{active or 'nothing'} serves; it is put back to {allowed}"
        )
        yield from _told(seen, action, Reason.SCALED_BY_HAND, told)
        yield action


def _told(seen: Observation, action: Action, reason: Reason, message: str) -> Steps:
    if action not in seen.just_done:
        yield Announcement("Warning", reason, message)
