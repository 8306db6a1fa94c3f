"""`make chaos`: a run of a hundred rounds on a cluster of the harness. Prints; decides nothing."""

import asyncio
import secrets
import signal
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import results
from tests.chaos import evidence, report
from tests.chaos.runner import Round, Run, play
from tests.chaos.site import installed, new_namespace
from tests.harness import cluster as harness_cluster
from tests.harness import existing
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError
from tests.harness.faults import faults
from tests.harness.paths import cluster_name
from tests.harness.progress import note

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def chaos(
    rounds: Annotated[int, typer.Option(min=1, help="How many faults.")] = 100,
    seed: Annotated[int, typer.Option(help="0: a random one.")] = 0,
) -> None:
    """Do faults under load, and check after each. Figures: benchmarks/out/chaos.json."""
    chosen = seed or secrets.randbelow(10**6) + 1
    refuse_foreign()
    namespace = new_namespace()
    note(f"chaos: in the namespace {namespace} of the harness's cluster {cluster_name()}")
    note(f"chaos: seed {chosen}; the same again: make chaos SEED={chosen} ROUNDS={rounds}")
    told = asyncio.run(_run(harness_cluster.up(), namespace, chosen, rounds))
    Console(width=120).print(report.table(told))
    totals = {key: value for key, value in told.items() if key not in {"kinds", "log"}}
    Console(width=120).print(totals)
    if report.failed(told, asked=rounds):
        raise typer.Exit(1)


def refuse_foreign() -> None:
    """Raise HarnessError where chaos cannot be: before anything is made there."""
    if named := existing.named_context():
        raise HarnessError(
            f"chaos stops processes of the nodes, and there is no way into those of {named!r}: "
            f"unset {existing.VARIABLE} to run it on the harness's own cluster"
        )


async def _run(cluster: Cluster, namespace: str, seed: int, count: int) -> dict[str, object]:
    def tell(run: Run, latest: Round) -> None:
        note(report.sentence(latest))
        results.write("chaos", report.figures(run, seed=seed))
        if latest.wrong():
            for each in latest.wrong():
                note(f"     WRONG: {each}")
            seen = results.OUT / f"chaos-{seed}-round-{latest.fault.number}.txt"
            seen.write_text(evidence.gather(run.site.world))
            note(f"     what it looked like: {seen}")

    async with installed(cluster, namespace) as site:
        run = await play(site, faults(seed, count), tell)
    told = report.figures(run, seed=seed)
    results.write("chaos", told)
    for each in run.rounds[-1].wrong():
        note(f"     WRONG in the end: {each}")
    return told


def end_in_order() -> None:
    """Have SIGTERM do what Ctrl-C does: nothing stays stopped on a node."""
    # A shell lets what it starts in the background ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def main() -> None:
    """Run the command; a HarnessError becomes one message and status 1."""
    end_in_order()
    try:
        app()
    except HarnessError as error:
        note(f"error: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
