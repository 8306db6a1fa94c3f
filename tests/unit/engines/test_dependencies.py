"""What pip is told about packages here, the container that installs vLLM must be told too."""

from pathlib import Path

from tests.harness.engines.vllm_cpu.dependencies import pip_configuration


def test_local_find_links_are_mounted_and_named_once(tmp_path: Path) -> None:
    listing = (
        f":env:.find-links='{tmp_path}'\n"
        f"global.find-links='file://{tmp_path}\\nhttps://example.org/wheels'\n"
    )
    settings = pip_configuration(listing, {"PIP_FIND_LINKS": str(tmp_path)})
    assert settings.folders == (str(tmp_path),)
    assert settings.text.endswith(f"find-links = {tmp_path} https://example.org/wheels\n")


def test_an_index_is_passed_on_and_a_local_one_is_not(tmp_path: Path) -> None:
    listing = f"global.extra-index-url='https://example.org/simple file://{tmp_path}'\n"
    settings = pip_configuration(listing, {})
    assert settings.folders == ()
    assert settings.text == "[global]\nextra-index-url = https://example.org/simple\n"


def test_a_machine_that_says_nothing_leaves_pip_to_its_defaults() -> None:
    assert pip_configuration("", {}).text == "[global]\n"


def test_a_directory_that_is_not_there_is_not_mounted() -> None:
    settings = pip_configuration("global.find-links='/no/such/directory'\n", {})
    assert settings.folders == ()
    assert "find-links" not in settings.text
