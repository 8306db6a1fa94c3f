"""What was done just now is known until its object looks like it, and no longer."""

from dataclasses import replace
from datetime import timedelta

from modelserving_operator import manifests
from modelserving_operator.actions import ApplyDeployment, RemoveRequest, ScaleDown
from modelserving_operator.observation import DeploymentView, Observation
from modelserving_operator.recent_actions import RecentActions
from tests.unit.operator.world import START, serving, spec

SCALED = ScaleDown("l4-mistral")


def seen(view: DeploymentView | None, seconds: float = 0) -> Observation:
    deployments = {} if view is None else {"mistral": view}
    return Observation(serving(spec()), START + timedelta(seconds=seconds), deployments=deployments)


def deployment(hash_: str) -> DeploymentView:
    parsed = serving(spec())
    view = DeploymentView.parse(manifests.deployment(parsed, parsed.spec.models[0], 0))
    return replace(view, spec_hash=hash_)


def test_scaling_down_is_unseen_until_the_deployment_looks_different() -> None:
    recent = RecentActions()
    recent.note(SCALED, seen(deployment("old")))

    assert recent.unseen(seen(deployment("old"), 1)) == {SCALED}, "the watch lags behind"
    assert recent.unseen(seen(deployment("new"), 3)) == frozenset()


def test_an_object_that_was_made_is_unseen_until_it_is_there() -> None:
    recent = RecentActions()
    made = ApplyDeployment("mistral")
    recent.note(made, seen(None))

    assert recent.unseen(seen(None, 1)) == {made}
    assert recent.unseen(seen(deployment("new"), 2)) == frozenset()


def test_an_action_is_not_remembered_for_longer_than_watches_lag() -> None:
    recent = RecentActions()
    recent.note(SCALED, seen(deployment("old")))
    recent.note(RemoveRequest("gateway-a"), seen(None))

    assert recent.unseen(seen(deployment("old"), 60)) == frozenset()
