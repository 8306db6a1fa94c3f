"""Which directories of this machine pip may look into, and so must the container."""

from pathlib import Path

from tests.harness.engines.vllm_cpu.dependencies import find_links


def test_local_directories_of_find_links_are_found_once(tmp_path: Path) -> None:
    listing = (
        f":env:.find-links='{tmp_path}'\n"
        f"global.find-links='file://{tmp_path} https://example.org/wheels'\n"
        f"global.index-url='file://{tmp_path}'\n"
    )
    assert find_links(listing) == [str(tmp_path)]


def test_a_machine_without_find_links_mounts_nothing() -> None:
    assert find_links("global.index-url='https://example.org/simple'\n") == []
    assert find_links("") == []
    assert find_links("global.find-links='/no/such/directory'\n") == []
