"""Somebody else's changes are told from defaults, from other ways to write, and from our own."""

import copy
from typing import Any

from modelserving_operator.departures import FIELD_MANAGER, departures, ownership

DECLARED: dict[str, Any] = {
    "replicas": 0,
    "strategy": {"type": "Recreate"},
    "template": {
        "metadata": {"annotations": {"modelserving.dev/spec-hash": "1"}},
        "spec": {
            "containers": [
                {
                    "name": "engine",
                    "image": "vllm:1",
                    "args": ["--model", "x"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "resources": {"requests": {"cpu": "0.5"}},
                }
            ]
        },
    },
}


def owned_by_apply(value: Any) -> dict[str, Any]:
    """Return the fields that a server notes for what was applied: lists of named things by name."""
    if isinstance(value, dict):
        return {f"f:{name}": owned_by_apply(each) for name, each in value.items()}
    if isinstance(value, list) and isinstance(value[0], dict):
        return {
            f'k:{{"name":"{item["name"]}"}}': {".": {}, **owned_by_apply(item)} for item in value
        }
    return {}


class Server:
    """An object as a server keeps it after our apply; `edit` is what another manager does to it."""

    def __init__(self) -> None:
        self.spec = copy.deepcopy(DECLARED)
        self.spec["progressDeadlineSeconds"] = 600
        self.container["terminationMessagePath"] = "/dev/termination-log"
        self.container["resources"]["requests"]["cpu"] = "500m"
        self.ours = owned_by_apply(DECLARED)

    @property
    def container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["template"]["spec"]["containers"][0]
        return found

    @property
    def our_container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ours["f:template"]["f:spec"]["f:containers"]
        return found['k:{"name":"engine"}']  # type: ignore[no-any-return]

    def departures(self) -> tuple[str, ...]:
        entries = [
            {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": self.ours}},
            {"manager": FIELD_MANAGER, "operation": "Update", "fieldsV1": {"f:spec": {}}},
            {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:spec": {}}},
        ]
        body = {"metadata": {"managedFields": entries}, "spec": self.spec}
        return departures(DECLARED, ownership(body))


ENGINE = "template.spec.containers[engine]"


def test_defaults_and_quantities_in_the_servers_own_words_are_nobodys_change() -> None:
    assert Server().departures() == ()


def test_a_changed_field_is_told_by_its_path() -> None:
    server = Server()
    server.container["image"] = "vllm:2"
    del server.our_container["f:image"]

    assert server.departures() == (f"{ENGINE}.image",)


def test_a_field_that_another_manager_sets_to_the_same_value_is_no_change() -> None:
    server = Server()
    del server.our_container["f:image"]
    del server.our_container["f:resources"]

    assert server.departures() == ()


def test_a_list_that_grew_is_a_change() -> None:
    server = Server()
    server.container["args"].append("--trust-remote-code")
    del server.our_container["f:args"]

    assert server.departures() == (f"{ENGINE}.args",)


def test_what_others_add_is_theirs() -> None:
    """An annotation, a variable, a node selector: fields that nobody but they declare."""
    server = Server()
    server.container["env"].append({"name": "C", "value": "3"})
    server.spec["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now"
    server.spec["template"]["spec"]["nodeSelector"] = {"zone": "a"}

    assert server.departures() == ()


def test_what_was_taken_away_is_told_though_nobody_owns_it() -> None:
    server = Server()
    del server.container["env"][0]
    del server.our_container["f:env"]['k:{"name":"A"}']

    assert server.departures() == (f"{ENGINE}.env[A]",)


def test_a_rewrite_by_admission_is_not_fought() -> None:
    """The server notes what we have applied as ours, whatever a webhook makes of it."""
    server = Server()
    server.container["image"] = "mirror/vllm:1"

    assert server.departures() == ()


def test_scaling_is_not_an_edit() -> None:
    server = Server()
    server.spec["replicas"] = 1
    del server.ours["f:replicas"]

    assert server.departures() == ()


def test_of_an_object_without_owners_nothing_is_said() -> None:
    body = {"metadata": {}, "spec": {"replicas": 3}}

    assert departures(DECLARED, ownership(body)) == ()
