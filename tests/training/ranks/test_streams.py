"""Sources of rows and checkpoints on several ranks: the bits of one undisturbed fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fitting import Cut, cut_after
from ranked import on_ranks, outcomes, parts_of, slots_of

from fastmlp import EMA, MLP, Adam, Blocks, Cosine, EarlyStopping, Status, load
from fastmlp.compiler.jit import INTERPRETED

rng = np.random.default_rng(0)
N = 2000
X = rng.normal(size=(N, 5))
Y = np.sin(X[:, :1]) * X[:, 1:2]
# In buffers of 320 rows: 4, 1, none and 3.
SHARES = (1200, 70, 0, 730)
STARTS = np.cumsum([0, *SHARES])


def made(**settings: Any) -> MLP:
    return MLP((5, 16, 1), **{"seed": 1, "dtype": "float64", "optimizer": Adam(0.01), **settings})


def blocks(rank: int) -> Any:
    """The rows of a rank: blocks, or an array for one that has none."""
    if not SHARES[rank]:
        return X[:0], Y[:0]
    rows = slice(STARTS[rank], STARTS[rank + 1])
    return (Blocks.from_memmap(X[rows], Y[rows], rows=50),)


def stream(rank: int) -> Any:
    if not SHARES[rank]:
        return X[:0], Y[:0]

    def read() -> Iterator[Any]:
        for first in range(STARTS[rank], STARTS[rank + 1], 50):
            rows = slice(first, min(first + 50, STARTS[rank + 1]))
            yield X[rows], Y[rows]

    return (read,)


def fitted(source: Any, net: Any = made, **options: Any) -> list[Any]:
    def fit(communicator: Any) -> Any:
        own, rows = net(), source(communicator.Get_rank())
        settings: dict[str, Any] = {"batch_size": 64, "epochs": 3, "buffer_rows": 320, **options}
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


def test_an_epoch_has_the_loss_of_all_rows() -> None:
    def net() -> MLP:
        return made(optimizer=Adam(1e-12))

    (_, history), *_ = fitted(blocks, net)
    expected = float(np.mean((net().predict(X) - Y) ** 2))
    np.testing.assert_allclose(history.loss, expected, rtol=1e-6)


def test_schedules_know_the_steps_of_all_buffers() -> None:
    (net, history), *_ = fitted(blocks, lambda: made(optimizer=Adam(Cosine(0.01))))
    last = Cosine(0.01)(np.array([net.n_steps - 1]), net.n_steps)
    np.testing.assert_allclose(history.learning_rate[-1], last)
    result = outcomes(
        4,
        lambda comm: made(optimizer=Adam(Cosine(0.01))).fit(
            *stream(comm.Get_rank()), batch_size=16, buffer_rows=320, communicator=comm
        ),
    )
    assert all("needs the number of steps" in str(error) for error in result)


def test_whole_sources_train_in_the_bits_of_arrays() -> None:
    def arrays(rank: int) -> Any:
        return parts_of(X, SHARES)[rank], parts_of(Y, SHARES)[rank]

    (of_blocks, _), *_ = fitted(blocks, buffer_rows=None)
    (of_arrays, _), *_ = fitted(arrays, buffer_rows=None)
    assert of_blocks.parameters.tobytes() == of_arrays.parameters.tobytes()


def test_epochs_of_so_many_steps() -> None:
    def endless(rank: int) -> Any:
        def read() -> Iterator[Any]:
            while True:
                yield X[rank::4][:50], Y[rank::4][:50]

        return (read,)

    (net, history), *_ = fitted(endless, batch_size=30, steps_per_epoch=7, epochs=4)
    assert (net.n_steps, len(history.loss)) == (28, 4)


def test_a_source_that_fails_on_one_rank_ends_all() -> None:
    def source(rank: int) -> Any:
        def read() -> Iterator[Any]:
            for first in range(0, 1000, 50):
                if rank == 2 and first == 700:
                    raise ConnectionError("gone")
                yield X[first : first + 50], Y[first : first + 50]

        return read

    def fit(comm: Any) -> Any:
        settings: Any = {"batch_size": 16, "epochs": 3, "buffer_rows": 256}
        return made().fit(source(comm.Get_rank()), communicator=comm, **settings)

    result = outcomes(4, fit)
    assert isinstance(result[2], ConnectionError)
    assert all(isinstance(each, RuntimeError) for i, each in enumerate(result) if i != 2)


@pytest.mark.slow
def test_a_stream_resumes_to_the_bits_of_one_that_was_not_killed(tmp_path: Path) -> None:
    options: Any = {"batch_size": 64, "epochs": 4, "buffer_rows": 320}

    def fit(comm: Any, **more: Any) -> Any:
        net = made(dropout=0.1)
        history = net.fit(*blocks(comm.Get_rank()), communicator=comm, **{**options, **more})
        return net.parameters.tobytes(), history.loss

    file = tmp_path / "fit.safetensors"
    kept: Any = {"checkpoint": file, "checkpoint_every": 1}
    whole = on_ranks(4, fit)
    outcomes(4, lambda comm: fit(comm, callbacks=cut_after(1), **kept))
    assert on_ranks(4, lambda comm: fit(comm, resume=True, **kept)) == whole


def test_files_and_row_groups_are_dealt_to_ranks(tmp_path: Path) -> None:
    table = pa.table({**{f"x{i}": X[:, i] for i in range(5)}, "y": Y[:, 0]})
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
        groups = [group for file in rows.get_fragments() for group in file.split_by_row_group()]
        values = groups[comm.Get_rank() :: comm.Get_size()]
        return fit(comm, ds.FileSystemDataset(values, rows.schema, ds.ParquetFileFormat()))

    for of_rank in (of_files, of_groups):
        result = on_ranks(4, of_rank)
        assert len(set(result)) == 1
        assert result[0][1] == 2 * -(-1800 // 64)


SHARES_OF_FEW = (60, 3, 0, 37)
FEW_ROWS = rng.normal(size=(100, 5))
FEW_TARGETS = np.sin(FEW_ROWS[:, :1]) * FEW_ROWS[:, 1:2]


def fit_on(
    communicator: Any, shares: Any = SHARES_OF_FEW, rows: Any = FEW_ROWS, **options: Any
) -> Any:
    rank = communicator.Get_rank()
    net = MLP((5, 16, 1), optimizer=Adam(0.01, average=EMA(0.9)), dropout=0.2, seed=1)
    settings: dict[str, Any] = {
        "epochs": 8,
        "batch_size": 16,
        "communicator": communicator,
        **options,
    }
    history = net.fit(parts_of(rows, shares)[rank], parts_of(FEW_TARGETS, shares)[rank], **settings)
    return net.parameters.tobytes(), history, slots_of(net).tobytes()


@pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
@pytest.mark.parametrize(
    ("every", "stopping"), [(None, EarlyStopping(patience=20, monitor="loss")), (3, None)]
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
        return fit_on(communicator, checkpoint=file, checkpoint_every=2, **options, **more)

    killed = outcomes(4, lambda comm: kept(comm, callbacks=cut_after(3)))
    assert [type(each) for each in killed] == [Cut] + [RuntimeError] * 3
    resumed = on_ranks(4, lambda comm: kept(comm, resume=True))
    for (parameters, history, slots), (expected, item, state) in zip(resumed, whole, strict=True):
        assert parameters == expected
        assert slots == state
        assert history.loss == item.loss
        assert history.best_epoch == item.best_epoch
    assert load(folders[0] / "fit.safetensors").n_steps > 0


@pytest.mark.skipif(INTERPRETED, reason="dozens of fits in plain Python")
def test_a_checkpoint_of_other_ranks_or_rows_is_refused(tmp_path: Path) -> None:
    def fit(shares: Any, **arguments: Any) -> list[Any]:
        settings: Any = {"checkpoint": tmp_path / "fit.safetensors", "epochs": 2, **arguments}
        return outcomes(len(shares), lambda comm: fit_on(comm, shares, **settings))

    fit(SHARES_OF_FEW)
    for shares, arguments, message in (
        ((60, 40), {}, "its data is"),
        (SHARES_OF_FEW, {"average_every": 2}, "its average_every is None, here it is 2"),
        (SHARES_OF_FEW, {"rows": FEW_ROWS + 1}, "its data is"),
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
