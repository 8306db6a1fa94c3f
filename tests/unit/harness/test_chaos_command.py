"""`make chaos` says where it is, and makes nothing where it cannot be."""

import pytest
from typer.testing import CliRunner

from tests.chaos import __main__ as command
from tests.harness.errors import HarnessError


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done, in its order; the run itself is refused."""

    def up() -> None:
        told.append("up")
        raise HarnessError("that is as far as it goes")

    told: list[str] = []
    monkeypatch.setattr("tests.harness.cluster.up", up)
    monkeypatch.setattr(command, "note", told.append)
    return told


def test_a_cluster_of_somebody_else_is_refused_before_anything_is_made(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSERVING_TEST_CONTEXT", "production")
    result = CliRunner().invoke(command.app, ["--rounds", "1"])
    assert "unset MODELSERVING_TEST_CONTEXT" in str(result.exception)
    assert done == []


def test_the_first_line_says_which_cluster_and_which_namespace(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELSERVING_TEST_CONTEXT", raising=False)
    monkeypatch.setenv("MODELSERVING_CLUSTER", "another")
    monkeypatch.setattr(command, "new_namespace", lambda: "modelserving-chaos-1")
    CliRunner().invoke(command.app, ["--rounds", "1"])
    assert "modelserving-chaos-1" in done[0]
    assert "another" in done[0]
    assert done[-1] == "up"
