"""Nets on a cluster: the bits of here, and workers,
schedulers and clients that hang or die.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from fitting import unconverged

from fastmlp import (
    MLP,
    SGD,
    EarlyStopping,
    MLPClassifier,
    MLPSearchCV,
    Report,
    Status,
    TabularMLPRegressor,
    fit_many,
)
from fastmlp.many import groups
from fastmlp.many.groups import Cluster, dealt
from fastmlp.network.state import NetState

# Workers cannot import it.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
X = np.random.default_rng(0).uniform(-1, 1, (60, 3))
Y = np.sin(3 * X[:, 0]) + X[:, 1]


def mixed() -> list[MLP]:
    return [
        MLP((3, 8, 1), seed=0),
        MLP((3, 16, 8, 1), seed=1, optimizer=SGD(0.1, momentum=0.9), dtype="float64"),
        MLP((3, 4, 1), seed=2, activation="tanh", dropout=0.2),
        MLP((3, 9, 1), seed=3, l2=0.1),
    ]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one net: these are too small to be dealt to several workers."""
    monkeypatch.setattr(groups, "LEAST_COST", 1.0)


@pytest.fixture
def short(small_groups: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GRACE_SECONDS", 1.0)


def on_workers(test: Any, fixture: str = "small_groups") -> Any:
    """Mark a test that the workers take part in."""
    windows = pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
    for mark in (pytest.mark.slow, pytest.mark.usefixtures(fixture), windows):
        test = mark(test)
    return test


in_trouble = partial(on_workers, fixture="short")


def assert_same(nets: list[MLP], others: list[MLP]) -> None:
    for net, other in zip(nets, others, strict=True):
        np.testing.assert_array_equal(net.parameters, other.parameters)
        assert net.n_steps == other.n_steps
        assert net.feature_names == other.feature_names


@on_workers
def test_nets_end_in_the_same_bits_as_here(client: Any) -> None:
    here, there = mixed(), mixed()
    views = [net.parameters for net in there]
    rows = [None, np.arange(40), np.arange(40), np.arange(10, 60)]
    settings: dict[str, Any] = {
        "epochs": [3, 4, 5, 6],
        "batch_size": [8, 16, 60, 7],
        "rows": rows,
        "validation_rows": np.arange(0, 60, 3),
        "sample_weight": np.linspace(0, 1, 60),
        "metrics": ["mae"],
    }
    for _ in range(
        2
    ):  # a second call goes on with the optimizers' states and generators
        local = fit_many(here, X, Y, **settings)
        result = fit_many(there, X, Y, **settings, client=client)
        assert_same(here, there)
        for one, other in zip(local, result, strict=True):
            assert (one.loss, one.validation_loss) == (
                other.loss,
                other.validation_loss,
            )
            assert (one.metrics, one.status) == (other.metrics, other.status)
    assert all(net.parameters is view for net, view in zip(there, views, strict=True))


def test_nets_are_dealt_into_several_groups() -> None:
    result = dealt([1e12, *[1e11] * 20], 2)
    assert result[0] == [0]
    assert sorted(i for group in result for i in group) == list(range(21))
    assert len(result) >= 8


def test_the_costliest_nets_are_dealt_first() -> None:
    assert dealt([1e11, 3e11, 2e11], 100) == [[1], [2], [0]]


def test_no_nets_are_dealt_into_no_groups() -> None:
    assert dealt([], 2) == []


def test_what_is_shared_is_not_packed() -> None:
    held, other = np.arange(1000.0), np.arange(2000.0)
    packed, places = groups.pickle_parts(
        {"a": held, "b": [held], "c": lambda: 3}, [other, held]
    )
    assert places == [1]
    assert len(packed) < 2000
    result = groups.unpack(packed, {1: held})
    assert result["a"] is held
    assert result["c"]() == 3


@on_workers
def test_callbacks_on_workers_may_stop_a_fit(client: Any) -> None:
    def second(report: Report) -> None:
        assert os.getpid() != me
        if report.epoch == 1 and report.net.layer_sizes[1] == 8:
            report.stop()

    me = os.getpid()
    stopped = fit_many(mixed(), X, Y, epochs=4, callbacks=second, client=client)
    assert [len(history.loss) for history in stopped] == [2, 4, 4, 4]


@on_workers
def test_nets_on_workers_stop_early(client: Any) -> None:
    early = EarlyStopping(patience=0, min_delta=10, monitor="loss")
    stopped = fit_many(mixed(), X, Y, epochs=4, early_stopping=early, client=client)
    assert [history.status for history in stopped] == [Status.STOPPED_EARLY] * 4


@on_workers
def test_an_error_names_its_net(client: Any) -> None:
    def poison(report: Report) -> None:
        if report.net.layer_sizes[1] == 9:
            raise ArithmeticError("poison")

    nets = mixed()
    with pytest.raises(ArithmeticError, match="poison") as caught:
        fit_many(nets, X, Y, epochs=2, callbacks=poison, client=client)
    assert caught.value.__notes__[0] == "in nets 3"
    assert nets[3].n_steps == 0
    # The locks are open.
    assert fit_many(nets, X, Y, epochs=1)[3].status is Status.COMPLETED


@pytest.mark.slow
def test_a_group_that_hangs_is_given_up(client: Any, tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    def hang(report: Report) -> None:
        time.sleep(30)
        ended.touch()

    before = groups.CALLBACK_SECONDS
    client.run(setattr, groups, "CALLBACK_SECONDS", 0.5)
    with pytest.raises(TimeoutError, match=r"took more than 0\.5 s") as caught:
        fit_many(
            mixed(), X, Y, epochs=1, callbacks=hang, client=client, group_timeout=0.5
        )
    client.run(setattr, groups, "CALLBACK_SECONDS", before)
    assert caught.value.__notes__[0] == "in nets 0, 1, 2, 3"
    assert not ended.exists()


@on_workers
def test_warnings_name_the_net(client: Any) -> None:
    nets = [MLP((3, 8, 1), seed=0), MLP((3, 8, 1), seed=0, optimizer=SGD(1e30))]
    with pytest.warns(RuntimeWarning, match=r"fit_many: nets\[1\]: fit diverged"):
        result = fit_many(nets, X, Y, epochs=4, client=client)
    assert [history.status for history in result] == [Status.COMPLETED, Status.DIVERGED]


@on_workers
def test_ctrl_c_keeps_what_is_done(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(report: Report) -> None:
        time.sleep(0.2 * (report.net.layer_sizes[1] != 16))

    nets = mixed()
    before = mixed()
    adopt = NetState.adopt

    def adopting(state: NetState, content: Any) -> None:
        adopt(state, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(NetState, "adopt", adopting)
    with pytest.warns(UserWarning, match="1 of 4 nets are done"):
        result = fit_many(nets, X, Y, epochs=20, callbacks=slow, client=client)
    assert [history.status for history in result].count(Status.INTERRUPTED) == 3
    for net, other, history in zip(nets, before, result, strict=True):
        same = np.array_equal(net.parameters, other.parameters)
        assert same == (history.status is Status.INTERRUPTED)


@on_workers
def test_rows_are_sent_once(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    scatter = type(client).scatter

    def counting(self: Any, data: Any, **options: Any) -> Any:
        sent.append(len(data))
        return scatter(self, data, **options)

    monkeypatch.setattr(type(client), "scatter", counting)
    new = X + 1
    nets = [MLP((3, n, 1), seed=n) for n in (2, 3, 4)]
    for _ in range(2):
        fit_many(nets, new.copy(), Y + 1, epochs=1, client=client)
    assert sent == [2]


@pytest.mark.slow
def test_files_are_read_by_the_workers(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": Y}).to_parquet(path)
    here, there = ([MLP((3, 8, 1), seed=n) for n in range(3)] for _ in range(2))
    settings: dict[str, Any] = {
        "target": "y",
        "epochs": 2,
        "batch_size": 2,
        "validation_data": path,
    }
    for buffer_rows in (None, 32):
        local = fit_many(here, path, **settings, buffer_rows=buffer_rows)
        result = fit_many(
            there, path, **settings, buffer_rows=buffer_rows, client=client
        )
        assert_same(here, there)
        assert [one.validation_loss for one in local] == [
            one.validation_loss for one in result
        ]
    with pytest.raises(TypeError, match="a source must be a path"):
        fit_many(there, ((X, Y) for _ in range(2)), client=client)


@pytest.mark.slow
def test_what_is_wrong_is_said_before_anything_is_sent(client: Any) -> None:
    nets = mixed()
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client"):
        fit_many(nets, X, Y, client=3)
    with pytest.raises(ValueError, match="group_timeout is for groups on a cluster"):
        fit_many(nets, X, Y, group_timeout=3)
    with pytest.raises(ValueError, match="leave n_threads out"):
        fit_many(nets, X, Y, client=client, n_threads=2)
    with pytest.raises(ValueError, match="group_timeout must be seconds above 0"):
        fit_many(nets, X, Y, client=client, group_timeout=0)
    with pytest.raises(ValueError, match="X has 2 features, but the net has 3"):
        fit_many(nets, X[:, :2], Y, client=client)
    assert [net.n_steps for net in nets] == [0] * 4


Answer = Callable[[dict[str, Any]], None]


@pytest.fixture
def answer(client: Any, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """A function that sets the facts that workers answer, by their names."""

    def set_answer(facts: dict[str, Any]) -> None:
        monkeypatch.setattr(client, "run", lambda *_, **__: facts)

    return set_answer


@pytest.mark.slow
def test_other_processors_and_libraries_are_warned_of(
    client: Any, answer: Answer
) -> None:
    answer({"a": groups.facts() | {"processor": "abacus", "numba": "0.1"}})
    words = r"last bits.*numba .* and .*, processor .*abacus"
    with pytest.warns(UserWarning, match=words):
        groups.Cluster(client, "fit_many")


@pytest.mark.slow
def test_workers_of_another_version_are_refused(client: Any, answer: Answer) -> None:
    answer({"a": groups.facts() | {"fastmlp": "0.0.1"}})
    words = r"the workers have fastmlp 0\.0\.1, and here"
    with pytest.raises(RuntimeError, match=words):
        groups.Cluster(client, "fit_many")


@pytest.mark.slow
def test_a_client_without_workers_is_refused(client: Any, answer: Answer) -> None:
    answer({})
    with pytest.raises(RuntimeError, match="the client has no workers"):
        groups.Cluster(client, "fit_many")


@pytest.mark.slow
def test_workers_are_warmed_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page on clusters warms up so; `os.getpid` stands for the warm-up."""
    assert {*client.run(asyncio.to_thread, os.getpid).values()} == {
        *client.run(os.getpid).values()
    }


# Seconds; a busy machine takes some.
SOON = 60


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


@in_trouble
def test_a_worker_that_hangs_is_told_within_the_timeout(
    client: Any, pids: dict[str, int]
) -> None:
    def hang(report: Report) -> None:
        if report.net.layer_sizes[1] == 7:
            os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.raises(
        TimeoutError, match=r"restart the workers that hang, client\.rest"
    ) as error:
        fit_many(
            nets(), X, Y, epochs=1, callbacks=hang, client=client, group_timeout=1.5
        )
    (note,) = error.value.__notes__
    assert re.fullmatch("[0-3] of 4 nets were done", note)


@in_trouble
def test_a_client_that_is_closed_in_the_middle_is_told(client: Any) -> None:
    other = Client(client.scheduler.address, set_as_default=False)
    threading.Timer(0.5, other.close).start()
    with pytest.raises(
        ConnectionError, match="the client, or its scheduler, was closed"
    ):
        fit_many(nets(), X, Y, epochs=100, callbacks=slow, client=other)
    with pytest.raises(ValueError, match="client must be a running one"):
        fit_many(nets(), X, Y, client=other)


def started(file: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
    return subprocess.Popen(
        [*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL
    )


def until(there: Callable[[], Any]) -> None:
    end = time.monotonic() + SOON
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


@in_trouble
def test_a_scheduler_that_goes_away_is_told(tmp_path: Path) -> None:
    file = tmp_path / "scheduler"
    begun = tmp_path / "begun"

    def begin(report: Report) -> None:
        begun.touch()
        slow(report)

    def kill() -> None:
        until(begun.exists)
        scheduler.kill()

    scheduler = started(
        file, "scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"
    )
    until(file.exists)
    worker = started(file, "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    try:
        with Client(
            scheduler_file=str(file), timeout=30, set_as_default=False
        ) as client:
            client.wait_for_workers(1, timeout=SOON)
            threading.Thread(target=kill, daemon=True).start()
            with pytest.raises(
                ConnectionError,
                match="its scheduler, was closed or has gone away: make anot",
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
    scatter = type(client).scatter
    sent = list[Any]()

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
        with pytest.raises(
            RuntimeError, match="the workers of nets 0, 1, 2, 3 were lost 3 times"
        ):
            fit_many(there, rows, Y, epochs=1, client=client)
    assert len(sent) == n_sent
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.parameters, other.parameters)


def die(items: Any) -> list[None]:
    os.kill(os.getpid(), signal.SIGKILL)
    return [None]


@in_trouble
def test_a_group_that_kills_its_workers_is_told(client: Any) -> None:
    cluster = Cluster(client, "fit_many")
    client.cluster.scheduler.allowed_failures, before = (
        0,
        client.cluster.scheduler.allowed_failures,
    )
    try:
        with pytest.raises(
            RuntimeError, match="died one after the other, perhaps for lack of me"
        ):
            cluster.run(die, [0], [1.0], [], lambda *_: None, "nets")
    finally:
        client.cluster.scheduler.allowed_failures = before
    client.wait_for_workers(2, timeout=SOON)


ROWS = np.random.default_rng(0).uniform(-1, 1, (500, 5)).astype(np.float32)
TARGETS = np.sin(3 * ROWS[:, 0]) + ROWS[:, 1]


def search(client: Any, size: int) -> Any:
    model = MLPClassifier((16,), max_iter=8 * size, random_state=0, n_iter_no_change=99)
    grid = {"alpha": [1e-4, 1e-2, 1.0], "learning_rate_init": [0.01, 0.1]}
    result = MLPSearchCV(model, grid, cv=3, client=client, **timeout(client)).fit(
        ROWS, TARGETS > 0
    )
    return [result.cv_results_[f"split{k}_test_score"] for k in range(3)]


def table(client: Any, size: int) -> Any:
    few: dict[str, Any] = {
        "n_members": 4 * size,
        "max_iter": 8,
        "random_state": 0,
        "cv": 2,
    }
    return [
        TabularMLPRegressor(**few, client=client, **timeout(client))
        .fit(ROWS, TARGETS)
        .predict(ROWS)
    ]


def many(client: Any, size: int) -> Any:
    trained = mixed()
    fit_many(trained, X, Y, epochs=40 * size, client=client, **timeout(client))
    return [each.parameters for each in trained]


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
    if client is None:
        return {}
    return {"group_timeout": 120}


@on_workers
@unconverged
@pytest.mark.parametrize("fit", [search, table, many])
def test_a_worker_killed_at_a_random_moment_changes_nothing(
    client: Any, soak: bool, fit: Any
) -> None:
    random = Random(0)
    size = 8 if soak else 1
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
