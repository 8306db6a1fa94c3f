"""The host's view of the GPU locks of a node with several GPUs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.engines import gpu_lock
from tests.harness.engines.sim.gpu import Gpu, GpuInUseError, Holder

MISTRAL = Holder("mistral-pod", "mistral", 1)
CODER = Holder("coder-pod", "coder", 2)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's directory with a second GPU below it."""
    gpu_lock.prepare(tmp_path / "second")
    return gpu_lock.prepare(tmp_path)


@pytest.fixture
def holds_second(node: Path) -> Iterator[Gpu]:
    """Mistral's hold of the second GPU."""
    gpu = Gpu(node / "second", MISTRAL)
    gpu.acquire()
    yield gpu
    gpu.release()


def test_two_engines_on_two_gpus_are_no_violation(node: Path, holds_second: Gpu) -> None:
    first = Gpu(node, CODER)
    first.acquire()
    first.release()
    assert gpu_lock.violations(node) == []
    assert [line.split(" ", 1)[1] for line in gpu_lock.history(node)] == [
        "acquired mistral (mistral-pod)",
        "acquired coder (coder-pod)",
        "released coder (coder-pod)",
    ]


def test_a_violation_on_any_gpu_is_one_of_the_node(node: Path, holds_second: Gpu) -> None:
    with pytest.raises(GpuInUseError):
        Gpu(node / "second", CODER).acquire()
    (violation,) = gpu_lock.violations(node)
    assert (violation.holder, violation.intruder) == (MISTRAL, CODER)
    gpu_lock.reset(node)
    assert gpu_lock.violations(node) == []
    assert gpu_lock.history(node) == []
