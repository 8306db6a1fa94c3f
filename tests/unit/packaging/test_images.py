"""The Dockerfiles and skaffold.yaml, as far as they can be judged without building.

That the images build and run is what the cluster tests show.
"""

import json
import tomllib
from typing import Any

import pytest
import yaml

from tests.unit.packaging.chart import CHART, ROOT, render

PROGRAMS = ("operator", "gateway")


def instructions(program: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, continued lines joined."""
    text = (ROOT / program / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    return [(name, arguments) for name, arguments in pairs]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_base_is_an_argument_and_every_stage_uses_it(program: str) -> None:
    steps = instructions(program)
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE_IMAGE=python:3.11-slim")
    bases = [arguments.split()[0] for name, arguments in steps if name == "FROM"]
    assert bases == ["${BASE_IMAGE}", "dependencies", "${BASE_IMAGE}"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_runs_as_a_numbered_user_and_the_program_is_pid_1(program: str) -> None:
    final = instructions(program)
    assert ("USER", "65532:65532") in final
    name, arguments = final[-1]
    assert name == "ENTRYPOINT"
    assert json.loads(arguments) == [f"/opt/program/bin/modelserving-{program}"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_dependencies_come_from_the_lock_file_with_hashes(program: str) -> None:
    installs = [
        part.strip()
        for name, arguments in instructions(program)
        if name == "RUN"
        for part in arguments.split("&&")
        if "pip install" in part
    ]
    assert len(installs) == 2
    assert f"--require-hashes -r /build/requirements/{program}.lock" in installs[0]
    assert "--no-deps" in installs[1]
    assert (ROOT / "requirements" / f"{program}.lock").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_needs_buildkit(program: str) -> None:
    text = (ROOT / program / "Dockerfile").read_text()
    assert "--mount" not in text
    assert "<<" not in text
    assert "# syntax" not in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_copied_exists(program: str) -> None:
    for name, arguments in instructions(program):
        if name == "COPY" and "--from" not in arguments:
            *sources, _ = arguments.split()
            assert all((ROOT / source).exists() for source in sources), arguments


def test_a_program_does_not_carry_the_other() -> None:
    for program, other in (PROGRAMS, reversed(PROGRAMS)):
        assert not any(
            f"modelserving_{other}" in arguments
            for name, arguments in instructions(program)
            if name == "COPY"
        )


def skaffold() -> dict[str, Any]:
    """Return skaffold.yaml."""
    loaded = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_skaffold_builds_both_images() -> None:
    artifacts = {
        each["image"]: each["docker"]["dockerfile"] for each in skaffold()["build"]["artifacts"]
    }
    assert artifacts == {f"modelserving/{each}": f"{each}/Dockerfile" for each in PROGRAMS}
    assert all((ROOT / dockerfile).exists() for dockerfile in artifacts.values())


def test_skaffold_deploys_the_chart_with_the_images_it_built() -> None:
    (release,) = skaffold()["deploy"]["helm"]["releases"]
    assert (ROOT / release["chartPath"]).resolve() == CHART
    for path, template in release["setValueTemplates"].items():
        program, _, field = path.split(".")
        part = {"repository": "REPO", "tag": "TAG"}[field]
        assert template == f"{{{{.IMAGE_{part}_modelserving_{program}}}}}"
        render(f"{path}=x")  # the chart knows the value


def test_the_charts_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
