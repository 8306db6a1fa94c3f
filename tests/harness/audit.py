"""What the API server notes of the product's requests: its policy, its flags, and reading it.

Pure but for reading the log. Which requests should be there is for tests to judge.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from os.path import sameopenfile
from pathlib import Path
from typing import Any, Final

import yaml

from tests.harness.errors import HarnessError

DIRECTORY_IN_NODE: Final = "/var/lib/modelserving-audit"
"""In the control plane: a directory of this machine, so that the log is read without docker."""

_POLICY_FILE: Final = "policy.yaml"
_LOG_FILE: Final = "audit.log"
_ROTATED: Final = "audit-*.log"

_MEGABYTES: Final = 100
_OLD_FILES: Final = 1
"""An entry has 1 kB and a whole run of the cluster tests some 10,000 of them: one file is enough,
and a cluster that is kept for weeks does not fill the disk."""

_DECISION: Final = "authorization.k8s.io/decision"

# Programs of the cluster itself, which have service accounts, too.
_SYSTEM_NAMESPACES: Final = ("kube-system", "local-path-storage")

POLICY: Final[dict[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # A request is judged by its answer.
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "userGroups": [f"system:serviceaccounts:{each}" for each in _SYSTEM_NAMESPACES],
        },
        # Namespaces of tests have names of chance, and a policy knows no patterns.
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def kubeadm_patch() -> str:
    """Return the patch of kubeadm's configuration that makes the API server write the log.

    Without an apiVersion: kind then fits it to whatever version kubeadm speaks.
    """
    return yaml.safe_dump(
        {
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": {
                    "audit-policy-file": f"{DIRECTORY_IN_NODE}/{_POLICY_FILE}",
                    "audit-log-path": f"{DIRECTORY_IN_NODE}/{_LOG_FILE}",
                    "audit-log-maxsize": str(_MEGABYTES),
                    "audit-log-maxbackup": str(_OLD_FILES),
                },
                "extraVolumes": [
                    {
                        "name": "audit",
                        "hostPath": DIRECTORY_IN_NODE,
                        "mountPath": DIRECTORY_IN_NODE,
                        "readOnly": False,
                        "pathType": "Directory",
                    }
                ],
            },
        }
    )


def prepare(directory: Path) -> None:
    """Put the policy where the API server of a new cluster reads it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _POLICY_FILE).write_text(yaml.safe_dump(POLICY))


@dataclass(frozen=True)
class Request:
    """One request for an object that the API server has answered."""

    user: str
    verb: str
    group: str
    resource: str
    """With its subresource, as a role names it: `modelservings/status`."""
    namespace: str
    status: int
    uri: str
    forbidden: bool
    """Refused for want of a permission. Admission says 403 as well, of a quota for example."""

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> "Request":
        """Read one event of the log."""
        target = event.get("objectRef") or {}
        resource = "/".join(
            target[part] for part in ("resource", "subresource") if target.get(part)
        )
        return cls(
            user=event["user"]["username"],
            verb=event["verb"],
            group=target.get("apiGroup", ""),
            resource=resource,
            namespace=target.get("namespace", ""),
            status=(event.get("responseStatus") or {}).get("code", 0),
            uri=event["requestURI"],
            forbidden=(event.get("annotations") or {}).get(_DECISION) == "forbid",
        )


def requests(directory: Path, *, since: datetime) -> Iterator[Request]:
    """Yield every request that the log knows, oldest file first.

    Raises FileNotFoundError when there is no log, and HarnessError when some of what was asked
    after `since` may be in it no more: no requests would be good news otherwise.
    """
    with ExitStack() as opened:
        # First: if it is rotated away from now on, it is still the one that is read.
        current = opened.enter_context((directory / _LOG_FILE).open())
        # Files that were rotated away are called audit-TIME.log.
        rotated = [opened.enter_context(each.open()) for each in sorted(directory.glob(_ROTATED))]
        earlier = [each for each in rotated if not sameopenfile(each.fileno(), current.fileno())]
        events = _events([*earlier, current])
        first = next(events, None)
        if len(rotated) >= _OLD_FILES and (first is None or _received(first) > since):
            raise HarnessError(
                f"{directory} has lost requests of after {since}: make the cluster anew "
                "(python -m tests.harness down, then up) and run the tests again"
            )
        for event in chain([first] if first else [], events):
            yield Request.parse(event)


def _events(files: Iterable[Iterable[str]]) -> Iterator[Mapping[str, Any]]:
    for line in chain.from_iterable(files):
        # The last line may be half written.
        if line.endswith("\n"):
            yield json.loads(line)


def _received(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["requestReceivedTimestamp"])
