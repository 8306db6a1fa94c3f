"""Programs that fail are told about in one sentence."""

from pathlib import Path

import pytest

from tests.harness.errors import HarnessError
from tests.harness.process import CommandError, run


def test_the_output_of_a_program_is_returned() -> None:
    assert run(["sh", "-c", "cat; echo $X"], input="in ", env={"X": "1"}) == "in 1\n"


def test_a_failure_tells_the_status_and_the_last_lines() -> None:
    with pytest.raises(CommandError, match=r"status 3:\nwhy") as caught:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.output == "why\n"


def test_only_the_end_of_a_long_output_is_told_and_the_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "seq 1000; exit 1"], log=log)
    assert str(log) in str(caught.value)
    assert "\n1000" in str(caught.value)
    assert "\n100\n" not in str(caught.value)
    assert log.read_text().startswith("1\n2\n")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(CommandError, match="did not end within"):
        run(["sleep", "60"], timeout=0.1)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(HarnessError, match="no program no-such-program"):
        run(["no-such-program"])
