"""A worker is killed at a random moment: the same bits, nothing lost, nothing that hangs."""

import os
import signal
import sys
import threading
import time
from random import Random
from typing import Any

import numpy as np
import pytest

from fastmlp import MLP, MLPClassifier, MLPSearchCV, TabularMLPRegressor, fit_many
from fastmlp.cluster import groups

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
X = np.random.default_rng(0).uniform(-1, 1, (2000, 5)).astype(np.float32)
Y = np.sin(3 * X[:, 0]) + X[:, 1]


def nets() -> list[MLP]:
    return [MLP((5, 16 + n, 1), seed=n) for n in range(12)]


def many(client: Any, size: int) -> Any:
    made = nets()
    fit_many(made, X, Y, epochs=20 * size, client=client, **timeout(client))
    return [net.parameters for net in made]


def search(client: Any, size: int) -> Any:
    model = MLPClassifier((16,), max_iter=8 * size, random_state=0, n_iter_no_change=99)
    grid = {"alpha": [1e-4, 1e-2, 1.0], "learning_rate_init": [0.01, 0.1]}
    found = MLPSearchCV(model, grid, cv=3, client=client, **timeout(client)).fit(X, Y > 0)
    return [found.cv_results_[f"split{k}_test_score"] for k in range(3)]


def table(client: Any, size: int) -> Any:
    few: dict[str, Any] = {"n_members": 4 * size, "max_iter": 8, "random_state": 0}
    return [TabularMLPRegressor(**few, client=client, **timeout(client)).fit(X, Y).predict(X)]


def pids(client: Any) -> list[int]:
    """Return the processes of both workers, when there are two again."""
    end = time.monotonic() + 300
    while True:
        found = sorted(client.run(os.getpid, on_error="ignore").values())
        if len(found) == 2:
            return found
        assert time.monotonic() < end, "a nanny starts another worker"
        time.sleep(0.1)
        # A nanny whose worker dies as it starts gives up.
        client.cluster.scale(2)


def timeout(client: Any) -> dict[str, Any]:
    return {} if client is None else {"group_timeout": 120}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("fit", [many, search, table])
def test_a_worker_killed_at_a_random_moment_changes_nothing(
    client: Any, soak: bool, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LEAST_COST", 1.0)
    random, size = Random(0), 8 if soak else 1
    expected = fit(None, size)
    pids(client)
    fit(client, size)
    begin = time.monotonic()
    fit(client, size)
    usual = time.monotonic() - begin
    for n in range(20 if soak else 1):
        # Else the rows of the call before are there.
        groups._sent.clear()
        pid = random.choice(pids(client))
        moment = random.uniform(0, usual)
        kill = threading.Timer(moment, os.kill, (pid, signal.SIGKILL))
        begin = time.monotonic()
        kill.start()
        found = fit(client, size)
        kill.join()
        if soak:
            told = f"{fit.__name__} {n}: killed at {moment:.2f} s of {usual:.2f}"
            sys.stderr.write(f"{told}, ended at {time.monotonic() - begin:.2f} s\n")
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    pids(client)
