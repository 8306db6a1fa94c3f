"""What kind is asked for."""

from pathlib import Path

import pytest
import yaml

from tests.harness import audit, cluster, kind
from tests.harness.errors import HarnessError
from tests.harness.paths import cluster_name

AUDIT = Path("/cache/audit")


def test_the_worker_is_the_gpu_node_and_sees_the_mounts() -> None:
    mounts = [kind.Mount(Path("/cache/models"), "/mnt/models", read_only=True)]
    document = kind.config("name", mounts=mounts, audit_directory=AUDIT, gateway_port=8080)
    control_plane, worker = document["nodes"]
    assert worker["labels"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert worker["extraMounts"] == [
        {"hostPath": "/cache/models", "containerPath": "/mnt/models", "readOnly": True}
    ]
    assert "labels" not in control_plane


def test_the_api_server_writes_its_log_where_this_machine_reads_it() -> None:
    document = kind.config("name", mounts=[], audit_directory=AUDIT, gateway_port=8080)
    control_plane, worker = document["nodes"]
    (mount,) = control_plane["extraMounts"]
    assert (mount["hostPath"], mount["readOnly"]) == ("/cache/audit", False)
    assert worker["extraMounts"] == []
    patch = yaml.safe_load(control_plane["kubeadmConfigPatches"][0])
    # kind fits a patch without apiVersion to whatever version kubeadm speaks.
    assert "apiVersion" not in patch
    server = patch["apiServer"]
    (volume,) = server["extraVolumes"]
    assert volume["hostPath"] == volume["mountPath"] == mount["containerPath"]
    for flag in ("audit-policy-file", "audit-log-path"):
        assert server["extraArgs"][flag].startswith(f"{mount['containerPath']}/")
    assert all(isinstance(value, str) for value in server["extraArgs"].values())


def test_a_kubelet_does_not_take_a_minute_to_make_up_for_what_it_has_missed() -> None:
    document = kind.config("name", mounts=[], audit_directory=AUDIT, gateway_port=8080)
    (patch,) = document["kubeadmConfigPatches"]
    assert yaml.safe_load(patch) == {"kind": "KubeletConfiguration", "syncFrequency": "5s"}


def test_a_cluster_with_another_audit_policy_is_another_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    handle = cluster._handle("name")
    before = cluster._specification(handle, "image")
    assert cluster._specification(handle, "image") == before
    monkeypatch.setattr(audit, "POLICY", {**audit.POLICY, "rules": []})
    assert cluster._specification(handle, "image") != before


def test_the_gateway_is_published_on_the_loopback_address_only() -> None:
    document = kind.config("name", mounts=[], audit_directory=AUDIT, gateway_port=18080)
    assert document["nodes"][0]["extraPortMappings"] == [
        {"containerPort": 30080, "hostPort": 18080, "listenAddress": "127.0.0.1"}
    ]


@pytest.mark.parametrize("name", ["modelserving", "a", "two-nodes.1"])
def test_a_cluster_may_be_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVING_CLUSTER", name)
    assert cluster_name() == name


@pytest.mark.parametrize("name", ["Upper", "-dash", "a/b", "../up", "a b", "x" * 49])
def test_a_name_that_kind_would_refuse_is_refused_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSERVING_CLUSTER", name)
    with pytest.raises(HarnessError, match="MODELSERVING_CLUSTER"):
        cluster_name()


def test_the_gateways_port_is_8080_unless_named() -> None:
    assert cluster.gateway_port({}) == 8080
    assert cluster.gateway_port({"MODELSERVING_GATEWAY_PORT": "9000"}) == 9000


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "80 80"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="MODELSERVING_GATEWAY_PORT"):
        cluster.gateway_port({"MODELSERVING_GATEWAY_PORT": text})
