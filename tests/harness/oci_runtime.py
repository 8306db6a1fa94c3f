"""A runc that can do without CAP_SYS_RESOURCE, for machines where that capability is missing.

There every privileged container fails with "unable to apply caps". Docker is started with
this program as its default runtime: it takes out of the bundle what cannot be granted, then
becomes runc. Standard library only: it runs once for each container and each `docker exec`,
with `python -I -S`.
"""

import json
import os
import sys
from typing import Any

_CAPABILITY = "CAP_SYS_RESOURCE"

# Global options of runc that are followed by a value (runc(8)); a subcommand is the first
# argument that is neither an option nor such a value.
_VALUED = {"--log", "--log-format", "--root", "--criu", "--rootless"}


def without_sys_resource(process: dict[str, Any]) -> dict[str, Any]:
    """Return an OCI `process` object that asks for nothing CAP_SYS_RESOURCE is needed for.

    Raising a resource limit or lowering the OOM score needs it too, so both are dropped.
    """
    kept = {key: value for key, value in process.items() if key not in ("rlimits", "oomScoreAdj")}
    capabilities = process.get("capabilities")
    if capabilities:
        kept["capabilities"] = {
            name: [one for one in (granted or []) if one != _CAPABILITY]
            for name, granted in capabilities.items()
        }
    return kept


def document_to_filter(argv: list[str]) -> tuple[str, str] | None:
    """Return (path, kind) of the JSON file a runc command line reads, or None.

    kind is "bundle" for a config.json with a `process` member, "process" for a bare one.
    """
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in _VALUED and rest:
            rest.pop(0)
    if not rest:
        return None
    command, rest = rest[0], rest[1:]
    if command in ("create", "run"):
        return os.path.join(_value(rest, "--bundle", "-b") or os.getcwd(), "config.json"), "bundle"
    if command == "exec":
        path = _value(rest, "--process", "-p")
        return (path, "process") if path else None
    return None


def _value(arguments: list[str], *names: str) -> str | None:
    for index, argument in enumerate(arguments):
        name, separator, value = argument.partition("=")
        if name in names:
            if separator:
                return value
            return arguments[index + 1] if index + 1 < len(arguments) else None
    return None


def filter_document(path: str, kind: str) -> None:
    """Rewrite a bundle's config.json or a process file in place, atomically."""
    with open(path) as source:
        document = json.load(source)
    if kind == "process":
        document = without_sys_resource(document)
    elif document.get("process"):
        document["process"] = without_sys_resource(document["process"])
    # Beside the original, so that the rename stays within one file system.
    temporary = f"{path}.filtered"
    with open(temporary, "w") as target:
        json.dump(document, target)
    os.replace(temporary, path)


def main() -> None:
    """Filter what runc would read, then become runc."""
    found = document_to_filter(sys.argv[1:])
    if found:
        filter_document(*found)
    os.execvp("runc", ["runc", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
