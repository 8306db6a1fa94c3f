"""Who may connect to whom, as far as the rendered policies tell."""

from typing import Any, Final

import pytest

from modelserving_operator import manifests
from tests.unit.operator.world import serving, spec
from tests.unit.packaging.chart import Manifest, notes, of_kind, render

ANY_PROMETHEUS: Final = (
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
)
MONITORING: Final = {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}


def policy(component: str, *settings: str) -> dict[str, Any]:
    """Return the spec of one of the policies."""
    spec: dict[str, Any] = of_kind(render(*settings), "NetworkPolicy")[f"modelserving-{component}"][
        "spec"
    ]
    assert spec["policyTypes"] == ["Ingress"], "the API server and the hub must be reached"
    return spec


def engine_labels() -> dict[str, str]:
    """Return the labels of an engine's Pod."""
    parsed = serving(spec())
    template = manifests.deployment(parsed, parsed.spec.models[0], 1)["spec"]["template"]
    labels: dict[str, str] = template["metadata"]["labels"]
    return labels


def pod_labels(program: str) -> dict[str, str]:
    """Return the labels of a program's Pods."""
    deployment = of_kind(render(), "Deployment")[f"modelserving-{program}"]
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return labels


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Tell whether a selector with nothing but matchLabels selects a Pod."""
    assert set(selector) == {"matchLabels"}
    return bool(selector["matchLabels"].items() <= labels.items())


def test_each_policy_is_for_its_own_pods_alone() -> None:
    labels = {
        "engine": engine_labels(),
        "operator": pod_labels("operator"),
        "gateway": pod_labels("gateway"),
    }
    for component in labels:
        selector = policy(component)["podSelector"]
        selected = [each for each, its in labels.items() if selects(selector, its)]
        assert selected == [component]


def test_only_gateway_and_operator_reach_the_engines_and_only_where_they_listen() -> None:
    (rule,) = policy("engine")["ingress"]
    assert rule["ports"] == [{"port": manifests.ENGINE_PORT, "protocol": "TCP"}]
    (peer,) = rule["from"]
    assert set(peer) == {"podSelector"}, "of this namespace"
    assert selects(peer["podSelector"], pod_labels("gateway"))
    assert selects(peer["podSelector"], pod_labels("operator"))
    assert not selects(peer["podSelector"], engine_labels())


def test_nobody_reads_the_operators_page_but_who_scrapes_metrics() -> None:
    assert policy("operator")["ingress"] == []
    (rule,) = policy("operator", *ANY_PROMETHEUS)["ingress"]
    assert rule == {"from": [MONITORING], "ports": [{"port": 8888, "protocol": "TCP"}]}
    (rule,) = policy("engine", *ANY_PROMETHEUS)["ingress"]
    assert rule["from"][1:] == [MONITORING]


def test_everybody_may_ask_the_gateway_until_somebody_is_named() -> None:
    (rule,) = policy("gateway", *ANY_PROMETHEUS)["ingress"]
    assert rule == {"ports": [{"port": 8080, "protocol": "TCP"}]}
    named = "networkPolicy.gatewayFrom[0].podSelector.matchLabels.app=chat"
    (rule,) = policy("gateway", *ANY_PROMETHEUS, named)["ingress"]
    # Whoever scrapes metrics is not forgotten over it: they are on the same port.
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "chat"}}}, MONITORING]


def test_engines_are_opened_to_others_on_demand() -> None:
    block = "networkPolicy.enginesFrom[0].ipBlock.cidr=10.0.0.0/8"
    (rule,) = policy("engine", block)["ingress"]
    assert rule["from"][1:] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]


@pytest.mark.parametrize("asked", ["metrics.scrapeAnnotations", "metrics.podMonitor.enabled"])
def test_a_prometheus_that_would_be_shut_out_in_silence_is_told_of(asked: str) -> None:
    told = "name\nyour Prometheus in networkPolicy.metricsFrom"
    assert told in notes(f"{asked}=true")
    assert told not in notes()
    assert told not in notes(f"{asked}=true", *ANY_PROMETHEUS)
    assert told not in notes(f"{asked}=true", "networkPolicy.enabled=false")


@pytest.mark.parametrize("settings", [("networkPolicy.enabled=false", *ANY_PROMETHEUS)])
def test_there_are_none_where_they_are_not_wanted(settings: tuple[str, ...]) -> None:
    assert of_kind(render(*settings), "NetworkPolicy") == {}
