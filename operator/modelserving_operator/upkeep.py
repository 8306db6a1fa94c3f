"""What keeps a ModelServing's objects as declared, whatever is being swapped.

Pure: returns actions, takes none.
"""

from modelserving_operator import manifests
from modelserving_operator.actions import (
    Action,
    ApplyDeployment,
    ApplyService,
    Delete,
    RemoveRequest,
    ScaleDown,
    ScaleUp,
)
from modelserving_operator.observation import SPEC_HASH_ANNOTATION, Observation
from modelserving_operator.standing import up_to_date


def upkeep(seen: Observation, planned: tuple[Action, ...]) -> tuple[Action, ...]:
    """Return the actions that keep the objects of every model as declared."""
    actions: list[Action] = []
    going_up = {action.model for action in planned if isinstance(action, ScaleUp)}
    declared = {model.name for model in seen.serving.spec.models}
    for model in seen.serving.spec.models:
        view = seen.deployments.get(model.name)
        stopped = view is None or (view.replicas == 0 and not up_to_date(seen, model.name))
        if stopped and model.name not in going_up:
            actions.append(ApplyDeployment(model.name))
        service = seen.services.get(model.name)
        wanted = manifests.service(seen.serving, model)["metadata"]["annotations"]
        if service is None or {SPEC_HASH_ANNOTATION: service.spec_hash} != wanted:
            actions.append(ApplyService(model.name))
    for view in seen.deployments.values():
        if view.model not in declared and view.replicas == 0:
            actions.append(Delete("Deployment", view.name))
    for service in seen.services.values():
        if service.model not in declared:
            actions.append(Delete("Service", service.name))
    actions.extend(RemoveRequest(requester) for requester in seen.expired_requesters)
    return tuple(actions)


def put_back(seen: Observation, active: str | None) -> tuple[Action, ...]:
    """Undo what someone scaled by hand: R1 allows one engine, and the status says which."""
    actions: list[Action] = [
        ScaleDown(view.name)
        for view in seen.deployments.values()
        if view.model != active and view.replicas > 0
    ]
    actions.extend(
        ScaleDown(view.name, replicas=1)
        for view in seen.deployments.values()
        if view.model == active and view.replicas > 1
    )
    return tuple(actions)
