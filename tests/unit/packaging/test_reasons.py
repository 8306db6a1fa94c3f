"""Whatever reason a person can read, docs/reasons.md says what it means and what to do."""

import re
from pathlib import Path

from modelserving_api.names import Reason

ROOT = Path(__file__).parents[3]

ORDINARY = {
    # Nothing is the matter: the message beside it says it all.
    *(Reason.SERVING, Reason.SERVING_FALLBACK, Reason.NO_DEMAND, Reason.AS_EXPECTED),
    *(Reason.SCHEDULING, Reason.LOADING, Reason.NOT_SWAPPING),
    # Why a swap was begun, and how it went.
    *(Reason.REQUESTED, Reason.PINNED, Reason.DEFAULT_MODEL, Reason.IDLE, Reason.ROLLED_BACK),
    *(Reason.SPEC_CHANGED, Reason.SWAP_STARTED, Reason.SWAP_FINISHED, Reason.SWAP_SUPERSEDED),
}


def test_every_reason_that_asks_for_a_person_is_explained() -> None:
    rows = re.findall(r"^\| ([\w, ]+) \|", (ROOT / "docs" / "reasons.md").read_text(), re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")}
    asking = {reason.value for reason in Reason} - {reason.value for reason in ORDINARY}

    assert asking - explained - {"SwapFailed"} == set()
