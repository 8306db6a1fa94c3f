"""Where a benchmark leaves its figures: benchmarks/out/NAME.json, beside the table it prints."""

import json
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).parent / "out"


def write(name: str, figures: dict[str, Any]) -> Path:
    """Write the figures of one benchmark and return the file's path."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    return path
