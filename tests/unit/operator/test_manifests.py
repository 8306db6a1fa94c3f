"""The Deployment and Service of a model: every switch that a bug of others taught us."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_operator import manifests
from modelserving_operator.observation import SPEC_HASH_ANNOTATION
from tests.unit.operator.world import model, serving, spec


def deployment(replicas: int = 0, **fields: Any) -> dict[str, Any]:
    parsed = serving(spec(**fields))
    return manifests.deployment(parsed, parsed.spec.models[0], replicas)


def pod_spec(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = deployment(**fields)["spec"]["template"]["spec"]
    return found


def container(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod_spec(**fields)["containers"][0]
    return found


def test_a_new_pod_never_waits_for_the_old_one_to_give_up_the_gpu() -> None:
    assert deployment()["spec"]["strategy"] == {"type": "Recreate"}


def test_an_engine_asks_for_exactly_one_gpu() -> None:
    resources = container()["resources"]

    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert resources["requests"]["nvidia.com/gpu"] == "1"


def test_the_scheduler_places_no_engine_beside_another_one_of_the_same_modelserving() -> None:
    template = deployment()["spec"]["template"]
    affinity = template["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    selected = term["labelSelector"]["matchLabels"]

    assert selected.items() <= template["metadata"]["labels"].items()
    assert "modelserving.dev/model" not in selected


def test_service_links_cannot_break_vllm() -> None:
    assert pod_spec()["enableServiceLinks"] is False


def test_an_engine_has_no_token_no_root_and_no_capability() -> None:
    pod = pod_spec()

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_grace_is_longer_than_drain_and_shutdown_together() -> None:
    pod = pod_spec(
        swap={"drainTimeoutSeconds": 100},
        engine={"image": "vllm:test", "shutdownTimeoutSeconds": 50},
    )

    assert pod["terminationGracePeriodSeconds"] > 150
    args = pod["containers"][0]["args"]
    assert args[args.index("--shutdown-timeout") + 1] == "50"


def test_the_startup_probe_outlasts_the_load_budget() -> None:
    longest = 86_400
    fields = model("mistral", loadTimeoutSeconds=longest)
    probe = container(models=[fields])["startupProbe"]

    assert probe["failureThreshold"] * probe["periodSeconds"] > longest


@pytest.mark.parametrize(
    "fields",
    [
        {"swap": {"drainTimeoutSeconds": 7}},
        {"models": [model("mistral", loadTimeoutSeconds=7)]},
        {"models": [model("mistral", holdTimeoutSeconds=7, aliases=["seven"])]},
    ],
)
def test_another_budget_or_alias_is_no_reason_to_restart_what_runs(fields: dict[str, Any]) -> None:
    before, after = serving(spec()), serving(spec(**fields))

    hashes = [manifests.spec_hash(each, each.spec.models[0]) for each in (before, after)]
    assert hashes[0] == hashes[1]


def test_shared_memory_and_weights_are_mounted_and_weights_are_read_only() -> None:
    mounts = {each["mountPath"]: each for each in container()["volumeMounts"]}

    assert "/dev/shm" in mounts
    assert mounts["/mnt/models/mistral"]["readOnly"] is True


def test_the_hub_is_never_asked_when_the_weights_are_here() -> None:
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container()["env"]


def test_hub_weights_need_no_volume_and_keep_their_revision() -> None:
    hub = {"name": "mistral", "gpuMemory": "7Gi", "source": {"hub": {"id": "a/b", "revision": "r"}}}
    spec_ = pod_spec(models=[hub])

    args = spec_["containers"][0]["args"]
    assert args[args.index("--model") + 1] == "a/b"
    assert args[args.index("--revision") + 1] == "r"
    assert "weights" not in {volume["name"] for volume in spec_["volumes"]}


def test_weights_on_a_claim_are_mounted_where_vllm_looks() -> None:
    claim = {"claimName": "weights", "subPath": "mistral-7b"}
    source = {"persistentVolumeClaim": claim}
    found = container(models=[{"name": "mistral", "gpuMemory": "7Gi", "source": source}])

    mounted = next(each for each in found["volumeMounts"] if each["name"] == "weights")
    assert mounted["subPath"] == "mistral-7b"
    assert found["args"][1] == mounted["mountPath"]


def test_a_models_own_settings_come_after_the_defaults_and_win() -> None:
    engine = {
        "image": "default:1",
        "args": ["--max-model-len", "2048"],
        "env": [{"name": "A", "value": "default"}, {"name": "B", "value": "default"}],
    }
    own = {
        "image": "own:1",
        "args": ["--quantization", "awq"],
        "env": [{"name": "A", "value": "own"}],
    }
    found = container(engine=engine, models=[model("mistral", engine=own)])

    assert found["image"] == "own:1"
    assert found["args"][-4:] == ["--max-model-len", "2048", "--quantization", "awq"]
    env = {each["name"]: each.get("value") for each in found["env"]}
    assert (env["A"], env["B"]) == ("own", "default")


def test_the_entrypoint_of_the_image_stays_unless_a_command_is_given() -> None:
    assert "command" not in container()
    assert container(engine={"image": "x", "command": ["python", "-m", "vllm"]})["command"] == [
        "python",
        "-m",
        "vllm",
    ]


def test_a_secret_volume_is_spelled_as_core_v1_does() -> None:
    volumes = [{"name": "token", "secret": {"name": "hub-token"}}]
    found = pod_spec(engine={"image": "x", "volumes": volumes})["volumes"]

    assert {"name": "token", "secret": {"secretName": "hub-token"}} in found


def test_the_owner_is_the_model_serving_so_that_deleting_it_leaves_nothing() -> None:
    (owner,) = deployment()["metadata"]["ownerReferences"]

    assert (owner["kind"], owner["name"], owner["controller"]) == ("ModelServing", "l4", True)


def test_scaling_does_not_change_the_hash_and_changing_the_pod_does() -> None:
    def hash_of(body: dict[str, Any]) -> str:
        found: str = body["metadata"]["annotations"][SPEC_HASH_ANNOTATION]
        return found

    assert hash_of(deployment(0)) == hash_of(deployment(1))
    changed = deployment(engine={"image": "vllm:test", "args": ["--seed", "1"]})
    assert hash_of(deployment()) != hash_of(changed)


def test_demand_and_pins_do_not_change_the_hash() -> None:
    entry = {"requester": "a", "renewTime": "2026-01-01T00:00:00Z", "models": []}
    asked = serving(spec(requests=[entry], activeModel="coder", defaultModel="llava"))
    plain = serving(spec())

    assert manifests.spec_hash(asked, asked.spec.models[0]) == manifests.spec_hash(
        plain, plain.spec.models[0]
    )


@given(
    st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,60}[a-z0-9])?\Z"),
    st.from_regex(r"\A[a-z]([-a-z0-9]{0,38}[a-z0-9])?\Z"),
)
def test_every_object_name_is_a_dns_label(serving_name: str, model_name: str) -> None:
    name = manifests.object_name(serving_name, model_name)

    assert len(name) <= 63
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


@pytest.mark.parametrize(
    ("one", "other"), [(("a.b", "c"), ("a-b", "c")), (("a" * 40, "b" * 40), ("a" * 40, "b" * 39))]
)
def test_names_that_had_to_change_do_not_collide(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert manifests.object_name(*one) != manifests.object_name(*other)


def test_an_engine_is_not_ended_because_its_kubelet_is_away() -> None:
    own = {"key": "gpu", "operator": "Exists"}
    tolerations = pod_spec(node={"gpuMemory": "24Gi", "tolerations": [own]})["tolerations"]

    assert own in tolerations
    for_ever = [each["key"] for each in tolerations if each.get("effect") == "NoExecute"]
    assert for_ever == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    assert not any("tolerationSeconds" in each for each in tolerations)


@pytest.mark.parametrize(
    ("path", "kind"), [("/mnt/models/x", "Directory"), ("/mnt/models/q4.gguf", "File")]
)
def test_the_kubelet_refuses_weights_on_the_host_that_are_not_there(path: str, kind: str) -> None:
    source = {"hostPath": {"path": path}}
    pod = pod_spec(models=[{"name": "mistral", "gpuMemory": "7Gi", "source": source}])

    assert {"path": path, "type": kind} in [each.get("hostPath") for each in pod["volumes"]]
