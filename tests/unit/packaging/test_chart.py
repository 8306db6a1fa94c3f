"""What the chart installs, and that it grants and opens nothing more."""

import json
from typing import Any

import pytest
import yaml
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings

from modelserving_gateway.settings import Settings as GatewaySettings
from modelserving_operator.settings import Settings as OperatorSettings
from tests.harness import pod_security, tools
from tests.harness.process import CommandError, run
from tests.unit.packaging.chart import CHART, NAMESPACE, ROOT, notes, of_kind, pod_specs, render

READ = {"list", "watch"}

GRANTED = {
    "modelserving-operator": {
        ("modelserving.dev", "modelservings"): READ | {"get", "patch"},
        ("modelserving.dev", "modelservings/status"): {"patch"},
        ("apps", "deployments"): READ | {"create", "patch", "delete"},
        ("", "services"): READ | {"create", "patch", "delete"},
        ("", "pods"): READ,
        ("", "pods/log"): {"get"},
        ("", "events"): {"create", "list"},
    },
    "modelserving-gateway": {
        ("modelserving.dev", "modelservings"): READ | {"patch"},
    },
}


def environment(name: str, *settings: str) -> dict[str, Any]:
    """Return the plain environment variables of a program's only container."""
    (container,) = dict(pod_specs(render(*settings)))[name]["containers"]
    return {each["name"]: each.get("value") for each in container["env"]}


def test_helm_lint_has_nothing_to_say() -> None:
    run([tools.helm(), "lint", "--strict", CHART])


def test_exactly_these_objects_are_installed() -> None:
    installed = sorted((each["kind"], each["metadata"]["name"]) for each in render())
    both = ["modelserving-gateway", "modelserving-operator"]
    assert installed == sorted(
        [("PodDisruptionBudget", "modelserving-gateway")]
        + [
            (kind, name)
            for kind in ("Deployment", "Role", "RoleBinding", "Service", "ServiceAccount")
            for name in both
        ]
        + [("NetworkPolicy", name) for name in (*both, "modelserving-engine")]
    )


def test_exactly_these_permissions_are_granted() -> None:
    granted: dict[str, dict[tuple[str, str], set[str]]] = {}
    for name, role in of_kind(render(), "Role").items():
        rules = granted.setdefault(name, {})
        for rule in role["rules"]:
            assert set(rule) == {"apiGroups", "resources", "verbs"}
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    assert (group, resource) not in rules, "one rule for each resource"
                    rules[group, resource] = set(rule["verbs"])
    assert granted == GRANTED


def test_each_program_is_bound_to_its_own_role_alone() -> None:
    for name, binding in of_kind(render(), "RoleBinding").items():
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": name,
        }
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
        ]


def test_only_the_two_programs_get_a_token() -> None:
    for account in of_kind(render(), "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    for name, pod in pod_specs(render()):
        assert pod["automountServiceAccountToken"] is True
        assert pod["serviceAccountName"] == name


def test_pods_fit_the_restricted_pod_security_standard() -> None:
    keys = "gateway.apiKeys.existingSecret=model-keys"
    for settings in ((), ("runAsUser=null",), (keys,)):
        for name, pod in pod_specs(render(*settings)):
            assert pod_security.beyond_restricted(pod) == [], name


def test_pods_run_as_nobody_and_write_nowhere() -> None:
    for name, pod in pod_specs(render()):
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
            65532,
            65532,
        )
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert "volumes" not in pod, name


def test_a_cluster_may_hand_out_user_ids() -> None:
    for _, pod in pod_specs(render("runAsUser=null")):
        assert not {"runAsUser", "runAsGroup"} & set(pod["securityContext"])
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_there_is_one_operator_and_never_two() -> None:
    operator = of_kind(render(), "Deployment")["modelserving-operator"]
    assert operator["spec"]["replicas"] == 1
    assert operator["spec"]["strategy"] == {"type": "Recreate"}


def test_gateways_are_replaced_one_by_one() -> None:
    gateway = of_kind(render("gateway.replicas=3"), "Deployment")["modelserving-gateway"]
    assert gateway["spec"]["replicas"] == 3
    assert gateway["spec"]["strategy"]["type"] == "RollingUpdate"
    assert gateway["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_gateway_has_its_whole_budget_for_finishing() -> None:
    pods = dict(pod_specs(render("gateway.shutdownTimeoutSeconds=120")))
    grace = pods["modelserving-gateway"]["terminationGracePeriodSeconds"]
    variables = environment("modelserving-gateway", "gateway.shutdownTimeoutSeconds=120")
    assert grace > int(variables["MODELSERVING_SHUTDOWN_TIMEOUT_SECONDS"]) == 120


def test_services_inject_no_environment() -> None:
    """A Service called modelserving would set MODELSERVING_PORT=tcp://…"""
    for name, pod in pod_specs(render()):
        assert pod["enableServiceLinks"] is False, name


def test_every_container_has_resources_and_probes() -> None:
    for name, pod in pod_specs(render()):
        (container,) = pod["containers"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports, name
    gateway = dict(pod_specs(render()))["modelserving-gateway"]["containers"][0]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_selectors_select_the_right_pods_and_never_change_with_the_version() -> None:
    objects = render()
    deployments, services = of_kind(objects, "Deployment"), of_kind(objects, "Service")
    for name, deployment in deployments.items():
        selector = deployment["spec"]["selector"]["matchLabels"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert selector.items() <= labels.items()
        assert services[name]["spec"]["selector"] == selector
        assert selector == {
            "app.kubernetes.io/name": "modelserving",
            "app.kubernetes.io/instance": "release",
            "app.kubernetes.io/component": name.removeprefix("modelserving-"),
        }


def test_services_have_the_ports_that_people_know() -> None:
    ports = {
        name: service["spec"]["ports"][0]["port"]
        for name, service in of_kind(render(), "Service").items()
    }
    assert ports == {"modelserving-gateway": 8080, "modelserving-operator": 8888}


def test_a_node_port_is_given_to_the_gateway_alone() -> None:
    objects = render("gateway.service.type=NodePort", "gateway.service.nodePort=30080")
    services = of_kind(objects, "Service")
    assert services["modelserving-gateway"]["spec"]["type"] == "NodePort"
    assert services["modelserving-gateway"]["spec"]["ports"][0]["nodePort"] == 30080
    assert services["modelserving-operator"]["spec"]["type"] == "ClusterIP"


def test_big_numbers_reach_the_programs_as_integers() -> None:
    """Helm reads numbers of YAML as floats: 33554432 would become 3.3554432e+07."""
    variables = environment("modelserving-gateway")
    assert variables["MODELSERVING_MAX_BODY_BYTES"] == "33554432"
    assert variables["MODELSERVING_MAX_HELD_BYTES"] == "268435456"
    assert variables["MODELSERVING_PORT"] == "8080"


NOT_IN_THE_CHART = {
    "host",  # a Pod listens on all of its addresses
    # Bounds that nobody has a reason to change but a test that must not wait for them.
    "api_timeout_seconds",
    "blocked_after_seconds",
    "watch_seconds",
    "watch_silence_seconds",
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("modelserving-operator", OperatorSettings), ("modelserving-gateway", GatewaySettings)],
)
def test_every_setting_of_a_program_is_set_once_and_to_its_own_default(
    name: str, settings: type[BaseSettings]
) -> None:
    """A name that only one of the two sides knows would be ignored in silence."""
    fields = {
        f"MODELSERVING_{field.upper()}": info.default
        for field, info in settings.model_fields.items()
        if field not in NOT_IN_THE_CHART
    }
    variables = environment(name)
    assert set(variables) == set(fields)
    for variable, value in variables.items():
        if value is not None:
            assert value == str(fields[variable]), variable


def test_a_gateway_renews_its_demand_before_the_operator_drops_it() -> None:
    renew = int(environment("modelserving-gateway")["MODELSERVING_RENEW_SECONDS"])
    expiry = int(environment("modelserving-operator")["MODELSERVING_DEMAND_EXPIRY_SECONDS"])
    assert expiry >= 3 * renew


def test_names_come_from_the_pod_itself() -> None:
    for name, pod in pod_specs(render()):
        sources = {
            each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
            for each in pod["containers"][0]["env"]
            if "valueFrom" in each
        }
        assert sources["MODELSERVING_NAMESPACE"] == "metadata.namespace", name
        if name == "modelserving-gateway":
            assert sources["MODELSERVING_POD_NAME"] == "metadata.name"


@pytest.mark.parametrize(
    ("kubernetes", "version"), [("1.20.2", "v1beta1"), ("1.24.0", "v1"), ("v1.34.2-gke.1", "v1")]
)
def test_the_disruption_budget_has_a_version_that_the_server_knows(
    kubernetes: str, version: str
) -> None:
    budgets = of_kind(render(kubernetes=kubernetes), "PodDisruptionBudget")
    assert budgets["modelserving-gateway"]["apiVersion"] == f"policy/{version}"


def test_one_gateway_alone_has_no_disruption_budget() -> None:
    assert of_kind(render("gateway.replicas=1"), "PodDisruptionBudget") == {}


@pytest.mark.parametrize("kubernetes", ["1.19.16", "1.25.0", "1.28.15"])
def test_a_server_that_would_refuse_the_crd_is_refused_first(kubernetes: str) -> None:
    with pytest.raises(CommandError, match="kubeVersion"):
        render(kubernetes=kubernetes)


def test_the_crd_comes_with_the_chart() -> None:
    crds = of_kind(render(crds=True), "CustomResourceDefinition")
    assert crds["modelservings.modelserving.dev"] == yaml.safe_load(
        (ROOT / "crds" / "modelserving.yaml").read_text()
    )


def test_placement_and_pull_secrets_reach_the_pods() -> None:
    objects = render(
        "imagePullSecrets[0].name=registry",
        "operator.nodeSelector.disk=ssd",
        "gateway.tolerations[0].key=edge",
        "gateway.tolerations[0].operator=Exists",
        "gateway.podAnnotations.team=inference",
    )
    pods = dict(pod_specs(objects))
    for pod in pods.values():
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pods["modelserving-operator"]["nodeSelector"] == {"disk": "ssd"}
    assert pods["modelserving-gateway"]["tolerations"] == [{"key": "edge", "operator": "Exists"}]
    template = of_kind(objects, "Deployment")["modelserving-gateway"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"team": "inference"}


def test_without_keys_nothing_is_mounted_and_the_notes_say_that_all_may_ask() -> None:
    pod = dict(pod_specs(render()))["modelserving-gateway"]
    assert environment("modelserving-gateway")["MODELSERVING_KEYS_FILE"] == ""
    assert "volumeMounts" not in pod["containers"][0]
    assert "API keys are off" in notes()


def test_keys_come_from_a_secret_as_a_directory_that_follows_its_changes() -> None:
    setting = ("gateway.apiKeys.existingSecret=model-keys", "gateway.apiKeys.key=keys.yaml")
    pod = dict(pod_specs(render(*setting)))["modelserving-gateway"]
    file = environment("modelserving-gateway", *setting)["MODELSERVING_KEYS_FILE"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert "subPath" not in mount, "a file that is mounted by itself never changes"
    assert mount["readOnly"] is True
    assert file == f"{mount['mountPath']}/keys.yaml"
    (volume,) = pod["volumes"]
    assert volume["secret"] == {
        "secretName": "model-keys",
        "items": [{"key": "keys.yaml", "path": "keys.yaml"}],
    }
    assert "optional" not in volume["secret"]
    assert "API keys are off" not in notes(*setting)
    assert "model-keys" in notes(*setting)


def test_nobody_may_read_secrets_even_with_keys() -> None:
    objects = render("gateway.apiKeys.existingSecret=model-keys")
    assert of_kind(objects, "Role") == of_kind(render(), "Role")


def test_a_label_selector_narrows_what_a_gateway_serves() -> None:
    setting = "gateway.labelSelector=team in (search\\,ads)\\,tier!=test"
    variables = environment("modelserving-gateway", setting)
    assert variables["MODELSERVING_LABEL_SELECTOR"] == "team in (search,ads),tier!=test"


def test_prometheus_is_told_nothing_unless_asked() -> None:
    for deployment in of_kind(render(), "Deployment").values():
        assert "annotations" not in deployment["spec"]["template"]["metadata"]
    assert of_kind(render(), "PodMonitor") == {}


def test_scrape_annotations_name_each_programs_own_page() -> None:
    objects = render("metrics.scrapeAnnotations=true", "gateway.podAnnotations.team=inference")
    for name, deployment in of_kind(objects, "Deployment").items():
        template = deployment["spec"]["template"]
        (port,) = template["spec"]["containers"][0]["ports"]
        annotations = template["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/path"] == "/metrics"
        assert annotations["prometheus.io/port"] == str(port["containerPort"])
        assert annotations.get("team") == ("inference" if "gateway" in name else None)


def test_pod_monitors_select_the_pods_and_name_a_port_that_they_have() -> None:
    objects = render(
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.interval=15s",
        "metrics.podMonitor.labels.release=prometheus",
    )
    monitors = of_kind(objects, "PodMonitor")
    deployments = of_kind(objects, "Deployment")
    assert set(monitors) == set(deployments)
    for name, monitor in monitors.items():
        template = deployments[name]["spec"]["template"]
        assert monitor["spec"]["selector"] == deployments[name]["spec"]["selector"]
        (port,) = template["spec"]["containers"][0]["ports"]
        assert monitor["spec"]["podMetricsEndpoints"] == [
            {"port": port["name"], "path": "/metrics", "interval": "15s"}
        ]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("gateway.replica=3", "replica"),
        ("gateway.replicas=many", "replicas"),
        ("gateway.replicas=-1", "replicas"),
        ("operator.replicas=2", "replicas"),
        ("operator.logLevel=loud", "logLevel"),
        ("gateway.service.type=ExternalName", "type"),
        ("gateway.service.nodePort=70000", "nodePort"),
        ("gateway.image.tag=a b", "tag"),
        ("gateway.image.repository=", "repository"),
        ("gateway.renewSeconds=0", "renewSeconds"),
        ("gateway.maxBodyBytes=1.5", "maxBodyBytes"),
        ("gateways.replicas=3", "gateways"),
        ("gateway.resources.request.cpu=1", "request"),
        ("gateway.podDisruptionBudget.enabled=maybe", "enabled"),
        ("gateway.keepaliveSeconds=0", "keepaliveSeconds"),
        ("gateway.keepaliveSeconds=11", "keepaliveSeconds"),
        ("gateway.holdGraceSeconds=-1", "holdGraceSeconds"),
        ("gateway.maxInFlight=0", "maxInFlight"),
        ("gateway.maxHeaderBytes=10", "maxHeaderBytes"),
        ("gateway.apiKeys.existingSecret=Not A Name", "existingSecret"),
        ("gateway.apiKeys.key=a/b", "key"),
        ("gateway.apiKeys.keys=abc", "keys"),
        ("metrics.podMonitor.interval=often", "interval"),
        ("metrics.serviceMonitor.enabled=true", "serviceMonitor"),
        ("networkPolicy.metricsFrom[0].pods=all", "pods"),
        ("networkPolicy.enginesFrom[0].ipBlock.except=10.0.0.0/8", "cidr"),
    ],
)
def test_a_bad_value_is_refused_by_name(setting: str, named: str) -> None:
    with pytest.raises(CommandError, match=named):
        render(setting)


@pytest.mark.parametrize(
    ("program", "settings", "own"),
    [
        ("operator", OperatorSettings, {"namespace": "models"}),
        ("gateway", GatewaySettings, {"namespace": "models", "pod_name": "gateway-0"}),
    ],
)
def test_no_number_that_the_chart_takes_is_refused_by_the_program(
    program: str, settings: type[BaseSettings], own: dict[str, str]
) -> None:
    """It would be seen only as a Pod that crashes."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"][program]["properties"]
    numbers = {
        field: known[to_camel(field)]
        for field in settings.model_fields
        if known.get(to_camel(field), {}).get("type") == "integer"
    }
    assert len(numbers) >= 2
    for field, bounds in numbers.items():
        for bound in ("minimum", "maximum"):
            if bound in bounds:
                settings.model_validate({**own, field: bounds[bound]})


def test_every_value_is_explained_or_named_by_its_schema() -> None:
    """values.yaml has no key that the schema does not know: the defaults themselves render."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == {
        "imagePullSecrets",
        "runAsUser",
        "operator",
        "gateway",
        "metrics",
        "networkPolicy",
    }
    render()
