"""The bugs of others that docs/lessons.md says are tested here are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_lessons_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "lessons.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= defined, named - defined
