"""Fits over sources: in one buffer as arrays,
in several buffers as fits one after the other.
"""

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import killed_after

from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Blocks,
    Cosine,
    EarlyStopping,
    Report,
    Status,
    fit_many,
)
from fastmlp._process import memory
from fastmlp.compiler.jit import INTERPRETED

rng = np.random.default_rng(0)
N = 1000
X = rng.normal(size=(N, 5))
Y = X[:, 0] * X[:, 1]
LABELS = (Y > 0).astype(int)
WEIGHT = rng.uniform(0, 2, N)


def regression(**settings: Any) -> MLP:
    return MLP((5, 16, 1), **{"seed": 1, "optimizer": Adam(0.01), **settings})


def no_thread_is_left() -> bool:
    return not [one for one in threading.enumerate() if one.name == "fastmlp reader"]


def no_thread_is_started(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


class Source:
    """A source of the user's: two members, and what happens when a block is read."""

    def __init__(self, sizes: Sequence[int], change: Any = None) -> None:
        self.block_sizes = sizes
        self._change = change
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.n_read = 0

    def read(self, i: int) -> Any:
        self.n_read += 1
        part = slice(self.starts[i], self.starts[i + 1])
        content: Any = (X[part], Y[part])
        if self._change is None:
            return content
        return self._change(self, i, content)


@pytest.mark.parametrize(
    ("net", "y", "weight", "settings"),
    [
        (regression, Y, None, {}),
        (lambda: regression(dtype="float64"), Y, WEIGHT, {"shuffle": False}),
        (
            lambda: MLP((5, 8, 2), loss="cross_entropy", seed=1),
            LABELS,
            WEIGHT,
            {"class_weight": {0: 1.0, 1: 3.0}},
        ),
    ],
)
def test_one_buffer_has_the_bits_of_arrays(
    net: Any, y: Any, weight: Any, settings: Any
) -> None:
    nets = [net(), net()]
    options = {"epochs": 3, "batch_size": 64, **settings}
    held = (X[:100], y[:100])
    histories = [
        nets[0].fit(X, y, sample_weight=weight, validation_data=held, **options),
        nets[1].fit(
            Blocks.from_arrays(X, y, weight, rows=170),
            validation_data=Blocks.from_arrays(*held, rows=30),
            **options,
        ),
    ]
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert histories[0].loss == histories[1].loss
    assert histories[0].validation_loss == histories[1].validation_loss
    assert no_thread_is_left()


ALL_ON: dict[str, Any] = {
    "dropout": 0.2,
    "input_noise": 0.1,
    "optimizer": Adam(0.01, global_clipnorm=0.5, average=EMA(0.9)),
}


@pytest.mark.parametrize(
    ("shuffle", "batch", "settings"),
    [(True, 16, {}), (False, 16, ALL_ON), (True, 1, {})],
)
def test_buffers_train_as_arrays_in_turn(
    shuffle: bool, batch: int, settings: Any
) -> None:
    """Blocks in the order of the source's seed and the epoch,
    cut into buffers of whole batches; blocks of no rows, and larger than a buffer.
    """
    sizes = [70, 0, 300, 130, 200, 300]
    n_buffer = 256
    source = Source(sizes)
    nets = [regression(**settings) for _ in range(2)]
    options: dict[str, Any] = {"batch_size": batch, "shuffle": shuffle}
    history = nets[0].fit(
        source, epochs=2, buffer_rows=n_buffer + 15 % batch, **options
    )
    expected = []
    for epoch in range(2):
        if shuffle:
            order = np.random.default_rng([0, epoch]).permutation(6)
        else:
            order = np.arange(6)
        rows = np.concatenate(
            [np.arange(source.starts[i], source.starts[i + 1]) for i in order]
        )
        parts = [rows[first : first + n_buffer] for first in range(0, N, n_buffer)]
        losses = [
            nets[1].fit(X[part], Y[part], epochs=1, **options).loss[0] for part in parts
        ]
        expected.append(np.average(losses, weights=[len(part) for part in parts]))
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    np.testing.assert_allclose(history.loss, expected, rtol=1e-14)
    assert nets[0].n_steps == 2 * -(-N // batch)
    assert no_thread_is_left()


def test_weighted_buffers_of_a_schedule_train_as_arrays() -> None:
    nets = [regression(optimizer=SGD(Cosine(0.01))) for _ in range(2)]
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "shuffle": False}
    weight = np.where(np.arange(N) < 520, 0, WEIGHT)
    arrays = nets[0].fit(X, Y, sample_weight=weight, **options)
    # The first two buffers have no weight at all.
    blocks = nets[1].fit(
        Blocks.from_arrays(X, Y, weight, rows=90), buffer_rows=256, **options
    )
    assert arrays.learning_rate == blocks.learning_rate
    # In plain Python the weights of a batch, float32, are summed in float32.
    rtol = 1e-10 if INTERPRETED else 1e-14
    np.testing.assert_allclose(blocks.loss, arrays.loss, rtol=rtol)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_blocks_of_another_seed_have_another_order() -> None:
    nets = [regression() for _ in range(2)]
    for seed, net in enumerate(nets):
        net.fit(
            Blocks.from_arrays(X, Y, rows=50, seed=seed),
            epochs=1,
            batch_size=8,
            buffer_rows=200,
        )
    assert (nets[0].parameters != nets[1].parameters).any()


def test_blocks_are_split_as_their_arrays() -> None:
    nets = [regression(), regression()]
    options = dict[str, Any](epochs=3, validation_split=0.2)
    arrays = nets[0].fit(X, Y, sample_weight=WEIGHT, **options)
    blocks = nets[1].fit(Blocks.from_arrays(X, Y, WEIGHT, rows=170), **options)
    assert arrays.loss == blocks.loss
    assert arrays.validation_loss == blocks.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_early_stopping_and_callbacks_look_at_epochs() -> None:
    seen: list[float] = []

    def look(report: Report) -> None:
        seen.append(report.loss)
        if report.epoch == 4:
            report.stop()

    net = regression()
    source = Blocks.from_arrays(X, Y, rows=100)
    history = net.fit(
        source,
        epochs=50,
        batch_size=10,
        buffer_rows=300,
        validation_data=(X[:50], Y[:50]),
        metrics="mae",
        callbacks=look,
        early_stopping=EarlyStopping(patience=30),
    )
    assert history.status is Status.STOPPED
    assert (
        len(history.loss)
        == len(history.validation_loss)
        == len(history.metrics["mae"])
        == 5
    )
    assert seen == history.loss
    assert no_thread_is_left()


@pytest.mark.parametrize("average", [None, EMA(0.9)], ids=repr)
def test_a_divergence_goes_back_to_the_start_of_its_epoch(average: Any) -> None:
    def huge(source: Source, i: int, content: Any) -> Any:
        if source.n_read > 14:
            return (content[0], content[1] * 1e30)
        return content

    nets = [regression(optimizer=Adam(0.01, average=average)) for _ in range(2)]
    options: dict[str, Any] = {"batch_size": 10, "buffer_rows": 200}
    nets[0].fit(Source([100] * 10), epochs=1, **options)
    with pytest.warns(
        RuntimeWarning, match="fit diverged in epoch 2 .*before that ep"
    ) as warned:
        history = nets[1].fit(Source([100] * 10, huge), epochs=5, **options)
    assert len(warned) == 1
    assert history.status is Status.DIVERGED
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert nets[1].n_steps == 0
    assert no_thread_is_left()
    assert nets[1].fit(X, Y, epochs=1).loss[0] < 2


def test_what_a_source_raises_arrives_unchanged() -> None:
    def fails(source: Source, i: int, content: Any) -> Any:
        if source.n_read > 14:
            raise ConnectionError("gone")
        return content

    net = regression()
    histories = list[Any]()
    with pytest.raises(ConnectionError, match="gone") as caught:
        net.fit(
            Source([100] * 10, fails),
            epochs=3,
            batch_size=10,
            buffer_rows=200,
            callbacks=lambda report: histories.append(report.history),
        )
    assert [entry.name for entry in caught.traceback if entry.name == "fails"] == [
        "fails"
    ]
    assert histories[0].status is Status.INTERRUPTED
    assert net.n_steps > 100
    assert no_thread_is_left()
    net.fit(X, Y, epochs=1)


def test_what_an_iterator_raises_leaves_no_thread() -> None:
    net = regression()
    passes = iter((stream, failing))
    with pytest.raises(ConnectionError, match="gone"):
        net.fit(lambda: next(passes)(), epochs=3, batch_size=10, buffer_rows=200)
    assert no_thread_is_left()


def failing() -> Iterator[Any]:
    for k, block in enumerate(stream()):
        if k == 5:
            raise ConnectionError("gone")
        yield block


@pytest.mark.parametrize(
    "more", [{}, {"steps_per_epoch": 7}, {"validation_split": 0.3}]
)
def test_where_no_thread_can_be_started_the_caller_reads(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def go(report: Report) -> None:
        if report.epoch == 1:
            raise ConnectionError("gone")

    source = Blocks.from_arrays(X, Y, rows=70)
    kept = tmp_path / "fit.safetensors"
    options: dict[str, Any] = {"batch_size": 9, "buffer_rows": 150, **more}
    expected = regression()
    alone = regression()
    expected.fit(source, epochs=3, **options)
    monkeypatch.setattr(threading.Thread, "start", no_thread_is_started)
    alone.fit(source, epochs=3, **options)
    assert alone.parameters.tobytes() == expected.parameters.tobytes()
    with pytest.raises(ConnectionError, match="gone"):
        regression().fit(
            source,
            epochs=3,
            checkpoint=kept,
            checkpoint_every=1,
            callbacks=go,
            **options,
        )
    resumed = regression()
    resumed.fit(source, epochs=3, checkpoint=kept, resume=True, **options)
    assert resumed.parameters.tobytes() == expected.parameters.tobytes()
    passes = iter((stream, failing))
    with pytest.raises(ConnectionError, match="gone"):
        alone.fit(lambda: next(passes)(), epochs=3, batch_size=10, buffer_rows=200)


def test_ctrl_c_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupts(source: Source, i: int, content: Any) -> Any:
        if source.n_read == 14:
            signal.raise_signal(signal.SIGINT)
        return content

    monkeypatch.setattr(threading.Thread, "start", no_thread_is_started)
    net = regression()
    with pytest.warns(UserWarning, match="fit interrupted in epoch 2"):
        history = net.fit(
            Source([100] * 10, interrupts), epochs=3, batch_size=10, buffer_rows=200
        )
    assert history.status is Status.INTERRUPTED


def test_ctrl_c_while_a_source_blocks() -> None:
    blocked, free = threading.Event(), threading.Event()

    def waits(source: Source, i: int, content: Any) -> Any:
        if source.n_read > 14:
            blocked.set()
            free.wait(20)
        return content

    def interrupt() -> None:
        blocked.wait(20)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    net = regression()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.warns(UserWarning, match="fit interrupted in epoch 2"):
        history = net.fit(
            Source([100] * 10, waits), epochs=3, batch_size=10, buffer_rows=200
        )
    assert history.status is Status.INTERRUPTED
    thread.join()
    free.set()
    net.fit(X, Y, epochs=1)


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "buffer_rows": 512,
        "checkpoint": tmp_path / "fit.safetensors",
    }
    regression().fit(Blocks.from_arrays(X, Y, rows=100), **options)
    for other, words in (
        (Blocks.from_arrays(X, Y, rows=100, seed=1), "data is"),
        (Blocks.from_arrays(X[:900], Y[:900]), "n_rows is 1000, .* 900"),
    ):
        with pytest.raises(
            ValueError, match=f"a checkpoint of another fit: its {words}"
        ):
            regression().fit(other, resume=True, **options)


def endless() -> Iterator[Any]:
    while True:
        yield from stream()


# What makes the source, and settings.
SOURCES_OF_KILLED: dict[str, Any] = {
    "blocks": (lambda: Blocks.from_arrays(X, Y, rows=100), {}),
    "endless": (endless, {"steps_per_epoch": 45}),
    "blocks by steps": (
        lambda: Blocks.from_arrays(X, Y, rows=100),
        {"steps_per_epoch": 70},
    ),
}


def checkpointed(form: str, path: str | None, **settings: Any) -> bytes:
    net = regression()
    (make, options) = SOURCES_OF_KILLED[form]
    if path is not None:
        options = {**options, "checkpoint": path, "checkpoint_every": 1, "resume": True}
    net.fit(make(), epochs=5, batch_size=16, buffer_rows=272, **options, **settings)
    return net.parameters.tobytes()


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("form", SOURCES_OF_KILLED)
def test_a_process_that_is_killed_resumes_to_the_same_bits(
    form: str, tmp_path: Path
) -> None:
    """With `steps_per_epoch` the rows before are read again, and dropped."""
    pytest.importorskip("safetensors", reason="it writes checkpoints")
    path = str(tmp_path / "c")
    epochs = list[int]()
    killed_after(2, lambda kill: checkpointed(form, path, callbacks=kill))
    parameters = checkpointed(
        form, path, callbacks=lambda report: epochs.append(report.epoch)
    )
    assert epochs in ([2, 3, 4], [3, 4])
    assert parameters == checkpointed(form, None)
    assert no_thread_is_left()


def stream(rows: int = 90) -> Iterator[Any]:
    for first in range(0, N, rows):
        yield X[first : first + rows], Y[first : first + rows]


class Stream:
    """A loader: `iter` begins it anew."""

    def __iter__(self) -> Iterator[Any]:
        return stream()


@pytest.mark.parametrize("source", [stream, Stream(), lambda: map(list, stream(1))])
def test_streams_train_as_blocks_that_are_not_mixed(source: Any) -> None:
    """In one buffer, and in several; their length is not known before."""
    nets = [regression() for _ in range(4)]
    options = dict[str, Any](epochs=3, batch_size=16)
    arrays = nets[0].fit(X, Y, **options)
    assert nets[1].fit(source, validation_data=source, **options).loss == arrays.loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    one_block = nets[2].fit(Source([N]), buffer_rows=256, **options)
    several = nets[3].fit(source, buffer_rows=256, **options)
    assert several.loss == one_block.loss
    assert several.learning_rate == one_block.learning_rate
    assert nets[2].parameters.tobytes() == nets[3].parameters.tobytes()
    assert no_thread_is_left()


def test_a_generator_is_read_once() -> None:
    nets = [regression() for _ in range(2)]
    nets[0].fit(X, Y, epochs=1)
    nets[1].fit(stream(), epochs=1)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_a_generator_that_is_used_up_is_refused_in_the_second_pass() -> None:
    generator = stream()
    with pytest.raises(
        ValueError, match=r"has 0 rows in pass 2, but 1000 in the first; an iter"
    ):
        regression().fit(lambda: generator, epochs=2, batch_size=16, buffer_rows=256)
    assert no_thread_is_left()


def test_endless_streams_have_steps_per_epoch() -> None:
    """An epoch goes on in the block where the one before has ended;
    so does a finite stream.
    """

    options: dict[str, Any] = {"epochs": 4, "batch_size": 16, "shuffle": False}
    nets = [regression(optimizer=SGD(Cosine(0.01))) for _ in range(4)]
    place = np.arange(4 * 45 * 16) % N
    expected = nets[0].fit(X[place], Y[place], **options | {"epochs": 1})
    several: dict[str, Any] = {"steps_per_epoch": 45, "buffer_rows": 256}
    histories = [
        nets[1].fit(endless(), **several, **options),
        nets[2].fit(stream, **several, **options),
        nets[3].fit(Source([400, 600]), steps_per_epoch=45, **options),
    ]
    for net, history in zip(nets[1:], histories, strict=True):
        assert net.n_steps == 4 * 45
        assert net.parameters.tobytes() == nets[0].parameters.tobytes()
        assert np.mean(history.loss) == pytest.approx(expected.loss[0], rel=1e-12)
    with pytest.raises(ValueError, match="has 0 rows in pass 2, but 1000 in the first"):
        regression().fit(stream(), steps_per_epoch=45, **options)
    assert no_thread_is_left()


def test_schedules_need_the_number_of_steps() -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "buffer_rows": 256}
    net = regression(optimizer=Adam(Cosine(0.01)))
    with pytest.raises(
        ValueError, match=r"Cosine\(.*needs the number of steps, .* give n_steps="
    ):
        net.fit(stream, **options)
    net.optimizer = Adam(Cosine(0.01, n_steps=126))
    assert net.fit(stream, **options).learning_rate[-1] < 1e-5
    net.optimizer = Adam(average=SWA(0.5))
    with pytest.raises(
        ValueError, match=r"SWA\(start=0.5\) needs .*: give steps_per_epoch="
    ):
        net.fit(stream, **options)


@pytest.mark.parametrize("buffer_rows", [None, 256])
def test_a_part_of_the_blocks_is_held_out(buffer_rows: Any) -> None:
    """The last rows, as of arrays: a block may be cut;
    class weights are those of all rows.
    """

    def net() -> MLP:
        return MLP((5, 8, 2), loss="cross_entropy", seed=1)

    nets = [net(), net(), net()]
    options = dict[str, Any](epochs=2, batch_size=16, shuffle=False)
    more: dict[str, Any] = {
        "buffer_rows": buffer_rows,
        "class_weight": {0: 1.0, 1: 3.0},
    }
    arrays = nets[0].fit(
        X[:750],
        LABELS[:750],
        validation_data=(X[750:], LABELS[750:]),
        class_weight=more["class_weight"],
        **options,
    )
    source = Source(
        [400, 0, 300, 150, 150], lambda item, i, content: (content[0], part(item, i))
    )

    def part(item: Source, i: int) -> Any:
        return LABELS[item.starts[i] : item.starts[i + 1]]

    blocks = nets[1].fit(source, validation_split=0.25, **more, **options)
    np.testing.assert_allclose(blocks.loss, arrays.loss, rtol=1e-12)
    assert blocks.validation_loss == arrays.validation_loss
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    table = Blocks.from_arrays(X, LABELS, rows=90)
    (other,) = fit_many(
        [nets[2]],
        table,
        validation_split=0.25,
        epochs=2,
        batch_size=16,
        shuffle=False,
        buffer_rows=buffer_rows,
    )
    assert len(other.validation_loss) == 2
    if buffer_rows is None:
        with pytest.raises(
            ValueError, match="fit_many: give validation_data or validation_split"
        ):
            fit_many([net()], table, validation_split=0.25, validation_data=table)


@pytest.mark.parametrize("form", ["blocks", "stream", "file"])
def test_balanced_classes_take_a_pass_over_y(form: str, tmp_path: Path) -> None:
    def labels() -> Iterator[Any]:
        for first in range(0, N, 90):
            yield X[first : first + 90], LABELS[first : first + 90]

    source: Any = labels
    more: dict[str, Any] = {}
    if form == "blocks":
        source = Blocks.from_arrays(X, LABELS, rows=90)
    if form == "file":
        pq = pytest.importorskip("pyarrow.parquet", reason="it writes the file")
        source = tmp_path / "rows.parquet"
        more = {"target": "y"}
        columns = {name: X[:, j] for j, name in enumerate("abcde")}
        pq.write_table(
            pytest.importorskip("pyarrow").table({**columns, "y": LABELS}),
            source,
            row_group_size=90,
        )
    nets = [MLP((5, 8, 1), loss="binary_cross_entropy", seed=1) for _ in range(2)]
    options: dict[str, Any] = {"epochs": 2, "class_weight": "balanced"}
    nets[0].fit(X, LABELS, **options)
    nets[1].fit(source, **options, **more)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    if form == "stream":
        with pytest.raises(
            ValueError, match="a generator can be read once, and to look at the la"
        ):
            nets[1].fit(labels(), epochs=1, class_weight="balanced")


def test_rows_that_are_sorted_are_noticed() -> None:
    order = np.argsort(Y)
    options = dict[str, Any](epochs=2, batch_size=10, buffer_rows=200)
    with pytest.warns(UserWarning, match="the mean of y is .* in a later one"):
        regression().fit(Blocks.from_arrays(X[order], Y[order], rows=100), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regression().fit(
            Blocks.from_arrays(X[order], Y[order], rows=100), **options, shuffle=False
        )


@pytest.mark.parametrize("source", [stream, Source([100] * 10)])
def test_rows_to_validate_on_that_do_not_fit(
    source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused while they are read, and the net is as it was."""
    net = regression()
    before = net.parameters.tobytes()
    monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "available", lambda: 15_000)
    with pytest.raises(
        MemoryError, match=r"validation_data: to hold all rows of the source needs"
    ):
        net.fit(X, Y, validation_data=source)
    assert net.parameters.tobytes() == before


def test_large_maps_are_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    nets = [regression() for _ in range(3)]
    nets[0].fit(X, Y, epochs=1, sample_weight=WEIGHT)
    nets[1].fit(mapped, Y, epochs=1, sample_weight=WEIGHT)
    monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "available", lambda: mapped.nbytes)
    with pytest.warns(
        UserWarning, match=r"X is a memory map of 40 KB, and 40 KB .* in blocks"
    ):
        nets[2].fit(mapped, Y, epochs=1, sample_weight=WEIGHT, buffer_rows=N)
    for net in nets[1:]:
        assert net.parameters.tobytes() == nets[0].parameters.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.filterwarnings("ignore:MLP.fit. the mean of y")
def test_blocks_mix_as_well_as_a_full_shuffle() -> None:
    """Ten of 40 blocks in a buffer, over five seeds:
    in random order, and sorted by the target.
    """

    def rows(seed: int, n: int) -> tuple[Any, Any]:
        values = np.random.default_rng(seed)
        x = values.uniform(-1, 1, (n, 6)).astype(np.float32)
        return x, np.sin(3 * x[:, 0]) * x[:, 1] + x[:, 2] ** 2 + 0.3 * values.normal(
            size=n
        )

    (x, y), held_out = rows(0, 40_000), rows(1, 20_000)
    order = np.argsort(y)
    losses = dict[str, float]()
    options: dict[str, Any] = {
        "epochs": 10,
        "batch_size": 64,
        "validation_data": held_out,
    }
    for name, place in (("full", None), ("random", slice(None)), ("sorted", order)):
        losses[name] = 0.0
        for seed in range(5):
            net = MLP((6, 32, 32, 1), seed=seed)
            if place is None:
                history = net.fit(x, y, **options)
            else:
                blocks = Blocks.from_arrays(x[place], y[place], rows=1000)
                history = net.fit(blocks, buffer_rows=10_000, **options)
            losses[name] += history.validation_loss[-1] / 5
    assert losses["random"] < 1.01 * losses["full"]
    assert losses["sorted"] < 1.03 * losses["full"]


def bad(part: Any) -> Source:
    return Source(
        [500, 500], lambda source, i, content: part(*content) if i else content
    )


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            bad(lambda x, y: (np.where(x > 2, np.nan, x), y)),
            {},
            r"MLP.fit: block 1: X must be finite as float32, got nan in row \d+, "
            r"column \d",
        ),
        (
            bad(lambda x, y: (x[1:], y[1:])),
            {},
            "block 1 has 499 rows, but block_sizes has 500",
        ),
        (
            bad(lambda x, y: (x, y, y * 0)),
            {},
            "MLP.fit: block 1: all blocks must have a sample_weight, or none of them",
        ),
        (
            bad(lambda x, y: (x[:, 1:], y)),
            {},
            "MLP.fit: block 1: X has 4 features, .* 5 inputs",
        ),
        (
            bad(lambda x, y: x),
            {},
            r"MLP.fit: block 1 must be \(X, y\) or .* got ndarray",
        ),
        (Source([3, -1]), {}, "MLP.fit: a size of block_sizes must be an integer of 0"),
        (Source([]), {}, "MLP.fit: the source has no rows"),
        (
            Source([N]),
            {"buffer_rows": 500},
            "buffer_rows must be 16 times .* 512, got 500",
        ),
    ],
)
def test_what_is_refused(source: Any, settings: Any, message: str) -> None:
    net = regression()
    before = net.parameters.tobytes()
    with pytest.raises((TypeError, ValueError), match=message):
        net.fit(source, epochs=2, **settings)
    assert net.parameters.tobytes() == before
