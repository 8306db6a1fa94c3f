"""The figures of the swaps: medians, what is ours, and the table. Pure but for printing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

PARTS: Final = ("notice", "stop", "schedule", "start", "answer")
OURS: Final = ("notice", "schedule", "answer")
"""Parts that whoever swaps adds; the others are the cluster's and the engine's."""


@dataclass(frozen=True)
class Row:
    """One swap."""

    way: str
    """`request` or `hand`."""
    leaving: str
    target: str
    seconds: float
    parts: Mapping[str, float]

    @property
    def own(self) -> float:
        """Seconds that whoever swaps has added."""
        return sum(self.parts[part] for part in OURS)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what goes into swap.json.

    `added_s` is how much more the median swap of ours spends on its own parts than the one by hand,
    whose own parts are the calls themselves and one completion. The kubelet takes 2 to 11 s to
    remove a Pod: that scatter is in `ratio`, and not in `added_s`.
    """
    ours = [row for row in rows if row.way == "request"]
    floor = [row for row in rows if row.way == "hand"]
    floor_s = _median([row.seconds for row in floor])
    own, own_of_floor = _median([row.own for row in ours]), _median([row.own for row in floor])
    added = own - own_of_floor
    return {
        "floor_s": round(floor_s, 3),
        "ours_s": round(_median([row.seconds for row in ours]), 3),
        "ratio": round(_median([row.seconds for row in ours]) / floor_s, 3),
        "added_s": round(added, 3),
        "added_share": round(added / floor_s, 4),
        "parts_s": {
            way: {part: round(_median([row.parts[part] for row in some]), 3) for part in PARTS}
            for way, some in (("ours", ours), ("floor", floor))
        },
        "rows": [asdict(row) for row in rows],
    }


def show(engine: str, figures: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print the table of one engine."""
    count = sum(row.way == "request" for row in rows)
    table = Table(title=f"One swap, seconds, {count} each in turns ({engine})")
    for column in ("", "scaled by hand", "ours", "whose"):
        table.add_column(column, justify="right")
    by_way = {way: [row for row in rows if row.way == way] for way in ("hand", "request")}
    for part in PARTS:
        cells = [_spread([row.parts[part] for row in by_way[way]]) for way in by_way]
        table.add_row(part, *cells, "who swaps" if part in OURS else "cluster, engine")
    table.add_row("whole", *(_spread([row.seconds for row in by_way[way]]) for way in by_way), "")
    console = Console()
    console.print(table)
    console.print(
        f"ratio of the medians {figures['ratio']:.3f}; "
        f"added by us {figures['added_s']:.3f} s, {figures['added_share']:.1%} of the floor"
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _spread(values: Sequence[float]) -> str:
    return f"{_median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
