"""What was done just now is known until its object looks like it, and no longer."""

from dataclasses import replace
from datetime import timedelta

from modelserving_operator import manifests
from modelserving_operator.actions import ApplyDeployment, Delete, RemoveRequest
from modelserving_operator.observation import DeploymentView, Observation
from modelserving_operator.recent_actions import RecentActions
from tests.unit.operator.world import START, serving, spec

DELETED = Delete("Deployment", "l4-mistral")


def seen(view: DeploymentView | None, seconds: float = 0) -> Observation:
    deployments = {} if view is None else {"mistral": view}
    return Observation(serving(spec()), START + timedelta(seconds=seconds), deployments=deployments)


def deployment(hash_: str) -> DeploymentView:
    parsed = serving(spec())
    view = DeploymentView.parse(manifests.deployment(parsed, parsed.spec.models[0], 0))
    return replace(view, spec_hash=hash_)


def test_a_deletion_is_unseen_until_what_is_made_anew_is_seen() -> None:
    recent = RecentActions()
    recent.note(DELETED, seen(deployment("old")))

    assert recent.unseen(seen(deployment("old"), 1)) == {DELETED}, "the watch lags behind"
    assert recent.unseen(seen(None, 2)) == {DELETED}
    assert recent.unseen(seen(deployment("new"), 3)) == frozenset()
    assert recent.unseen(seen(None, 4)) == frozenset(), "now it was somebody else"


def test_an_object_that_was_made_is_unseen_until_it_is_there() -> None:
    recent = RecentActions()
    made = ApplyDeployment("mistral")
    recent.note(made, seen(None))

    assert recent.unseen(seen(None, 1)) == {made}
    assert recent.unseen(seen(deployment("new"), 2)) == frozenset()


def test_an_action_is_not_remembered_for_longer_than_watches_lag() -> None:
    recent = RecentActions()
    recent.note(DELETED, seen(deployment("old")))
    recent.note(RemoveRequest("gateway-a"), seen(None))

    assert recent.unseen(seen(deployment("old"), 60)) == frozenset()
