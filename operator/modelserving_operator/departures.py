"""What somebody else has changed on an object that the operator applies.

Pure. The API server keeps who owns which field (`metadata.managedFields`, KEP-555): a field that we
declare, no longer own and find different was changed or taken away. A difference alone proves
nothing: servers write quantities in their own way, and admission may rewrite what we ask for. What
others add beside it is theirs, as server-side apply has it.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from modelserving_api.quantities import parse_quantity

FIELD_MANAGER: Final = "modelserving-operator"
"""Who we are to the API server."""

_ALLOWED: Final = frozenset({"replicas"})
"""Judged by its value: scaling is what the operator does all the time."""

_CACHED: Final = 4096
"""Objects whose verdict is remembered: those of two hundred ModelServings with ten models each."""

Tree = Mapping[str, Any]
"""A part of an object, or of `fieldsV1`: `f:name`, `k:{…}` for an item of a list, `.` for
itself."""


def ownership(body: Tree) -> str:
    """Return what `departures` needs of an object as the API server sends it, as compact text.

    Text, because an operator keeps it of every object: parsed, it takes ten times the memory.
    Empty when the object was not made by our apply: nothing is known then of what we own.
    """
    applied = next(
        (
            entry["fieldsV1"].get("f:spec", {})
            for entry in body["metadata"].get("managedFields", ())
            if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        ),
        None,
    )
    if applied is None:
        return ""
    return json.dumps([body.get("spec", {}), applied], separators=(",", ":"))


def departures(declared: Tree, owned: str) -> tuple[str, ...]:
    """Return the fields below `spec` that somebody else has changed or taken away.

    `declared` is the `spec` that we apply, `owned` is what `ownership` has returned. Sorted paths,
    such as `template.spec.containers[engine].image`.
    """
    return _departures(json.dumps(declared, separators=(",", ":")), owned) if owned else ()


@lru_cache(_CACHED)
def _departures(declared: str, owned: str) -> tuple[str, ...]:
    observed, ours = json.loads(owned)
    return tuple(sorted({*_lost(json.loads(declared), observed, ours, "")} - _ALLOWED))


def _lost(declared: Any, observed: Any, ours: Tree, path: str) -> Iterator[str]:
    """Yield what we declare, own no longer, and find different."""
    if isinstance(declared, dict):
        for name, value in declared.items():
            seen = observed.get(name) if isinstance(observed, dict) else None
            yield from _judged(value, seen, ours.get(f"f:{name}"), f"{path}.{name}".lstrip("."))
    elif isinstance(declared, list):
        items = [(json.loads(each[2:]), tree) for each, tree in ours.items() if each[:2] == "k:"]
        for item in declared:
            key, tree = next((each for each in items if _contains(item, each[0])), (item, None))
            yield from _judged(item, _find(observed, key), tree, f"{path}[{_title(key)}]")


def _judged(declared: Any, observed: Any, ours: Tree | None, path: str) -> Iterator[str]:
    if ours is None:
        if not _contains(observed, declared):
            yield path
    elif ours.keys() - {"."}:
        yield from _lost(declared, observed, ours, path)
    # Else it is owned as a whole: nobody has changed it.


def _find(items: Any, key: Any) -> Any:
    if not isinstance(items, list):
        return None
    return next((item for item in items if _contains(item, key)), None)


def _contains(observed: Any, wanted: Any) -> bool:
    """Return whether all that is wanted is there; a server's defaults may stand beside it."""
    if isinstance(wanted, dict):
        return isinstance(observed, dict) and all(
            _contains(observed.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(observed, list)
            and len(observed) == len(wanted)
            and all(map(_contains, observed, wanted))
        )
    return observed == wanted or _same_quantity(observed, wanted)


def _same_quantity(one: Any, other: Any) -> bool:
    """Return whether two texts are one quantity: a server makes 500m of 0.5."""
    try:
        return bool(parse_quantity(str(one)) == parse_quantity(str(other)))
    except ValueError:
        return False


def _title(key: Any) -> str:
    """Return what a person calls an item of a list by."""
    if not isinstance(key, dict):
        return str(key)
    return str(key.get("name") or next(iter(key.values()), ""))
