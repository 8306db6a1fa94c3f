"""What came of a run: the figures of benchmarks/out/chaos.json, and a table of them. Pure."""

from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import Any

from rich.table import Table

from tests.chaos.runner import BOUND_SECONDS, Round, Run


def figures(run: Run, *, seed: int) -> dict[str, Any]:
    """Return the figures of a run, whether or not it is over."""
    kinds = sorted({str(each.fault.kind) for each in run.rounds})
    converged = _converged(run.rounds)
    return {
        "rounds": len(run.rounds),
        "gpu_violations": sum(len(each.violations) for each in run.rounds),
        "unanswered": sum(len(each.unanswered) for each in run.rounds),
        "orphans": sum(len(each.orphans) for each in run.rounds),
        "max_converge_s": round(max(converged, default=0.0), 1),
        "median_converge_s": round(median(converged), 1) if converged else None,
        "bound_s": BOUND_SECONDS,
        "not_converged": sum(each.converge_seconds is None for each in run.rounds),
        "findings": sum(len(each.findings) for each in run.rounds),
        "seed": seed,
        "answered": run.ledger.answered,
        "cuts": dict(_summed(each.cuts for each in run.rounds)),
        "errors": dict(_summed(each.errors for each in run.rounds)),
        "kinds": {kind: _of_kind(run.rounds, kind) for kind in kinds},
        "log": [_line(each) for each in run.rounds],
    }


def failed(told: dict[str, Any], *, asked: int) -> bool:
    """Whether the figures of a run that is over have anything wrong, or lack a round."""
    wrong = ("gpu_violations", "unanswered", "orphans", "findings", "not_converged")
    return told["rounds"] != asked or any(told[key] for key in wrong)


def _of_kind(rounds: Iterable[Round], kind: str) -> dict[str, Any]:
    mine = [each for each in rounds if str(each.fault.kind) == kind]
    converged = _converged(mine)
    return {
        "rounds": len(mine),
        "median_converge_s": round(median(converged), 1) if converged else None,
        "max_converge_s": round(max(converged, default=0.0), 1),
        "cuts": dict(_summed(each.cuts for each in mine)),
        "errors": dict(_summed(each.errors for each in mine)),
        "wrong": sum(len(each.wrong()) for each in mine),
    }


def _line(each: Round) -> dict[str, Any]:
    took = each.converge_seconds
    return {
        "round": each.fault.number,
        "fault": str(each.fault),
        "serving": each.serving,
        "victim": each.victim,
        "converge_s": None if took is None else round(took, 1),
        "seconds": round(each.seconds, 1),
        "cuts": dict(each.cuts),
        "errors": dict(each.errors),
        "wrong": each.wrong(),
    }


def table(told: dict[str, Any]) -> Table:
    """Return the figures of each kind of fault for a person."""
    made = Table(title=f"chaos, seed {told['seed']}: {told['rounds']} rounds")
    made.add_column("fault")
    for column in ("rounds", "median s", "max s", "cut off", "errors", "wrong"):
        made.add_column(column, justify="right")
    for kind, row in told["kinds"].items():
        made.add_row(
            kind,
            str(row["rounds"]),
            str(row["median_converge_s"]),
            str(row["max_converge_s"]),
            str(sum(row["cuts"].values())),
            str(sum(row["errors"].values())),
            str(row["wrong"]),
        )
    return made


def sentence(each: Round) -> str:
    """Return one round in a line."""
    took = "never" if each.converge_seconds is None else f"{each.converge_seconds:5.1f} s"
    cut, errors = sum(each.cuts.values()), sum(each.errors.values())
    return (
        f"{each.fault.number + 1:4} {each.fault} of {each.serving} ({each.victim}): converged "
        f"{took}, {cut} cut off, {errors} errors, round {each.seconds:.0f} s, "
        f"of which {each.waited_seconds:.0f} s for the moment"
    )


def _converged(rounds: Iterable[Round]) -> list[float]:
    return [each.converge_seconds for each in rounds if each.converge_seconds is not None]


def _summed(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counters:
        total.update(each)
    return total
