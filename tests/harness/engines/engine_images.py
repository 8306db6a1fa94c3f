"""The engines' images, built by the harness. What is in them lies in the engines' directories."""

from pathlib import Path

from tests.harness import images
from tests.harness.engines.vllm_cpu import dependencies

_HERE = Path(__file__).parent


def build_sim() -> str:
    """Build the stand-in's image unless it is there; returns its tag."""
    return images.build(
        "engine-sim",
        dockerfile=_HERE / "sim" / "Dockerfile",
        context=_HERE / "sim",
        build_args={"BASE_IMAGE": images.base_image()},
    )


def build_vllm_cpu() -> str:
    """Build the image of the real vLLM on a CPU unless it is there; returns its tag."""
    return images.build(
        "engine-vllm-cpu",
        dockerfile=_HERE / "vllm_cpu" / "Dockerfile",
        context=_HERE,
        build_args={"BASE_IMAGE": dependencies.build()},
    )
