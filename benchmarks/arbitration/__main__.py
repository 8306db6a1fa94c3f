"""`make bench-arbitration`: every discipline, every workload; --quick: three models."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.arbitration import comparison, report


def main(quick: Annotated[bool, typer.Option(help="Three models, 9 s a swap.")] = False) -> None:
    """Simulate, print the table, write the plot and benchmarks/out/arbitration.json."""
    models, costs = ((3,), (9.0,)) if quick else (tuple(comparison.BOUNDS), comparison.COSTS)
    progress = Console(stderr=True)
    cases = list(comparison.scenarios(models, costs))
    rows = [
        row
        for case in track(cases, description="Simulating", console=progress)
        for row in comparison.compare(case)
    ]
    report.show(rows, Console(width=180))
    for path in report.write(rows):
        progress.print(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
