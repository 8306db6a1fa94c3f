"""The cluster for the short form of the chaos suite. What is done to it is in the runner."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import refuse_foreign
from tests.harness import cluster as harness_cluster
from tests.harness.cluster import Cluster
from tests.harness.errors import HarnessError

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the cluster, so that a person can deselect it."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The harness's own cluster, with whatever a killed run has stopped going again."""
    try:
        refuse_foreign()
    except HarnessError as error:
        pytest.skip(str(error))
    return harness_cluster.up()
