"""What is remembered of one ModelServing between turns.

Any of it may be lost at any moment: what must outlive the process is in the status.
"""

import math
from dataclasses import dataclass, field

from modelserving_operator.activity import IdleTracker, SilenceTracker
from modelserving_operator.cached_serving import CachedServing
from modelserving_operator.demand import DemandLedger
from modelserving_operator.explanations import Explanations
from modelserving_operator.fights import Fights
from modelserving_operator.observation import ProbeResult
from modelserving_operator.recent_actions import RecentActions
from modelserving_operator.sight import Sight


@dataclass
class Memory:
    """What is remembered of one ModelServing."""

    cached: CachedServing
    ledger: DemandLedger
    explanations: Explanations
    idle: IdleTracker = field(default_factory=IdleTracker)
    silence: SilenceTracker = field(default_factory=SilenceTracker)
    status_written_at: float = -math.inf
    """By the monotonic clock."""
    probe: ProbeResult | None = None
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """By model and kind: what the API server said when it refused the object the last time."""
    recent: RecentActions = field(default_factory=RecentActions)
    sight: Sight = field(default_factory=Sight)
    fights: Fights = field(default_factory=Fights)
