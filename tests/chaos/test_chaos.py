"""Chaos, the short form: some rounds of what is promised, under load."""

import secrets
from typing import Final

from tests.chaos import evidence, report
from tests.chaos.runner import BOUND_SECONDS, Round, Run, play
from tests.chaos.site import installed, new_namespace
from tests.harness.cluster import Cluster
from tests.harness.faults import PROMISED, faults

ROUNDS: Final = 4
"""Of the eight kinds that are promised, other ones in each run: all of them take nine minutes."""

LONGEST_PAUSE_SECONDS: Final = 4.0
"""Longer ones, for which Kubernetes needs up to a minute itself, are left to `make chaos`."""


async def test_whatever_is_killed_amid_swaps_every_request_is_answered_and_all_is_well_again(
    cluster: Cluster,
) -> None:
    seed = secrets.randbelow(10**6) + 1
    namespace = new_namespace()
    print(f"chaos: in the namespace {namespace} of {cluster.context}, seed {seed}")
    seen: list[str] = []

    def tell(run: Run, latest: Round) -> None:
        print(report.sentence(latest))
        if latest.wrong():
            seen.append(evidence.gather(run.site.world))

    drawn = faults(seed, ROUNDS, kinds=PROMISED, longest_pause_seconds=LONGEST_PAUSE_SECONDS)
    async with installed(cluster, namespace) as site:
        run = await play(site, drawn, tell)
    wrong = [f"round {each.fault.number}: {text}" for each in run.rounds for text in each.wrong()]
    assert not wrong, "\n".join([f"seed {seed}", *wrong, *seen])
    figures = report.figures(run, seed=seed)
    assert not report.failed(figures, asked=ROUNDS)
    assert figures["max_converge_s"] <= BOUND_SECONDS
    # There was load: every client has been answered again and again.
    assert figures["answered"] > 3 * len(run.clients("any"))
