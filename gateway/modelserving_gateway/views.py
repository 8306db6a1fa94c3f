"""What the gateway tells about itself: /v1/models in OpenAI's shape, and /status.

Pure: JSON-ready values from a catalog and what waits.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from modelserving_api.names import ConditionType
from modelserving_api.status import LastSwap, ModelState
from modelserving_gateway.cluster.catalog import Catalog, Serving
from modelserving_gateway.turns.queueing import Waiting


def model_list(catalog: Catalog, may_use: Callable[[str], bool]) -> dict[str, Any]:
    """Return the declared models that may be used, and their aliases, as OpenAI's list."""
    aliases = sorted(catalog.aliases().items())
    names = [
        *(model for model in catalog.models() if may_use(model)),
        *(alias for alias, model in aliases if may_use(model)),
    ]
    return {"object": "list", "data": [_model(catalog, name) for name in names]}


def one_model(catalog: Catalog, wanted: str) -> dict[str, Any] | None:
    """Return a model or alias as OpenAI's model object, or None when nothing is called so."""
    return None if catalog.model_called(wanted) is None else _model(catalog, wanted)


def _model(catalog: Catalog, wanted: str) -> dict[str, Any]:
    model = catalog.model_called(wanted) or wanted
    servings = catalog.servings_of(model)
    places = [_place(serving, model) for serving in servings]
    best = next((place for place in places if place["active"]), places[0])
    aliases = sorted(alias for alias, target in catalog.aliases().items() if target == model)
    return {
        "id": wanted,
        "object": "model",
        "created": int(min(serving.created for serving in servings).timestamp()),
        "owned_by": "modelserving",
        "modelserving": {
            "name": best["name"],
            "state": best["state"],
            "active": best["active"],
            **({"alias_of": model} if wanted != model else {"aliases": aliases}),
            "servings": places,
        },
    }


def _place(serving: Serving, model: str) -> dict[str, Any]:
    status = serving.status.model(model)
    place: dict[str, Any] = {
        "name": serving.name,
        "state": status.state.value,
        "active": serving.endpoint_of(model) is not None,
    }
    if (invalid := serving.invalid or serving.refused) is not None:
        place |= {"reason": "InvalidSpec", "message": invalid}
    elif status.state is ModelState.FAILED or status.reason:
        place |= {"reason": status.reason, "message": status.message}
    return place


def status(
    catalog: Catalog, waiting: Mapping[str, Waiting], in_flight: int, now: datetime
) -> dict[str, Any]:
    """Return the state of every ModelServing and of what this gateway holds.

    Endpoints are told as they stand in the resource; prompts and bodies never are.
    """
    return {
        "modelservings": [_serving(serving, waiting, now) for serving in catalog.servings.values()],
        "held": sum(queue.count for queue in waiting.values()),
        "in_flight": in_flight,
    }


def status_of_some(told: dict[str, Any], may_use: Callable[[str], bool]) -> dict[str, Any]:
    """Return of a status what concerns the models that may be used: no others, and no addresses."""
    servings = [_serving_of_some(serving, may_use) for serving in told["modelservings"]]
    concerned = [serving for serving in servings if serving["models"]]
    return {
        "modelservings": concerned,
        "held": sum(model["held"] for model in _once(concerned)),
    }


def _serving_of_some(told: dict[str, Any], may_use: Callable[[str], bool]) -> dict[str, Any]:
    names = {
        field: told[field] if told[field] is not None and may_use(told[field]) else None
        for field in ("active", "target", "pinned")
    }
    return {
        "name": told["name"],
        **names,
        "ready": told["ready"],
        "reason": told["reason"],
        "models": [model for model in told["models"] if may_use(model["name"])],
    }


def _once(servings: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Return each model once: what is held for it is told with every ModelServing that has it."""
    return {model["name"]: model for serving in servings for model in serving["models"]}.values()


def _serving(serving: Serving, waiting: Mapping[str, Waiting], now: datetime) -> dict[str, Any]:
    ready = serving.status.condition(ConditionType.READY)
    return {
        "name": serving.name,
        "active": serving.status.active_model,
        "target": serving.status.target_model,
        "endpoint": serving.status.endpoint,
        "pinned": serving.pinned,
        "ready": ready is not None and ready.status.value == "True",
        "reason": None if ready is None else ready.reason,
        "message": None if ready is None else ready.message,
        "invalid": serving.invalid or serving.refused,
        "last_swap": _last_swap(serving.status.last_swap),
        "models": [
            {
                "name": model.name,
                "aliases": list(model.aliases),
                "state": (state := serving.status.model(model.name)).state.value,
                "reason": state.reason,
                "message": state.message,
                "load_seconds": state.load_seconds,
                **_queue(waiting.get(model.name), now),
            }
            for model in serving.models
        ],
    }


def _queue(queue: Waiting | None, now: datetime) -> dict[str, Any]:
    if queue is None:
        return {"held": 0, "oldest_wait_seconds": None}
    age = max(0.0, (now - queue.oldest).total_seconds())
    return {"held": queue.count, "oldest_wait_seconds": round(age, 3)}


def _last_swap(swap: LastSwap | None) -> dict[str, Any] | None:
    return None if swap is None else swap.model_dump(mode="json", by_alias=True)
