"""What the requests that wait mean for each ModelServing: the demand that is to be published.

Pure. How demand is written, and when, is cluster/demand.py's.
"""

from collections.abc import Mapping
from datetime import datetime

from modelserving_gateway.cluster.catalog import Catalog
from modelserving_gateway.cluster.demand import Demand
from modelserving_gateway.turns.queueing import Waiting
from modelserving_gateway.turns.routing import Hold, Refuse, decide


def demand_by_serving(
    waiting: Mapping[str, Waiting],
    catalog: Catalog,
    now: datetime,
    in_flight: Mapping[str, int] | None = None,
) -> dict[str, dict[str, Demand]]:
    """Return what is wanted of each ModelServing, by model.

    A request that waits for a model which is served (its engine was just lost) counts as demand for
    it there, so that the model is not swapped out under it.
    """
    demand: dict[str, dict[str, Demand]] = {}
    for model, queue in waiting.items():
        decision = decide(catalog, model, now, in_flight)
        if isinstance(decision, Refuse):
            continue
        serving = decision.serving if isinstance(decision, Hold) else decision.targets[0].serving
        if serving is None:
            continue
        demand.setdefault(serving, {})[model] = Demand(queue.count, queue.oldest, queue.priority)
    return demand
