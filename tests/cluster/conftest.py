"""A cluster of two worker processes on this machine, which the tests share."""

from collections.abc import Iterator
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster


@pytest.fixture(scope="package")
def client() -> Iterator[Any]:
    """Two processes, each of one thread, and a free port:
    other tests may run a cluster too.

    Its threads here would disturb other tests that count threads, or bytes.
    """
    # By default a cluster looks after 15 s whether a lost worker is back,
    # and closes it for good if it is then being started again: two tests kill one.
    lasting = {"distributed.deploy.lost-worker-timeout": "1h"}
    with (
        dask.config.set(lasting),
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as made,
    ):
        yield made
