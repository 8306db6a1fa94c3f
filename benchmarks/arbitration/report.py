"""The one table, the plot and the JSON of a run."""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.arbitration.comparison import POLICIES, Row

_COLOURS: Final = {
    "ours": "#c44e52",
    "fifo": "#8c9bb0",
    "sticky": "#55a868",
    "slices-30": "#dd8452",
    "slices-equal": "#8172b3",
    "clairvoyant": "#333333",
}

_SAME: Final = 0.005
"""Half a percent of the GPU's time: below that, one seed more or less decides."""


def show(rows: Sequence[Row], console: Console) -> None:
    """Print everything as one table, and below it where another policy is better than ours."""
    table = Table(
        title="GPU time ready to serve, longest wait / p95 (s), swaps an hour",
        caption="Longest waits above the bound are red; (no) after a bound: it cannot be promised.",
    )
    for title in ("models", "workload", "cost", "bound"):
        table.add_column(title, justify="right")
    for policy in POLICIES:
        table.add_column(policy, justify="right")
    for key, group in _scenarios(rows):
        found = {row["policy"]: row for row in group}
        models, workload, cost, bound, feasible = key
        head = (str(models), workload, f"{cost:g}", f"{bound}{'' if feasible else ' (no)'}")
        table.add_row(*head, *(_cell(found[policy]) for policy in POLICIES))
    console.print(table)
    for line in verdicts(rows):
        console.print(line, highlight=False)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return a line for each case in which ours is not the best, and how it is summed up."""
    lines, cases = [], 0
    for key, group in _scenarios(rows):
        found = {row["policy"]: row for row in group}
        ours = found["ours"]
        cases += 1
        name = f"{key[0]} models, {key[1]}, {key[2]:g} s"
        if ours["feasible"] and ours["max_wait_s"] > ours["bound_s"]:
            lines.append(f"{name}: ours waits {ours['max_wait_s']} s, beyond the bound")
        for policy in POLICIES[1:-1]:
            other = found[policy]
            more = other["serving_share"] - ours["serving_share"]
            if other["max_wait_s"] <= ours["max_wait_s"] and more > _SAME:
                lines.append(
                    f"{name}: {policy} keeps the GPU {more:.1%} longer ready"
                    f" with a longest wait of {other['max_wait_s']} s, ours {ours['max_wait_s']} s"
                )
    return [*lines, f"{cases} cases, {len(lines)} in which another one is better than ours"]


def write(rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write arbitration.json and arbitration.png; returns their paths."""
    results.OUT.mkdir(exist_ok=True)
    path = results.OUT / "arbitration.json"
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
    return path, _plot(rows)


def _plot(rows: Sequence[Row]) -> Path:
    """Draw the longest wait against the GPU's time, a small picture for each case."""
    mpl.use("Agg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(row["workload"] for row in rows))
    lines = list(dict.fromkeys((row["models"], row["cost"]) for row in rows))
    size = (2.7 * len(kinds) + 1, 2.3 * len(lines) + 0.6)
    figure, axes = pyplot.subplots(len(lines), len(kinds), figsize=size, squeeze=False)
    for key, group in _scenarios(rows):
        axis = axes[lines.index((key[0], key[2]))][kinds.index(key[1])]
        axis.axvline(key[3], color="#bbbbbb", linestyle="-" if key[4] else ":")
        rows_here = list(group)
        for row in rows_here:
            mark = (
                "*" if row["policy"] == "ours" else "_" if row["policy"] == "clairvoyant" else "o"
            )
            axis.scatter(
                row["max_wait_s"],
                row["serving_share"],
                color=_COLOURS[row["policy"]],
                marker=mark,
                s=90 if mark != "o" else 28,
                label=row["policy"],
                zorder=3 if mark == "*" else 2,
            )
        axis.set_title(f"{key[1]}, {key[0]} models, {key[2]:g} s", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlim(0, 1.1 * max(*(row["max_wait_s"] for row in rows_here), key[3]))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=len(labels), fontsize=9)
    figure.supxlabel("longest wait, s (grey line: maxWaitSeconds; dotted: cannot be promised)")
    figure.supylabel("share of the GPU's time ready to serve")
    figure.tight_layout(rect=(0.01, 0.01, 1, 0.97))
    path = results.OUT / "arbitration.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


Key = tuple[int, str, float, int, bool]


def _scenarios(rows: Iterable[Row]) -> Iterable[tuple[Key, Iterable[Row]]]:
    fields = ("models", "workload", "cost", "bound_s", "feasible")
    return groupby(rows, key=lambda row: tuple(row[field] for field in fields))


def _cell(row: Row) -> str:
    longest = f"{row['max_wait_s']:.0f}"
    if row["max_wait_s"] > row["bound_s"]:
        longest = f"[red]{longest}[/red]"
    if row["policy"] == "clairvoyant":
        return f"≤{row['serving_share']:.1%} ≥{row['swaps_per_hour']:.0f}"
    share, swaps = f"{row['serving_share']:.1%}", f"{row['swaps_per_hour']:.0f}"
    return f"{share} {longest}/{row['p95_wait_s']:.0f} {swaps}"
