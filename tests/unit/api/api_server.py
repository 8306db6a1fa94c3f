"""What a current API server does with an object of our CRD: schema, list types, CEL rules.

A stand-in, so that the rules are really evaluated where no server that knows CEL can run; the
cluster tests meet a real server. Source: k8s.io/apiextensions-apiserver, pkg/apiserver/schema.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import celpy
import jsonschema
from celpy import celtypes

_CEL = celpy.Environment()


def problems(schema: dict[str, Any], value: Any) -> list[str]:
    """Return why the server refuses the value; empty when it stores it."""
    # Rules and list types are looked at only when the shape holds, as the server does.
    by_shape = [
        f"{each.json_path}: {each.message}"
        for each in jsonschema.Draft202012Validator(_strict_ends(schema)).iter_errors(value)
    ]
    return by_shape or [*_list_problems(schema, value, "$"), *_rule_problems(schema, value, "$")]


def _strict_ends(schema: Any) -> Any:
    r"""Go's `$` is the end of the text; Python's also stands before a last line break."""
    if isinstance(schema, list):
        return [_strict_ends(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: re.sub(r"\$$", r"\\Z", value)
        if key == "pattern" and isinstance(value, str)
        else _strict_ends(value)
        for key, value in schema.items()
    }


def _list_problems(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        kind = schema.get("x-kubernetes-list-type")
        keys = schema.get("x-kubernetes-list-map-keys", [])
        entries = [[each.get(key) for key in keys] if kind == "map" else each for each in value]
        for index, entry in enumerate(entries):
            if kind in ("map", "set") and entry in entries[:index]:
                yield f"{path}[{index}]: duplicate value {entry}"
    for child, part, place in _children(schema, value, path):
        yield from _list_problems(child, part, place)


def _rule_problems(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    for each in schema.get("x-kubernetes-validations", []):
        if not _holds(each["rule"], value):
            yield f"{path}: {each['message']}"
    for child, part, place in _children(schema, value, path):
        yield from _rule_problems(child, part, place)


def _children(
    schema: dict[str, Any], value: Any, path: str
) -> Iterator[tuple[dict[str, Any], Any, str]]:
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield schema["items"], part, f"{path}[{index}]"
    if isinstance(value, dict):
        for name, part in value.items():
            child = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if child is not None:
                yield child, part, f"{path}.{name}"


def _holds(rule: str, value: Any) -> bool:
    program = _CEL.program(
        _CEL.compile(rule), functions={"quantity": _Quantity, "compareTo": _compare}
    )
    return bool(program.evaluate({"self": celpy.json_to_cel(value)}))


_SUFFIXES = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6, "m": -1}


class _Quantity(celtypes.StringType):  # type: ignore[misc]
    """Written apart from modelserving_api.quantities, so that the two check each other."""

    def amount(self) -> Decimal:
        digits = str(self).rstrip("kMGTPEim")
        suffix = str(self)[len(digits) :]
        base = 1024 if suffix.endswith("i") else 1000
        return Decimal(digits) * Decimal(base) ** _SUFFIXES[suffix.removesuffix("i")]


def _compare(left: _Quantity, right: _Quantity) -> celtypes.IntType:
    return celtypes.IntType((left.amount() > right.amount()) - (left.amount() < right.amount()))
