"""The folders never become packages that would shadow other modules."""

import operator
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["operator", "gateway", "crds"])
def test_an_import_root_is_never_a_package(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_import_operator_is_the_standard_librarys() -> None:
    assert operator.add(1, 2) == 3
    assert not Path(str(operator.__file__)).is_relative_to(ROOT / "operator")


def test_import_operator_is_the_standard_librarys_when_started_in_the_checkout() -> None:
    """The current folder comes first on the path then, so a package there would win."""
    program = "import operator; print(operator.__file__)"
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not Path(ran.stdout.strip()).is_relative_to(ROOT / "operator")
