"""What the programs may do, and that it is what they have done: judged when all the rest has run.

By the API server's own account: its audit log, its roles and bindings. Runs last (conftest), and
says of a run of a part of the suite which part it was.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import pytest
import pytest_asyncio

from modelserving_api.names import SERVING_LABEL
from tests.cluster.conftest import Make, ready_pods, whole_suite
from tests.cluster.kubernetes import PODS, World
from tests.harness import audit, deploy, pod_security
from tests.harness.servings import SimModel, sim_modelserving

Permission = tuple[str, str, str]
"""API group, resource with its subresource, and verb."""

PROGRAMS: Final = deploy.PROGRAMS
POLICIES: Final = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
ROLES: Final = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles"
BINDINGS: Final = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
NAME: Final = "confined"


def account(world: World, program: str) -> str:
    """Return who a program is to the API server."""
    return f"system:serviceaccount:{world.namespace}:modelserving-{program}"


@pytest.fixture(scope="module")
def requests(world: World) -> Mapping[str, list[audit.Request]]:
    """What each program has asked of the API server since it was installed."""
    if world.cluster.provider == "existing":
        pytest.skip(f"{world.cluster.context!r} is somebody else's: its audit log is theirs")
    found: dict[str, list[audit.Request]] = {account(world, each): [] for each in PROGRAMS}
    made = world.cluster.kubectl(
        *("get", "namespace", world.namespace),
        "--output=jsonpath={.metadata.creationTimestamp}",
    )
    since = datetime.fromisoformat(made)
    for request in audit.requests(world.cluster.audit_directory, since=since):
        if request.user in found:
            found[request.user].append(request)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_that_a_program_asked_for_was_forbidden(
    world: World, requests: Mapping[str, list[audit.Request]], program: str
) -> None:
    asked = requests[account(world, program)]
    assert asked, "the audit log knows the program"
    assert [each for each in asked if each.forbidden] == []
    # All that is no discovery is in its own namespace.
    assert {each.namespace for each in asked if each.resource} == {world.namespace}


@pytest.mark.parametrize("program", PROGRAMS)
async def test_nothing_that_a_program_may_do_was_never_done(
    world: World,
    requests: Mapping[str, list[audit.Request]],
    program: str,
    request: pytest.FixtureRequest,
) -> None:
    granted = await permissions(world, f"modelserving-{program}")
    used = {
        permission
        for each in requests[account(world, program)]
        for permission in permissions_used(each)
    }
    unused = sorted(granted - used)
    ran = whole_suite(request.config)
    if not ran.whole:
        pytest.skip(f"judged only after the whole suite; {ran.said}. Not used so far: {unused}")
    assert unused == []


async def permissions(world: World, role: str) -> set[Permission]:
    """Return what a role of the namespace grants, as the API server has it."""
    (found,) = (each for each in await world.objects(ROLES) if each["metadata"]["name"] == role)
    return {
        (group, resource, verb)
        for rule in found["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def permissions_used(request: audit.Request) -> Iterator[Permission]:
    """Yield what a request needed. A server-side apply that makes an object needs two verbs."""
    yield request.group, request.resource, request.verb
    if request.verb == "patch" and request.status == 201:
        yield request.group, request.resource, "create"


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_has_no_permission_but_those_of_its_role(
    world: World, program: str
) -> None:
    """Whatever binding may have given it more: the API server lists what it may do."""
    role = await permissions(world, f"modelserving-{program}")
    everybody = await may_do(world, f"system:serviceaccount:{world.namespace}:nobody")
    its = await may_do(world, account(world, program))
    assert its - everybody == role
    for namespace in ("default", "kube-system"):
        elsewhere = await may_do(world, account(world, program), namespace)
        assert elsewhere == await may_do(
            world, f"system:serviceaccount:{world.namespace}:nobody", namespace
        )


async def may_do(world: World, user: str, namespace: str | None = None) -> set[Permission]:
    """Return what a service account may do in a namespace, by a review of the API server."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace or world.namespace},
    }
    groups = ("authenticated", "serviceaccounts", f"serviceaccounts:{world.namespace}")
    answer = await world.kubectl(
        *("create", "--filename", "-", "--output", "json", "--as", user),
        *(part for group in groups for part in ("--as-group", f"system:{group}")),
        input=json.dumps(review),
    )
    status = json.loads(answer)["status"]
    assert not status.get("incomplete"), status
    return {
        (group, resource, verb)
        for rule in status["resourceRules"]
        for group in rule.get("apiGroups", [""])
        for resource in rule.get("resources", [])
        for verb in rule["verbs"]
    }


async def test_no_binding_of_the_namespace_is_anybody_elses(world: World) -> None:
    bindings = await world.objects(BINDINGS)
    bound = {
        (binding["roleRef"]["kind"], binding["roleRef"]["name"], subject["name"])
        for binding in bindings
        for subject in binding["subjects"]
    }
    names = [f"modelserving-{program}" for program in PROGRAMS]
    assert bound == {("Role", name, name) for name in names}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(world: World, made: Make, sim_image: str) -> dict[str, Any]:
    """The Pod of a running engine."""
    await made(sim_modelserving(NAME, image=sim_image, models=(SimModel("mistral"),)))
    (pod,) = await world.engines(PODS, NAME)
    return pod


async def test_an_engine_has_no_token_of_a_service_account(
    world: World, engine: dict[str, Any]
) -> None:
    mounts = [
        mount["mountPath"]
        for container in engine["spec"]["containers"]
        for mount in container["volumeMounts"]
    ]
    assert TOKEN not in mounts
    assert not any("projected" in volume for volume in engine["spec"]["volumes"])
    look = ("sh", "-c", f"test -e {TOKEN} && echo token || echo none")
    name = engine["metadata"]["name"]
    assert (await world.kubectl("exec", name, "--", *look)).strip() == "none"


async def test_what_runs_fits_the_restricted_profile_but_for_the_engines_host_paths(
    world: World, engine: dict[str, Any]
) -> None:
    for program, count in (("operator", 1), ("gateway", 2)):
        await ready_pods(world, program, count)
    pods = await world.objects(PODS, "app.kubernetes.io/part-of=modelserving")
    assert len(pods) >= 3
    for pod in pods:
        assert pod_security.beyond_restricted(pod["spec"]) == [], pod["metadata"]["name"]
    # The lock that stands for the GPU is a directory of the node.
    assert pod_security.beyond_restricted(engine["spec"]) == ["volume gpu is a hostPath"]


async def test_every_process_runs_without_root_and_without_capabilities(
    world: World, engine: dict[str, Any]
) -> None:
    (operator,) = await ready_pods(world, "operator", 1)
    gateway, _ = await ready_pods(world, "gateway", 2)
    shown = await asyncio.gather(
        *(
            world.kubectl("exec", pod, "--", "cat", "/proc/1/status")
            for pod in (operator, gateway, engine["metadata"]["name"])
        )
    )
    for status in shown:
        fields = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
        assert "0" not in fields["Uid"].split()
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        assert fields["NoNewPrivs"] == "1"


async def test_the_policies_are_in_force_for_the_pods_that_run(
    world: World, engine: dict[str, Any]
) -> None:
    """That they are enforced is the network's part, which this cluster's may not do."""
    policies = {each["metadata"]["name"]: each["spec"] for each in await world.objects(POLICIES)}
    assert set(policies) == {f"modelserving-{each}" for each in ("engine", *PROGRAMS)}
    selector = policies["modelserving-engine"]["podSelector"]["matchLabels"]
    protected = await world.objects(PODS, as_query(selector))
    assert engine["metadata"]["name"] in {each["metadata"]["name"] for each in protected}
    assert all(SERVING_LABEL in each["metadata"]["labels"] for each in protected)
    ((rule,), ((port,),)) = (
        policies["modelserving-engine"]["ingress"],
        [[each["containerPort"] for each in engine["spec"]["containers"][0]["ports"]]],
    )
    assert [each["port"] for each in rule["ports"]] == [port]
    (peer,) = rule["from"]
    let_in = await world.objects(PODS, as_query(peer["podSelector"]["matchLabels"]))
    programs = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in let_in}
    assert set(PROGRAMS) <= programs
    assert not any(SERVING_LABEL in each["metadata"]["labels"] for each in let_in)


def as_query(labels: Mapping[str, str]) -> str:
    """Return labels as a selector of the API."""
    return ",".join(f"{key}={value}" for key, value in labels.items())
