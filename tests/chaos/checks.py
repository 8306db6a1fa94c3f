"""What must hold after every fault: functions from what was seen to what was wrong, in words.

Pure: takes objects as the API has them and attempts as the clients made them; returns sentences,
none when all is well.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from modelserving_api.names import MODEL_LABEL, SERVING_LABEL
from tests.chaos.clients import Attempt, Outcome

Object = dict[str, Any]


def orphans(servings: Iterable[Object], kinds: Mapping[str, Iterable[Object]]) -> list[str]:
    """Return the engine objects that nobody owns or declares.

    `kinds` holds the Deployments, Services, ReplicaSets and Pods that carry the serving's label.
    Objects that are being deleted are on their way and no orphans.
    """
    by_name = {serving["metadata"]["name"]: serving for serving in servings}
    found = []
    for kind, objects in kinds.items():
        owners = _owners_of(kind, by_name, kinds)
        for each in objects:
            if "deletionTimestamp" not in each["metadata"]:
                found += [f"{kind} {_name(each)} {why}" for why in _orphaned(each, by_name, owners)]
    return found


def _owners_of(
    kind: str, servings: Mapping[str, Object], kinds: Mapping[str, Iterable[Object]]
) -> set[str]:
    above: Iterable[Object] = servings.values()
    if kind in {"ReplicaSet", "Pod"}:
        above = kinds["Deployment" if kind == "ReplicaSet" else "ReplicaSet"]
    return {each["metadata"]["uid"] for each in above}


def _orphaned(each: Object, servings: Mapping[str, Object], owners: set[str]) -> list[str]:
    references = each["metadata"].get("ownerReferences", [])
    if not any(reference["uid"] in owners for reference in references):
        return ["has no owner that is there"]
    labels = each["metadata"]["labels"]
    serving = servings.get(labels.get(SERVING_LABEL, ""))
    if serving is None:
        return ["is of no ModelServing"]
    if labels.get(MODEL_LABEL) not in {model["name"] for model in serving["spec"]["models"]}:
        return [f"is of {labels.get(MODEL_LABEL)!r}, which is not declared"]
    return []


def scaled_up_twice(deployments: Iterable[Object]) -> list[str]:
    """Return the ModelServings of which more than one Deployment has replicas (R1)."""
    up: dict[str, list[str]] = {}
    for each in deployments:
        if each["spec"]["replicas"] > 0:
            name = each["metadata"]["labels"][SERVING_LABEL]
            up.setdefault(name, []).extend([_name(each)] * each["spec"]["replicas"])
    return [f"{name} has {', '.join(names)} scaled up" for name, names in up.items() if names[1:]]


def stale_demand(servings: Iterable[Object], gateways: Collection[str]) -> list[str]:
    """Return the entries of spec.requests whose gateway is not there."""
    return [
        f"{_name(serving)} has the demand of {entry['requester']}, which is gone"
        for serving in servings
        for entry in serving["spec"].get("requests", [])
        if entry["requester"] not in gateways
    ]


def demand_left(servings: Iterable[Object]) -> list[str]:
    """Return the entries of spec.requests of ModelServings that nobody asks any more."""
    return [
        f"{_name(serving)} has the demand of {entry['requester']} although nobody asks"
        for serving in servings
        for entry in serving["spec"].get("requests", [])
    ]


def restarts(pods: Iterable[Object], expected: Mapping[str, int]) -> list[str]:
    """Return the Pods of the two programs that were started again more or less often than killed.

    But those that are being deleted: they were looked at before.
    """
    return [
        f"{_name(pod)} was restarted {count} times and killed {expected.get(_name(pod), 0)} times"
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and (count := _restart_count(pod)) != expected.get(_name(pod), 0)
    ]


def _restart_count(pod: Object) -> int:
    """Return how often a Pod's containers were started again."""
    statuses = pod["status"].get("containerStatuses", [])
    return sum(int(each["restartCount"]) for each in statuses)


def unexcused(attempts: Iterable[Attempt], killed_gateways: Collection[str]) -> list[str]:
    """Return the attempts that nothing excuses.

    A gateway that was killed takes with it what it had accepted, of those who asked it directly and
    of those who came through the Service. Nothing else excuses a connection that failed, except
    that the Service has no gateway that is ready.
    """
    return [str(each) for each in attempts if not _excused(each, killed_gateways)]


def _excused(attempt: Attempt, killed: Collection[str]) -> bool:
    match attempt.outcome:
        case Outcome.ANSWERED | Outcome.ERROR | Outcome.ERROR_EVENT:
            return True
        case Outcome.REFUSED:
            return attempt.gateway in killed or not attempt.gateway
        case Outcome.LOST | Outcome.CUT:
            return attempt.gateway in killed or (not attempt.gateway and bool(killed))
        case _:
            return False


def counted(attempts: Iterable[Attempt]) -> tuple[Counter[str], Counter[str]]:
    """Return how many connections failed, by outcome, and how many errors came, by their code."""
    cuts: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for each in attempts:
        if each.outcome.of_the_connection:
            cuts[each.outcome.value] += 1
        elif each.outcome is not Outcome.ANSWERED:
            errors[each.detail.partition(":")[0]] += 1
    return cuts, errors


def _name(each: Object) -> str:
    return str(each["metadata"]["name"])
