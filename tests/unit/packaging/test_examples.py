"""The manifests that people copy hold against the contract and against each other."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelserving_api import ModelServing
from modelserving_api.crd import custom_resource_definition
from modelserving_api.quantities import parse_quantity
from tests.unit.api import api_server
from tests.unit.packaging.chart import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SPEC_SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
    "properties"
]["spec"]
ALLOCATABLE_OF_L4 = parse_quantity("22Gi")


def manifest(path: Path) -> dict[str, Any]:
    """Return the ModelServing of an example."""
    documents = list(yaml.safe_load_all(path.read_text()))
    (found,) = (each for each in documents if each and each["kind"] == "ModelServing")
    assert isinstance(found, dict)
    return found


def test_there_is_an_example_for_the_l4_and_a_minimal_one() -> None:
    assert {path.name for path in EXAMPLES} >= {"l4.yaml", "minimal.yaml"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_by_server_and_operator(path: Path) -> None:
    found = manifest(path)
    assert found["apiVersion"] == "modelserving.dev/v1alpha1"
    assert api_server.problems(SPEC_SCHEMA, found["spec"]) == []
    serving = ModelServing.parse(found)
    assert serving.spec.default_model is not None


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_pins_nothing_and_demands_nothing(path: Path) -> None:
    """Git holds neither; other managers own them."""
    assert not {"activeModel", "requests"} & set(manifest(path)["spec"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_the_operator_sets_is_not_set_again(path: Path) -> None:
    spec = ModelServing.parse(manifest(path)).spec
    for args in (spec.engine.args, *(model.engine.args for model in spec.models)):
        names = {each.split("=")[0] for each in args}
        assert not names & {"--model", "--served-model-name", "--port", "--shutdown-timeout"}


def test_the_l4_example_has_the_three_variants() -> None:
    spec = ModelServing.parse(manifest(ROOT / "examples" / "l4.yaml")).spec
    sizes = {model.name: model.gpu_memory for model in spec.models}
    assert sizes == {"mistral": "7Gi", "coder": "11Gi", "llava": "20Gi"}
    for model in spec.models:
        assert model.source.host_path is not None
        assert model.source.host_path.path == f"/mnt/models/{model.name}"


def test_the_l4_example_takes_what_it_declares_and_no_more() -> None:
    spec = ModelServing.parse(manifest(ROOT / "examples" / "l4.yaml")).spec
    for model in spec.models:
        found = re.search(r"--gpu-memory-utilization=([0-9.]+)", " ".join(model.engine.args))
        assert found is not None
        taken = ALLOCATABLE_OF_L4 * Decimal(found[1])
        # Within 2 per cent: the flag has two digits.
        assert float(taken) == pytest.approx(float(parse_quantity(model.gpu_memory)), rel=0.02)


def test_the_volumes_that_are_mounted_exist() -> None:
    spec = ModelServing.parse(manifest(ROOT / "examples" / "l4.yaml")).spec
    volumes = {volume.name for volume in spec.engine.volumes}
    assert {mount.name for mount in spec.engine.volume_mounts} <= volumes
    claims = {
        each["metadata"]["name"]
        for each in yaml.safe_load_all((ROOT / "examples" / "l4.yaml").read_text())
        if each and each["kind"] == "PersistentVolumeClaim"
    }
    for volume in spec.engine.volumes:
        if volume.persistent_volume_claim is not None:
            assert volume.persistent_volume_claim.claim_name in claims
