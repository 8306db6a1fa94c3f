"""pip's configuration inside images: where packages come from, not where they lie here."""

from tests.harness.base_image import pip_configuration


def test_indexes_are_kept_and_paths_of_this_machine_are_not() -> None:
    listing = (
        "global.index-url='https://index.example/simple'\n"
        "global.extra-index-url='file:///srv/simple https://more.example/simple'\n"
        "global.find-links='/srv/wheels'\n"
        "global.constraint='/etc/constraints.txt'\n"
    )
    assert pip_configuration(listing, {}) == (
        "[global]\n"
        "extra-index-url = https://more.example/simple\n"
        "index-url = https://index.example/simple\n"
    )


def test_several_indexes_on_lines_of_their_own_are_all_kept() -> None:
    listing = "global.extra-index-url='https://a.example\\nfile:///srv\\nhttps://b.example'\n"
    assert "extra-index-url = https://a.example https://b.example\n" in pip_configuration(
        listing, {}
    )


def test_the_environment_wins_over_files_as_it_does_for_pip() -> None:
    listing = "global.index-url='https://file.example'\n"
    environment = {"PIP_INDEX_URL": "https://environment.example"}
    assert "index-url = https://environment.example\n" in pip_configuration(listing, environment)


def test_a_machine_with_pips_defaults_needs_no_configuration() -> None:
    assert pip_configuration("", {}) == ""
    assert pip_configuration("global.find-links='/srv/wheels'\n", {}) == ""
