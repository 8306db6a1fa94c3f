"""How a swap is taken apart, and what of it is ours."""

import pytest

from benchmarks.swap.report import Row, figures
from benchmarks.swap.timeline import Change, parts

SWAP = [
    Change(10.2, "Deployment", "mistral", deleted=False, replicas=0),
    Change(11.0, "Pod", "mistral", deleted=False, ready=False),
    Change(17.0, "Pod", "mistral", deleted=True),
    Change(17.1, "Deployment", "coder", deleted=False, replicas=1),
    Change(17.3, "Pod", "coder", deleted=False),
    Change(19.1, "Pod", "coder", deleted=False, ready=True),
    Change(19.5, "Deployment", "coder", deleted=False, replicas=1),
]


def test_the_parts_add_up_to_the_whole() -> None:
    found = parts(SWAP, "mistral", "coder", 10.0, 19.4)
    assert found == pytest.approx(
        {"notice": 0.2, "stop": 6.8, "schedule": 0.1, "start": 2.0, "answer": 0.3}
    )
    assert sum(found.values()) == pytest.approx(9.4)


def test_what_was_before_the_swap_is_no_part_of_it() -> None:
    before = [
        Change(5.0, "Deployment", "mistral", deleted=False, replicas=0),
        Change(6.0, "Pod", "coder", deleted=False, ready=True),
    ]
    assert parts([*before, *SWAP], "mistral", "coder", 10.0, 19.4) == parts(
        SWAP, "mistral", "coder", 10.0, 19.4
    )


def test_a_swap_that_was_not_seen_to_its_end_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="Ready was never seen"):
        parts(SWAP[:4], "mistral", "coder", 10.0, 19.4)


def test_what_is_ours_leaves_the_clusters_scatter_out() -> None:
    """The kubelet took a minute longer in one of the swaps by hand, and 10 s in one of ours."""

    def row(way: str, own: float, stop: float) -> Row:
        its = {"notice": own, "stop": stop, "schedule": 0.05, "start": 2.0, "answer": 0.1}
        return Row(way, "mistral", "coder", sum(its.values()), its)

    rows = [
        *(row("hand", 0.02, stop) for stop in (7.0, 7.0, 67.0)),
        *(row("request", 0.22, stop) for stop in (17.0, 7.0, 7.0)),
    ]
    found = figures(rows)
    assert found["added_s"] == pytest.approx(0.2)
    assert found["added_share"] == pytest.approx(0.2 / found["floor_s"], abs=1e-4)
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["floor_s"], abs=1e-3)
    assert len(found["rows"]) == 6
