"""What goes wrong on a cluster ends in an error and in time; killed workers lose nothing."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cloudpickle
import numpy as np
import pytest
from distributed import Client
from fitting import unconverged

from fastmlp import MLP, MLPClassifier, MLPSearchCV, Report, TabularMLPRegressor, fit_many
from fastmlp.cluster import groups
from fastmlp.cluster.groups import Cluster

# Workers cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
X = np.random.default_rng(0).uniform(-1, 1, (60, 3))
Y = X[:, 0] + X[:, 1]
# Seconds; a busy machine takes some.
SOON = 60


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(groups, "LEAST_COST", 1.0)


@pytest.fixture
def pids(client: Any) -> Iterator[dict[str, int]]:
    """The processes of the workers, which go on at the end."""
    client.wait_for_workers(2, timeout=60)
    # Kernels are loaded: the first fit may take seconds.
    fit_many(nets(), X, Y, epochs=1, client=client)
    result = client.run(os.getpid)
    yield result
    for pid in result.values():
        os.kill(pid, signal.SIGCONT)
    client.run(os.getpid)


def nets() -> list[MLP]:
    return [MLP((3, 4 + n, 1), seed=n) for n in range(4)]


def slow(report: Report) -> None:
    time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
@pytest.mark.usefixtures("short")
def test_a_worker_that_hangs_is_told_within_the_timeout(client: Any, pids: dict[str, int]) -> None:
    def hang(report: Report) -> None:
        if report.net.layer_sizes[1] == 7:
            os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.raises(TimeoutError, match=r"restart the workers that hang, client\.rest") as error:
        fit_many(nets(), X, Y, epochs=1, callbacks=hang, client=client, group_timeout=1.5)
    (note,) = error.value.__notes__
    assert re.fullmatch("[0-3] of 4 nets were done", note)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
@pytest.mark.usefixtures("short")
def test_a_client_that_is_closed_in_the_middle_is_told(client: Any) -> None:
    other = Client(client.scheduler.address, set_as_default=False)
    threading.Timer(0.5, other.close).start()
    with pytest.raises(ConnectionError, match="the client, or its scheduler, was closed"):
        fit_many(nets(), X, Y, epochs=100, callbacks=slow, client=other)
    with pytest.raises(ValueError, match="client must be a running one"):
        fit_many(nets(), X, Y, client=other)


def started(file: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
    return subprocess.Popen([*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)


def until(there: Callable[[], Any]) -> None:
    end = time.monotonic() + SOON
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
@pytest.mark.usefixtures("short")
def test_a_scheduler_that_goes_away_is_told(tmp_path: Path) -> None:
    file, begun = tmp_path / "scheduler", tmp_path / "begun"

    def begin(report: Report) -> None:
        begun.touch()
        slow(report)

    def kill() -> None:
        until(begun.exists)
        scheduler.kill()

    scheduler = started(file, "scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
    until(file.exists)
    worker = started(file, "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    try:
        with Client(scheduler_file=str(file), timeout=30, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=SOON)
            threading.Thread(target=kill, daemon=True).start()
            with pytest.raises(
                ConnectionError, match="its scheduler, was closed or has gone away: make anot"
            ):
                fit_many(nets(), X, Y, epochs=1000, callbacks=begin, client=client)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("n_failures", "n_sent"), [(1, 2), (9, 3)])
def test_rows_that_a_dying_worker_has_not_taken_are_sent_again(
    client: Any, monkeypatch: pytest.MonkeyPatch, n_failures: int, n_sent: int
) -> None:
    scatter, sent = type(client).scatter, list[Any]()

    def failing(self: Any, data: Any, **options: Any) -> Any:
        sent.append(data)
        if len(sent) <= n_failures:
            raise OSError("the worker has died")
        return scatter(self, data, **options)

    monkeypatch.setattr(type(client), "scatter", failing)
    here, there = nets(), nets()
    rows = X + n_failures
    if n_failures < n_sent:
        fit_many(there, rows, Y, epochs=1, client=client)
        fit_many(here, rows, Y, epochs=1)
    else:
        with pytest.raises(RuntimeError, match="the workers of nets 0, 1, 2, 3 were lost 3 times"):
            fit_many(there, rows, Y, epochs=1, client=client)
    assert len(sent) == n_sent
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.parameters, other.parameters)


def die(items: Any) -> list[None]:
    os.kill(os.getpid(), signal.SIGKILL)
    return [None]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
@pytest.mark.usefixtures("short")
def test_a_group_that_kills_its_workers_is_told(client: Any) -> None:
    cluster = Cluster(client, "fit_many")
    client.cluster.scheduler.allowed_failures, before = 0, client.cluster.scheduler.allowed_failures
    try:
        with pytest.raises(RuntimeError, match="died one after the other, perhaps for lack of me"):
            cluster.run(die, [0], [1.0], [], lambda *_: None, "nets")
    finally:
        client.cluster.scheduler.allowed_failures = before
    client.wait_for_workers(2, timeout=SOON)


ROWS = np.random.default_rng(0).uniform(-1, 1, (500, 5)).astype(np.float32)
TARGETS = np.sin(3 * ROWS[:, 0]) + ROWS[:, 1]


def search(client: Any, size: int) -> Any:
    model = MLPClassifier((16,), max_iter=8 * size, random_state=0, n_iter_no_change=99)
    grid = {"alpha": [1e-4, 1e-2, 1.0], "learning_rate_init": [0.01, 0.1]}
    result = MLPSearchCV(model, grid, cv=3, client=client, **timeout(client)).fit(ROWS, TARGETS > 0)
    return [result.cv_results_[f"split{k}_test_score"] for k in range(3)]


def table(client: Any, size: int) -> Any:
    few: dict[str, Any] = {"n_members": 4 * size, "max_iter": 8, "random_state": 0, "cv": 2}
    return [
        TabularMLPRegressor(**few, client=client, **timeout(client))
        .fit(ROWS, TARGETS)
        .predict(ROWS)
    ]


def worker_pids(client: Any) -> list[int]:
    end = time.monotonic() + 300
    while True:
        result = sorted(client.run(os.getpid, on_error="ignore").values())
        if len(result) == 2:
            return result
        assert time.monotonic() < end, "a nanny starts another worker"
        time.sleep(0.1)
        # A nanny whose worker dies as it starts gives up.
        client.cluster.scale(2)


def timeout(client: Any) -> dict[str, Any]:
    return {} if client is None else {"group_timeout": 120}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
@unconverged
@pytest.mark.parametrize("fit", [search, table])
def test_a_worker_killed_at_a_random_moment_changes_nothing(
    client: Any, soak: bool, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LEAST_COST", 1.0)
    random, size = Random(0), 8 if soak else 1
    expected = fit(None, size)
    worker_pids(client)
    fit(client, size)
    begin = time.monotonic()
    fit(client, size)
    usual = time.monotonic() - begin
    for n in range(20 if soak else 1):
        # Else the rows of the call before are there.
        groups._sent.clear()
        pid = random.choice(worker_pids(client))
        moment = random.uniform(0, usual)
        kill = threading.Timer(moment, os.kill, (pid, signal.SIGKILL))
        begin = time.monotonic()
        kill.start()
        result = fit(client, size)
        kill.join()
        if soak:
            message = f"{fit.__name__} {n}: killed at {moment:.2f} s of {usual:.2f}"
            sys.stderr.write(f"{message}, ended at {time.monotonic() - begin:.2f} s\n")
        for one, other in zip(expected, result, strict=True):
            np.testing.assert_array_equal(one, other)
    worker_pids(client)
