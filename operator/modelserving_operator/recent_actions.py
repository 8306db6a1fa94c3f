"""What was done a moment ago and may not have been seen yet, since watches lag behind.

Pure: time comes with the observations. It only keeps a plan that is made again from being told
again, so all of it may be lost at any moment.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from modelserving_operator.actions import (
    Action,
    ApplyDeployment,
    ApplyService,
    ScaleDown,
    ScaleUp,
)
from modelserving_operator.observation import DeploymentView, Observation, ServiceView

_SEEN_BY_THEN: Final = timedelta(seconds=10)
"""A watch takes milliseconds to tell of a write, in trouble some seconds."""

View = DeploymentView | ServiceView


@dataclass
class RecentActions:
    """Actions, when each was begun, and how its object was seen then."""

    _begun: dict[Action, tuple[datetime, View | None]] = field(default_factory=dict)

    def note(self, action: Action, seen: Observation) -> None:
        """Remember that an action of a plan for this observation is begun."""
        self._begun[action] = (seen.now, _object_of(action, seen))

    def unseen(self, seen: Observation) -> frozenset[Action]:
        """Return the actions whose objects do not yet look as if they had been done."""
        self._begun = {
            action: (begun, before)
            for action, (begun, before) in self._begun.items()
            if seen.now - begun < _SEEN_BY_THEN
            and ((now := _object_of(action, seen)) is None or now == before)
        }
        return frozenset(self._begun)


def _object_of(action: Action, seen: Observation) -> View | None:
    match action:
        case ApplyDeployment(model) | ScaleUp(model):
            return seen.deployments.get(model)
        case ApplyService(model):
            return seen.services.get(model)
        case ScaleDown(name):
            return next((each for each in seen.deployments.values() if each.name == name), None)
    return None
