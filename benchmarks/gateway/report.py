"""The one table, the plot and the JSON of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.gateway.proxies import NAMES

_COLUMNS: Final = (
    ("json_c1", "p50_ms", "1 client\np50 ms"),
    ("json_c1", "p99_ms", "\np99 ms"),
    ("json_c64", "rps", "64 clients\nrequests/s"),
    ("stream_full", "chunks_per_s", "32 streams\nchunks/s"),
    ("stream_paced", "p99_gap_ms", "100 at 20 ms\np99 gap ms"),
)

Report = Mapping[str, Mapping[str, Any]]


def show(report: Report, versions: Mapping[str, str]) -> None:
    """Print everything as one table, and below it what only the gateway has."""
    table = Table(title="The gateway beside others: one core each, load and engine on the other")
    table.add_column("")
    for _, _, title in _COLUMNS:
        table.add_column(title, justify="right")
    for name in NAMES:
        cells = [_cell(report.get(part, {}).get(name, {}).get(key)) for part, key, _ in _COLUMNS]
        if any(cells):
            table.add_row(f"{name} {versions.get(name, '')}".strip(), *cells)
    console = Console()
    console.print(table)
    for part in ("held", "soak"):
        if part in report:
            shown = ", ".join(f"{key} {_cell(value)}" for key, value in report[part].items())
            console.print(f"ours, {part}: {shown}", highlight=False)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def write(report: Report) -> tuple[Path, Path]:
    """Write gateway.json and gateway.png; returns their paths."""
    return results.write("gateway", dict(report)), _plot(report)


def _plot(report: Report) -> Path:
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_COLUMNS), figsize=(3.2 * len(_COLUMNS), 3.6))
    for (part, key, title), axis in zip(_COLUMNS, axes, strict=True):
        names = [name for name in NAMES if name in report[part]]
        values = [report[part][name][key] for name in names]
        colours = ["#c44e52" if name == "ours" else "#8c9bb0" for name in names]
        axis.bar_label(axis.bar(names, values, color=colours), fmt=_cell, fontsize=8)
        axis.set_yscale("log")
        axis.margins(y=0.15)  # room for the labels above the bars
        axis.set_title(f"{part}\n{title.strip().splitlines()[-1]}", fontsize=9)
        axis.tick_params(axis="x", rotation=60, labelsize=8)
    figure.tight_layout()
    results.OUT.mkdir(exist_ok=True)
    path = results.OUT / "gateway.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
