"""What the API server notes of the product's requests: its policy, its flags, and reading it.

Pure but for reading the log. Which requests should be there is for tests to judge.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

DIRECTORY_IN_NODE: Final = "/var/lib/modelserving-audit"
"""In the control plane: a directory of this machine, so that the log is read without docker."""

_POLICY_FILE: Final = "policy.yaml"
_LOG_FILE: Final = "audit.log"

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


def requests(directory: Path) -> Iterator[Request]:
    """Yield every request that the log knows, oldest file first.

    Raises FileNotFoundError when there is no log: no requests would be good news otherwise.
    """
    # Files that were rotated away are called audit-TIME.log: they stand before audit.log.
    files = [*sorted(directory.glob("audit-*.log")), directory / _LOG_FILE]
    for file in files:
        with file.open() as lines:
            for line in lines:
                # The last line may be half written.
                if line.endswith("\n"):
                    yield Request.parse(json.loads(line))
