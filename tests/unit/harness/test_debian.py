"""What the harness reads from Debian's tools, and what it says where Debian is not."""

import os
import shutil

import pytest

from tests.harness import debian
from tests.harness.errors import HarnessError


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "debian bookworm"),
        ('# a=b\nVERSION_CODENAME="noble"\nID=ubuntu\n', "ubuntu noble"),
        ("ID='alpine'\n", "alpine unknown"),
        ("", "unknown unknown"),
    ],
)
def test_the_release_is_read_from_os_release(text: str, release: str) -> None:
    assert debian.release_of(text) == release


def test_the_archive_is_the_one_apt_is_configured_with() -> None:
    rows = (
        "Google|Cloud|cloud-sdk|http://elsewhere/apt/\n"
        "Debian|Debian-Security|bookworm-security|http://mirror/security/\n"
        "Debian|Debian|bookworm-updates|http://mirror/debian/\n"
        "Debian|Debian|bookworm|http://mirror/debian/\n"
    )
    assert debian.archive_among(rows) == "http://mirror/debian"


def test_an_apt_without_debian_has_no_archive() -> None:
    assert debian.archive_among("Ubuntu|Ubuntu|noble|http://mirror/ubuntu/\n") is None


def test_without_apt_the_error_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(HarnessError, match="baking needs flour, water"):
        debian.require_packages(("flour", "water"), "baking")


def test_without_root_the_error_is_the_command_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(debian, "missing", lambda packages: ["flour"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HarnessError, match=r"apt-get install flour$"):
        debian.require_packages(("flour", "water"), "baking")


def test_on_another_system_the_error_offers_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_this_release", lambda: "ubuntu noble")
    with pytest.raises(HarnessError, match=r"ubuntu noble.*MODELSERVING_TEST_CONTEXT"):
        debian.require_release("Docker cannot pull")
