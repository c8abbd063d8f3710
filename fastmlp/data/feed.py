"""A source's rows for one fit, buffer by buffer, which a thread reads ahead."""

import queue
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from itertools import count as counting
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory, task_pool, warn
from fastmlp.data import sources
from fastmlp.data.arrow import paths_of
from fastmlp.data.columns import source_of
from fastmlp.network.spec import Network
from fastmlp.validation import arrays, scalars
from fastmlp.validation.frames import is_table
from fastmlp.validation.gaps import known_rows
from fastmlp.validation.messages import count

# Standard errors between the means of two buffers that chance does not explain.
MOST_ERRORS = 6.0
T = TypeVar("T")
# Seconds of one wait, so that signals are handled,
# and of the wait for the thread's end.
WAIT_SECONDS, END_SECONDS = 0.1, 1.0
# Seconds of computing after which the reading of a buffer counts as a thread:
# about a call of the training loop, which keeps its number of threads.
LEAST_SECONDS = 0.05
# Share of the reading's time in which it computes.
# A source that waits more needs no core.
COMPUTING = 0.25


class TargetMoments(NamedTuple):
    """Number, mean and variance of the targets of some rows, shape (n_targets,)."""

    n: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def moments(y: NDArray[Any]) -> TargetMoments:
    return TargetMoments(
        len(y), y.mean(0, dtype=np.float64), y.var(0, dtype=np.float64)
    )


def warn_of_order(first: TargetMoments, later: TargetMoments, who: str) -> bool:
    """True, with a warning, if the means of two buffers are six standard errors
    apart.
    """
    error = np.sqrt(first.variance / first.n + later.variance / later.n)
    far = np.abs(first.mean - later.mean) > MOST_ERRORS * error
    if far.any():
        j = int(np.argmax(far))
        warn(
            f"{who}: the mean of y is {first.mean[j]:.4g} in the first buffer and "
            f"{later.mean[j]:.4g} in a later one: are the rows sorted? They mix badly "
            "then: mix the source once, or use smaller blocks and a larger buffer_rows",
            UserWarning,
        )
    return bool(far.any())


class Reader(Generic[T]):
    """Runs a generator in a thread, and passes items and errors to the caller's thread.

    The generator waits if it is too far ahead.
    Without a thread, the caller runs it item by item.
    """

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items
        self._ready: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._read, name="fastmlp reader", daemon=True)
        self._thread = thread if task_pool.started(thread) else None

    def _read(self) -> None:
        try:
            for item in self._items:
                self._ready.put(item)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> T | None:
        """The next item, None after the last; raises the generator's error."""
        while True:
            task_pool.check()
            if self._thread is None:
                return next(self._items, None)
            try:
                item = self._ready.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def join(self) -> None:
        """Wait at most `END_SECONDS` for the thread's end. A read may block forever."""
        if self._thread is not None:
            self._thread.join(END_SECONDS)


class Load:
    """Processor time of reading one buffer,
    which counts as a thread if it computes for long.

    Training then has one thread less: a team as large as the cores would wait at each
    barrier for the reading core. 502 -> 432 ns a row (20-64-64-1@256, 2 threads), 1378
    -> 1273 ns (20-128-128-1@64), both from Parquet.
    """

    def __init__(self, *, takes_thread: bool = False) -> None:
        # The fit imports the backend.
        from fastmlp.backends.cpu import limits

        self._thread = limits.reserved(1)
        self._computes = takes_thread
        self._since = 0.0, 0.0
        if takes_thread:
            self._thread.__enter__()

    def next(self) -> Self:
        """The load of the next buffer, which begins like the last that ended."""
        return type(self)(takes_thread=self._computes)

    def begin(self) -> None:
        self._since = time.thread_time(), time.perf_counter()

    def end(self) -> None:
        """End the reading, and free the thread."""
        cpu = time.thread_time() - self._since[0]
        wall = time.perf_counter() - self._since[1]
        self._computes = cpu > max(LEAST_SECONDS, COMPUTING * wall)
        self._thread.__exit__()


class FilledBuffer(NamedTuple):
    """A buffer with rows. `ends` is True at the end of an epoch."""

    buffer: sources.Buffer
    ends: bool


class Buffers(Protocol):
    """Successive buffers of rows: a `Feed`, or a part of one that many fits share."""

    @property
    def rows(self) -> sources.Rows: ...

    @property
    def ends(self) -> bool: ...

    @property
    def n_rows(self) -> int | None:
        """Number of rows of an epoch, None if unknown."""
        ...

    @property
    def is_whole(self) -> bool: ...

    def start(self, epoch: int) -> None: ...

    def next(self) -> None: ...

    def close(self) -> None: ...


@final
class Feed:
    """Buffers of a source's rows: a fit trains on one while a thread fills the next.

    All buffers but the last of an epoch have the same number of rows, a multiple of the
    batch size. Buffers may begin inside a block. The first is filled at once. `convert`
    makes rows of a block; `row_bytes` is approximate.
    """

    def __init__(
        self,
        source: sources.Opened,
        convert: sources.Convert,
        row_bytes: int,
        reading: sources.Reading,
        who: str,
    ) -> None:
        self._source = source
        self._convert = convert
        self._reading = reading
        self._who = who
        # Buffers to fill, and the loads of their readings.
        self._free: queue.SimpleQueue[tuple[sources.Buffer, Load] | None] = (
            queue.SimpleQueue()
        )
        self._load = self._ahead = Load()
        self._n_buffers, self._over = 0, threading.Event()
        self._reader: Reader[FilledBuffer] | None = None
        self._rows_of_first: int | None = None
        self._first: TargetMoments | None = None
        per_epoch = reading.rows_per_epoch
        self.n_rows: int | None = per_epoch
        if per_epoch is None:
            self.n_rows = self._source.n_rows
        self._buffer_rows = reading.rows_of_a_buffer(self.n_rows, row_bytes, who)
        # For a stream, the first buffer decides.
        self.is_whole: bool = per_epoch is None and self._buffer_rows == self.n_rows
        self._filling = self._fill(0)
        self._take(next(self._filling))
        self.is_whole = per_epoch is None and self.ends
        if self.is_whole:
            sources.require_weight(self.rows.weight, who)

    def _take(self, filled: FilledBuffer) -> None:
        self._buffer = filled.buffer
        self.rows: sources.Rows = filled.buffer.rows
        self.ends: bool = filled.ends

    @property
    def sizes(self) -> tuple[int | None, int]:
        """Rows of an epoch, or None, and rows of a buffer."""
        return self.n_rows, self._buffer_rows

    def start(self, epoch: int) -> None:
        """Begin to read ahead, in a thread that `close` ends.

        If a later epoch starts, its first rows come with `next`.
        """
        if epoch and self._reading.rows_per_epoch is not None:
            self._filling = self._after(epoch, self._filling)
        elif epoch:
            self._filling = self._fill(epoch)
        self._epochs_left = self._reading.epochs - epoch - (not epoch and self.ends)
        self._load = self._ahead = self._load.next()
        self._reader = Reader(self._filling)
        # Gaps have stand-ins, whose means differ.
        if self._reading.shuffle and not self._reading.ignores_gaps:
            self._first = moments(self.rows.y)

    def next(self) -> None:
        """Go on to the next buffer, which overwrites the rows of the previous one.

        Errors of the source are raised here, with their traceback.
        """
        assert self._reader is not None
        self._ahead = self._load.next()
        self._free.put((self._buffer, self._ahead))
        filled = self._reader.next()
        assert filled is not None
        self._take(filled)
        self._epochs_left -= self.ends
        if not self._epochs_left:
            self._ahead.end()
        # In the first epoch, until two buffers differ.
        first = self._first
        if first is not None and (
            warn_of_order(first, moments(self.rows.y), self._who) or self.ends
        ):
            self._first = None

    def close(self) -> None:
        self._over.set()
        self._free.put(None)
        if self._reader is not None:
            self._reader.join()
        self._load.end()
        self._ahead.end()

    def _filled(self, buffer: sources.Buffer, *, ends: bool) -> FilledBuffer:
        self._load.end()
        return FilledBuffer(buffer, ends)

    def _fill(self, first: int) -> Generator[FilledBuffer, None, None]:
        if self._reading.rows_per_epoch is not None:
            passes = (rows for number in counting() for rows in self._pass(number))
            yield from self._buffers(passes, self._reading.epochs)
            return
        for epoch in range(first, self._reading.epochs):
            yield from self._buffers(self._pass(epoch), 1)

    def _after(
        self, epochs: int, filling: Generator[FilledBuffer, None, None]
    ) -> Generator[FilledBuffer, None, None]:
        """Yield the buffers after some epochs of `steps_per_epoch`."""
        ended = int(self.ends)
        while ended < epochs:
            filled = next(filling, None)
            if filled is None:
                return
            ended += filled.ends
            # Training has not begun, so the load has ended and does not take a thread
            # again.
            self._free.put((filled.buffer, self._load))
        yield from filling

    def _pass(self, number: int) -> Iterator[sources.Rows]:
        """Yield the blocks of one pass,
        which must have as many rows as the first pass.
        """
        who = self._who
        n = 0
        mixed = self._reading.shuffle and not self.is_whole
        for piece in self._source.blocks(number, mixed=mixed):
            rows = self._convert(piece)
            if rows is not None:
                n += len(rows.x)
                yield rows
        expected = self._rows_of_first = self._rows_of_first or n
        if not expected:
            raise ValueError(f"{who}: the source has no rows")
        if n < expected:
            raise ValueError(
                f"{who}: the source has {count(n, 'row')} in pass {number + 1}, but "
                f"{expected} in the first; an iterator, or a reader, can be read once: "
                "pass a function that makes it anew, or epochs=1"
            )

    def _buffers(
        self, blocks: Iterator[sources.Rows], epochs: int
    ) -> Generator[FilledBuffer, None, None]:
        """Yield buffers. Epochs end after `rows_per_epoch`, or with the blocks."""
        per_epoch = self._reading.rows_per_epoch
        buffer: sources.Buffer | None = None
        left = per_epoch
        for rows in blocks:
            if self._over.is_set():
                return
            first = 0
            n = len(rows.x)
            while first < n:
                if buffer is not None and buffer.is_full:
                    yield self._filled(buffer, ends=False)
                    buffer = None
                if buffer is None and (buffer := self._empty_buffer(rows)) is None:
                    return
                before = first
                last = n if left is None else min(n, first + left)
                first = buffer.add(rows, first, last)
                if left is None:
                    continue
                left -= first - before
                if not left:
                    yield self._filled(buffer, ends=True)
                    buffer = None
                    left = per_epoch
                    epochs = epochs - 1
                    if not epochs:
                        return
        if buffer is not None:
            yield self._filled(buffer, ends=True)

    def _empty_buffer(self, like: sources.Rows) -> sources.Buffer | None:
        """One of two buffers to fill, None after the end of the fit."""
        if self._n_buffers < 2:
            self._n_buffers += 1
            n_rows = self._buffer_rows
            memory.require(
                n_rows * like.row_bytes(), self._who, f"a buffer of {n_rows} rows"
            )
            buffer = sources.Buffer(n_rows, like)
        else:
            free = self._free.get()
            if free is None:
                return None
            buffer, self._load = free
            buffer.clear()
        self._load.begin()
        return buffer


def feed_of(
    X: Any,
    y: Any,
    sample_weight: Any,
    network: Network,
    reading: sources.Reading,
    who: str,
) -> Feed | None:
    """The feed of a source X, None for arrays."""
    steps = reading.steps_per_epoch
    if steps is not None:
        scalars.positive_integer(who, "steps_per_epoch", steps)
    # An iterator beside y stands for an array.
    if not sources.has_blocks(X) and (y is not None or not sources.is_source(X)):
        _check_arrays(X, y, reading, who)
        return None
    check_source(X, y, sample_weight, reading, who)
    names = getattr(X, "feature_names", None)
    class_weight = reading.class_weight
    if isinstance(class_weight, str) and class_weight == arrays.BALANCED:
        targets = sources.targets_of(X, who, ignores_gaps=reading.ignores_gaps)
        if reading.ignores_gaps:
            targets = (known_rows(y, who)[0] for y in targets)
        class_weight = arrays.balanced(arrays.class_counts(targets, who))
    convert = sources.Conversion(
        network, who, class_weight, names, ignores_gaps=reading.ignores_gaps
    )
    return Feed(sources.opened(X, who), convert, convert.row_bytes, reading, who)


def check_source(
    X: Any, y: Any, sample_weight: Any, reading: sources.Reading, who: str
) -> None:
    """Refuse arguments that a source cannot serve, such as y or a second pass."""
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise TypeError(
                f"{who}: {name} comes with the blocks of a source: leave {name} out"
            )
    if reading.validation_split is not None:
        raise ValueError(
            f"{who}: validation_split needs arrays, or blocks, whose last rows are "
            "known; with a stream give validation_data=(X_val, y_val), or another "
            "source"
        )
    balanced = isinstance(reading.class_weight, str)
    if balanced and reading.steps_per_epoch is not None and not sources.has_blocks(X):
        raise ValueError(
            f"{who}: class_weight={reading.class_weight!r} takes a pass over the "
            f"labels, and a "
            "stream with steps_per_epoch may have no end: give a mapping, such as {0: "
            "1.0, 1: 5.0}"
        )
    if (
        hasattr(X, "__next__")
        and reading.epochs > 1
        and reading.steps_per_epoch is None
    ):
        name = getattr(X, "__name__", "<genexpr>")
        if name == "<genexpr>":
            named = ""
        else:
            named = f", as {name} without brackets,"
        instead = getattr(X, "instead", f"pass the function that makes it{named}")
        raise ValueError(
            f"{who}: {sources.source_word(X)} can be read once, but "
            f"epochs={reading.epochs}: {instead} or epochs=1; an endless one needs "
            "steps_per_epoch"
        )


def _check_arrays(X: Any, y: Any, reading: sources.Reading, who: str) -> None:
    if y is None:
        raise TypeError(
            f"{who}: missing 1 required argument: 'y'; call {who}(X, y), or "
            f"{who}(source), with a source such as Blocks; got X of type "
            f"{type(X).__name__}"
        )
    for name in ("buffer_rows", "steps_per_epoch"):
        if getattr(reading, name) is not None:
            raise ValueError(
                f"{who}: {name} needs a source, such as Blocks, and X is not a source"
            )


def tabled(
    X: Any, y: Any, target: Any, who: str, features: Sequence[str] | None = None
) -> Any:
    """The source of files and tables by target; other objects are returned unchanged.

    `features` are names of columns of X, None for all but the target.
    """
    if target is None:
        arrays.unnamed(y, who)
        if y is None and paths_of(X) is not None:
            raise TypeError(f"{who}: files need target=, the name of the column of y")
        if y is None and is_table(X):
            raise TypeError(
                f"{who}: missing y: call {who}(X[features], X['y']), or {who}(X, "
                "target='y') with the name of the column of y"
            )
        return X
    if y is not None:
        raise TypeError(f"{who}: give y, or target={target!r}, a column of X, not both")
    return source_of(X, target, who, features)
