"""The harness's manifests hold against the contract, and its values reach the chart."""

from typing import Any

import pytest

from modelserving_api import ModelServing
from tests.harness import deploy
from tests.harness.cluster import GPU_IN_NODE
from tests.harness.deploy import Images
from tests.harness.servings import (
    CODER,
    EMBEDDER,
    LLAVA,
    MISTRAL,
    SimModel,
    sim_modelserving,
    vllm_cpu_modelserving,
)
from tests.unit.packaging.chart import pod_specs, render


@pytest.mark.parametrize(
    "manifest",
    [
        sim_modelserving("sim", image="engine-sim:1"),
        sim_modelserving("none", image="engine-sim:1", default_model=None),
        vllm_cpu_modelserving("real", image="engine-vllm-cpu:1"),
    ],
    ids=lambda manifest: manifest["metadata"]["name"],
)
def test_a_manifest_of_the_harness_holds(manifest: dict[str, Any]) -> None:
    serving = ModelServing.parse(manifest)
    assert [model.name for model in serving.spec.models] == ["mistral", "coder", "llava"]
    assert serving.spec.node.node_selector == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    mounted = {mount.mount_path for mount in serving.spec.engine.volume_mounts}
    assert GPU_IN_NODE in mounted, "the oracle sees every engine"


def test_the_real_engine_may_serve_a_model_that_embeds_beside_the_three() -> None:
    models = (MISTRAL, CODER, LLAVA, EMBEDDER)
    manifest = vllm_cpu_modelserving("real", image="engine-vllm-cpu:1", models=models)
    serving = ModelServing.parse(manifest)
    assert [model.name for model in serving.spec.models] == [model.name for model in models]
    args = {model.name: model.engine.args for model in serving.spec.models}
    assert "--tool-call-parser" in args["mistral"]
    assert "--runner" in args["embedder"]


def test_a_models_own_behaviour_goes_over_what_all_do() -> None:
    manifest = sim_modelserving(
        "sim",
        image="engine-sim:1",
        models=(SimModel("mistral", env={"SIM_FAULT": "crash"}),),
        env={"SIM_LOAD_SECONDS": "2"},
    )
    spec = ModelServing.parse(manifest).spec
    assert {each.name: each.value for each in spec.engine.env} == {"SIM_LOAD_SECONDS": "2"}
    assert [each.name for each in spec.models[0].engine.env] == ["SIM_FAULT"]


def test_values_are_merged_and_the_given_ones_win() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert deploy.merged(base, {"a": {"c": [3]}, "e": {"f": 5}}) == {
        "a": {"b": 1, "c": [3]},
        "d": 4,
        "e": {"f": 5},
    }
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_the_built_images_are_what_is_deployed() -> None:
    built = Images(operator="modelserving/operator:abc", gateway="modelserving/gateway:def")
    values = deploy.chart_values(built, {"gateway": {"replicas": 1}})
    settings = [
        f"{program}.image.{field}={values[program]['image'][field]}"
        for program in deploy.PROGRAMS
        for field in ("repository", "tag")
    ]
    images = {name: pod["containers"][0]["image"] for name, pod in pod_specs(render(*settings))}
    assert images == {
        "modelserving-operator": "modelserving/operator:abc",
        "modelserving-gateway": "modelserving/gateway:def",
    }
    assert values["gateway"]["replicas"] == 1
