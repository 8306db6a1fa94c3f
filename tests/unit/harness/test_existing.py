"""Tests run on the harness's own cluster or on one named on purpose, and on no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.harness import cluster, existing
from tests.harness.errors import HarnessError


def _kubeconfig(contexts: dict[str, str], current: str = "") -> str:
    return yaml.safe_dump(
        {
            "clusters": [
                {"name": name, "cluster": {"server": url}} for name, url in contexts.items()
            ],
            "contexts": [{"name": name, "context": {"cluster": name}} for name in contexts],
            "current-context": current,
        }
    )


def test_a_kind_cluster_on_this_machine_is_accepted() -> None:
    text = _kubeconfig({"kind-modelserving": "https://127.0.0.1:40000"})
    existing.refuse_foreign(text, "kind-modelserving")


@pytest.mark.parametrize(
    ("context", "server"),
    [
        ("production", "https://127.0.0.1:40000"),
        ("kind-modelserving", "https://10.1.2.3:6443"),
        ("kind-modelserving", "https://127.0.0.1.example.com:6443"),
    ],
)
def test_any_other_cluster_is_refused_with_the_way_to_allow_it(context: str, server: str) -> None:
    with pytest.raises(HarnessError, match=f"MODELSERVING_TEST_CONTEXT={context}"):
        existing.refuse_foreign(_kubeconfig({context: server}), context)


def test_a_context_that_has_gone_is_refused() -> None:
    with pytest.raises(HarnessError, match="no context"):
        existing.refuse_foreign(_kubeconfig({"other": "https://127.0.0.1:1"}), "kind-modelserving")


def test_the_current_context_of_a_kubeconfig_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "config"
    foreign.write_text(_kubeconfig({"production": "https://10.0.0.1"}, current="production"))
    monkeypatch.setenv("KUBECONFIG", str(foreign))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELSERVING_TEST_CONTEXT", raising=False)
    with pytest.raises(HarnessError, match="there is no cluster"):
        cluster.find()


def test_a_named_context_is_found_in_any_file_of_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text(_kubeconfig({"a": "https://a"}))
    other.write_text(_kubeconfig({"b": "https://b"}))
    monkeypatch.setenv("KUBECONFIG", f"{one}:{tmp_path / 'absent'}:{other}")
    assert existing.kubeconfig_of("b") == other


def test_a_named_context_that_is_nowhere_is_an_error_that_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(HarnessError, match=r"'c'.*config"):
        existing.kubeconfig_of("c")


def test_the_first_node_with_a_gpu_is_the_worker() -> None:
    nodes = [
        {"metadata": {"name": "cpu"}, "status": {"allocatable": {"cpu": "4"}}},
        {"metadata": {"name": "gpu"}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}},
    ]
    assert existing.gpu_node(nodes, "nvidia.com/gpu", "c") == "gpu"
    with pytest.raises(HarnessError, match="no node"):
        existing.gpu_node(nodes[:1], "nvidia.com/gpu", "c")


@pytest.mark.parametrize(
    ("variable", "ask"),
    [
        (existing.LOAD_VARIABLE, existing.load_command),
        (existing.DIRECTORY_VARIABLE, existing.shared_directory),
    ],
)
def test_what_only_the_person_can_know_is_asked_for_by_name(
    variable: str, ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(HarnessError, match=variable):
        ask()


def test_a_shared_directory_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(existing.DIRECTORY_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(HarnessError, match=existing.DIRECTORY_VARIABLE):
        existing.shared_directory()
    monkeypatch.setenv(existing.DIRECTORY_VARIABLE, str(tmp_path))
    assert existing.shared_directory() == tmp_path
