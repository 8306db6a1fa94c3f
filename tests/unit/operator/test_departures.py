"""Somebody else's changes are told from defaults, from other ways to write, and from our own."""

import copy
from typing import Any

import pytest

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
        self.theirs: dict[str, Any] = {}
        self.manager = "kubectl-edit"

    @property
    def container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["template"]["spec"]["containers"][0]
        return found

    @property
    def our_container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ours["f:template"]["f:spec"]["f:containers"]
        return found['k:{"name":"engine"}']  # type: ignore[no-any-return]

    def own(self, **fields: Any) -> None:
        """Let the other manager own fields of the container."""
        inside = {f"f:{name}": tree for name, tree in fields.items()}
        containers = {'k:{"name":"engine"}': inside}
        self.theirs = {"f:template": {"f:spec": {"f:containers": containers}}}

    def departures(self) -> tuple[str, ...]:
        entries = [
            {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": self.ours}},
            {"manager": self.manager, "operation": "Update", "fieldsV1": {"f:spec": self.theirs}},
            {"manager": "kube-controller-manager", "fieldsV1": {"f:status": {}}, "operation": "U"},
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
    server.own(image={})

    assert server.departures() == (f"{ENGINE}.image",)


def test_a_field_that_another_manager_sets_to_the_same_value_is_no_change() -> None:
    server = Server()
    server.own(image={}, resources={"f:requests": {"f:cpu": {}}})
    del server.our_container["f:image"]
    del server.our_container["f:resources"]

    assert server.departures() == ()


def test_a_list_that_grew_is_a_change() -> None:
    server = Server()
    server.container["args"].append("--trust-remote-code")
    del server.our_container["f:args"]
    server.own(args={})

    assert server.departures() == (f"{ENGINE}.args",)


def test_an_added_item_and_an_added_field_are_told() -> None:
    server = Server()
    server.container["env"].append({"name": "C", "value": "3"})
    server.own(env={'k:{"name":"C"}': {".": {}, "f:name": {}, "f:value": {}}}, tty={})

    assert server.departures() == (f"{ENGINE}.env[C]", f"{ENGINE}.tty")


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


@pytest.mark.parametrize(
    "theirs",
    [
        {"f:replicas": {}},
        {
            "f:template": {
                "f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}
            }
        },
    ],
)
def test_scaling_and_rollout_restart_are_not_edits(theirs: dict[str, Any]) -> None:
    server = Server()
    server.theirs = theirs

    assert server.departures() == ()


def test_controllers_of_kubernetes_write_what_is_theirs() -> None:
    server = Server()
    server.manager = "kube-controller-manager"
    server.theirs = {"f:paused": {}}

    assert server.departures() == ()


def test_of_an_object_without_owners_nothing_is_said() -> None:
    body = {"metadata": {}, "spec": {"replicas": 3}}

    assert departures(DECLARED, ownership(body)) == ()
