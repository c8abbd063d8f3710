"""A fit on one process, or on several ranks: rows, agreements, and validation."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import collect_warnings
from fastmlp._process.random_state import shuffling_words
from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.blocks import in_blocks
from fastmlp.data.feed import Feed, tabled
from fastmlp.data.sources import targets_of
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.training.communicator import (
    Communicator,
    Exchange,
    T,
    communicator_of,
    digest,
)
from fastmlp.training.derivatives import NOT_GIVEN
from fastmlp.training.history import Callback, Report
from fastmlp.training.loop import ByBuffers, Request
from fastmlp.training.metrics import Measures, Metrics, OnePass, Validation
from fastmlp.training.options import (
    FitOptions,
    FitRows,
    RawRows,
    by_buffers,
    check_length,
    split_rows_of,
)
from fastmlp.validation import Array, arrays, frames, scalars
from fastmlp.validation.gaps import known_rows

CommunicatorLike: TypeAlias = Communicator | Literal["world"]


def check_ranks(
    communicator: object, average_every: object, device: str, who: str
) -> None:
    """Raise ValueError for `average_every` without ranks, or ranks on a GPU."""
    if average_every is not None:
        scalars.positive_integer(who, "average_every", average_every)
        if communicator is None:
            raise ValueError(
                f"{who}: average_every is for several ranks: give communicator="
            )
    if communicator is not None and device != "cpu":
        raise ValueError(
            f"{who}: communicator is for nets on the CPU, and this one is on {device}"
        )


# Random words of rank 0's generator for each order; each rank derives its words.
N_WORDS = 4
# A function's address in its repr differs between processes.
REPR_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
NO_ROWS = np.empty(0, np.int64)
NO_CONTEXT = nullcontext()


class OneProcess:
    """One process; `Together` has the same methods for several ranks."""

    def ending_together(self) -> AbstractContextManager[None]:
        """An error of one rank ends all."""
        return NO_CONTEXT

    def agreeing(self) -> AbstractContextManager[None]:
        """An error of one rank is raised on all."""
        return NO_CONTEXT

    def agree_on(self, options: FitOptions, network: Network, state: NetState) -> None:
        """Check that all ranks begin the same fit."""

    def rows(
        self,
        engine_of: Callable[[], Engine[Any]],
        raw: RawRows,
        options: FitOptions,
        names: frames.Names,
    ) -> tuple[Engine[Any], FitRows]:
        """The engine, and this rank's rows of a fit, checked."""
        engine = engine_of()
        rows = split_rows_of(engine, raw, options, names)
        rows = (raw.derivatives or NOT_GIVEN).attached(
            rows, engine.network, options.who
        )
        options.check_rows(engine.network, rows.held_out, options.who)
        return engine, rows

    def options(self, options: FitOptions, state: NetState) -> FitOptions:
        """Rank 0 alone has a clock, a bar and callbacks."""
        return options

    def buffered(
        self, request: Request, feed: Feed | None, engine: Engine[Any], state: NetState
    ) -> ByBuffers | None:
        """None if all rows are in memory."""
        return by_buffers(request, feed, engine, state)

    def n_rows(self, n: int) -> int:
        """The rows of all ranks, of which this one has n."""
        return n

    def trainer_options(self, average_every: int | None) -> Mapping[str, Any]:
        return {}

    def checkpoint_settings(self, average_every: int | None) -> Mapping[str, Any]:
        return {}

    def draw(
        self, generator: np.random.Generator, n_orders: int, n: int
    ) -> NDArray[np.uint32]:
        """Random words for orders of this rank's n rows, shape (n_orders, n)."""
        return shuffling_words(generator, n_orders, n)

    def new_validation(
        self, engine: Engine[Any], held_out: Data, metrics: Metrics
    ) -> Validation:
        return OnePass(engine, held_out, metrics)

    def of_first(self, flag: bool) -> bool:
        return flag

    def warning(self) -> AbstractContextManager[Any]:
        return NO_CONTEXT

    def joined(self, digests: dict[str, str]) -> dict[str, str]:
        """Digests of all ranks' rows."""
        return digests

    def resumed(self, resume: Callable[[], T], state: NetState) -> T:
        """The result of a function that rank 0 calls;
        all take the state that it leaves.
        """
        return resume()

    def interrupted(self, error: BaseException) -> None:
        """Ctrl-C is raised again on several ranks: it ends all."""


ONE_PROCESS = OneProcess()


def is_empty(X: Any) -> bool:
    """True for an array, a table, or a list of files, without rows."""
    if isinstance(X, str):
        return False
    if hasattr(X, "get_fragments"):
        return next(iter(X.get_fragments()), None) is None
    shape = getattr(X, "shape", None)
    if shape:
        return bool(shape[0] == 0)
    return hasattr(X, "__len__") and len(X) == 0


def rows_of_rank(
    engine: Engine[Any], raw: RawRows, options: FitOptions, names: frames.Names
) -> FitRows:
    """The rows as `split_rows_of` returns them; a rank may lack rows of either kind."""
    held_out = raw.validation_data
    has_rows = not is_empty(raw.X)
    pair = isinstance(held_out, tuple | list) and len(held_out) in (2, 3)
    held_out_is_empty = pair and is_empty(held_out[0])
    if held_out_is_empty or (not has_rows and options.validation_split is not None):
        held_out = _stand_in(engine.network)
        held_out_is_empty = True
    raw = raw._replace(validation_data=held_out)
    if not has_rows:
        raw = RawRows(*_stand_in(engine.network), None, held_out)
        options = replace(
            options, target=None, validation_split=None, class_weight=None
        )
        options = replace(options, buffer_rows=None, steps_per_epoch=None)
    rows = split_rows_of(engine, raw, options, names)
    if not has_rows:
        rows = rows._replace(data=rows.data._replace(rows=NO_ROWS))
    if held_out_is_empty:
        rows = rows._replace(held_out=rows.held_out._replace(rows=NO_ROWS))
    return rows


def _stand_in(network: Network) -> tuple[Any, Any]:
    """A row that is valid for the net, for a rank without rows."""
    sizes = network.layout.sizes
    loss = network.loss
    if loss.targets == "classes":
        return np.zeros((1, sizes[0])), np.zeros(1, np.int64)
    # 1 is a target of every loss.
    return np.zeros((1, sizes[0])), np.ones((1, sizes[-1] // loss.per_target))


def class_counts(
    raw: RawRows, options: FitOptions, names: frames.Names
) -> Counter[int]:
    X = raw.X
    y = raw.y
    who = options.who
    targets: Iterator[Any] = iter(())
    if y is not None and len(y):
        targets = iter([y])
    elif y is None and not is_empty(X):
        source = tabled(*in_blocks(X, y, None, who)[:2], options.target, who, names)
        targets = targets_of(source, who, ignores_gaps=options.ignores_gaps)
    if options.ignores_gaps:
        targets = (known_rows(y, who)[0] for y in targets)
    return arrays.class_counts(targets, who)


@final
class RanksFeed:
    """The buffers of one rank, one after the other, in step with the other ranks.

    An epoch ends where it has ended on all ranks;
    a rank that is done has no rows until then.

    Parameters
    ----------
    feed : Feed, or None for a rank whose rows are an array
    data : rows of the first buffer

    Attributes
    ----------
    rows : rows of the current buffer
    ends : True if an epoch of all ranks ends with it
    n_rows : of an epoch of all ranks, if known
    """

    is_whole = False
    rows: Any
    ends: bool
    n_rows: int | None

    def __init__(
        self, ranks: Exchange, engine: Engine[Any], feed: Feed | None, data: Data
    ) -> None:
        self._ranks = ranks
        self._engine = engine
        self._whole = data
        self._feed = None if feed is None or feed.is_whole else feed
        self.rows = data
        self._is_done = self._feed is None or self._feed.ends
        self._agree()
        own = (data.n_rows, data.n_rows) if self._feed is None else self._feed.sizes
        self._sizes = ranks.allgather_objects(own)
        known = [n for n, _ in self._sizes if n is not None]
        self.n_rows = sum(known) if len(known) == ranks.size else None

    def steps(self, batch_size: int) -> int:
        total = 0
        left = [n or 0 for n, _ in self._sizes]
        while any(left):
            of_buffer = [
                min(n, most) for n, (_, most) in zip(left, self._sizes, strict=True)
            ]
            total -= -sum(of_buffer) // batch_size
            left = [n - taken for n, taken in zip(left, of_buffer, strict=True)]
        return total

    def _agree(self) -> None:
        self.ends = bool(self._ranks.flags(self._is_done).all())

    def start(self, epoch: int) -> None:
        if self._feed is not None:
            self._feed.start(epoch)
        self.ends = self.ends or epoch > 0

    def next(self) -> None:
        if self._is_done and not self.ends:
            self.rows = self._whole._replace(rows=NO_ROWS)
        elif self._feed is None:
            self.rows = self._whole
        else:
            self._feed.next()
            self.rows = self._engine.trusted(*self._feed.rows)
            self._is_done = self._feed.ends
        self._agree()

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()


def ranks_of(
    communicator: CommunicatorLike | None, who: str
) -> "OneProcess | Together":
    checked = communicator_of(communicator, who)
    if checked is None or checked.Get_size() == 1:
        return ONE_PROCESS
    return Together(checked, who)


@final
class Together(Exchange):
    """The ranks of a fit; `OneProcess` has the same methods for one.

    All ranks have the same history, so they stop and lower rates alike.
    Rank 0 does the rest: clock, callbacks, warnings, bar, checkpoints.
    """

    def agree_on(self, options: FitOptions, network: Network, state: NetState) -> None:
        """Compare the settings that determine a fit's bits, as texts, on all ranks."""
        slots = state.slots()
        settings = {
            "epochs": options.epochs,
            "shuffle": options.shuffle,
            "steps_per_epoch": options.steps_per_epoch,
            "class_weight": options.class_weight,
            "batch_size": options.batch_size,
            "average_every": options.average_every,
            "validation": options.validated,
            "checkpoints": options.checkpoint is not None,
            "resume": options.resume,
            "layers, rules and penalties": network,
            "optimizer": state.optimizer,
            "early_stopping, callbacks and metrics": options.monitors(),
            "number of steps": state.n_steps,
        }
        texts = {
            name: REPR_ADDRESS.sub("", repr(value)) for name, value in settings.items()
        }
        texts["parameters (by seed=, or from a file)"] = digest(state.parameters)
        if slots is None:
            texts["optimizer's state"] = "zeros"
        else:
            texts["optimizer's state"] = digest(slots)
        self.agree(texts)

    def rows(
        self,
        engine_of: Callable[[], Engine[Any]],
        raw: RawRows,
        options: FitOptions,
        names: frames.Names,
    ) -> tuple[Engine[Any], FitRows]:
        whole, rest = divmod(options.batch_size, self.size)
        options = replace(options, batch_size=max(1, whole + (self.rank < rest)))
        if options.class_weight == arrays.BALANCED:
            with self.agreeing():
                own = class_counts(raw, options, names)
            counts = sum(self.allgather_objects(own), Counter[int]())
            options = replace(options, class_weight=arrays.balanced(counts))
        with self.agreeing():
            engine = engine_of()
            # Some ranks may lack gaps.
            options = replace(options, has_factors=options.ignores_gaps)
            rows = rows_of_rank(engine, raw, options, names)
            if rows.held_out is None or rows.held_out.n_rows:
                options.check_rows(engine.network, rows.held_out, options.who)
        all_names = self.allgather_objects(rows.names)
        return engine, rows._replace(names=next(filter(None, all_names), None))

    def options(self, options: FitOptions, state: NetState) -> FitOptions:
        return replace(
            options,
            callbacks=(partial(self._call_back, state, options.callbacks),),
            time_limit=options.time_limit if self.is_first else None,
            progress=options.progress and self.is_first,
        )

    def _call_back(
        self, state: NetState, callbacks: Sequence[Callback], report: Report
    ) -> None:
        """Rank 0 calls; all ranks then stop and take the parameters alike."""
        parameters, changed = state.parameters, False
        if self.is_first and callbacks:
            before = parameters.tobytes()
            for callback in callbacks:
                callback(report)
            changed = parameters.tobytes() != before
        stops, changed = self.flags(report.stopping, changed)[0]
        if changed:
            state.assign(self.broadcast(parameters))
        vars(report)["stopping"] = bool(stops)

    def buffered(
        self, request: Any, feed: Feed | None, engine: Engine[Any], state: NetState
    ) -> ByBuffers | None:
        if all(self.allgather_objects(feed is None or feed.is_whole)):
            return None
        buffers = RanksFeed(self, engine, feed, request.data)
        if buffers.n_rows is None:
            with self.agreeing():
                check_length(engine, state)
        else:
            request.steps_per_epoch = buffers.steps(request.batch_size)
        return ByBuffers(request, buffers, lambda data: data, self._size_of)

    def _size_of(self, data: Data) -> tuple[int, float]:
        sizes = self.allgather(np.array([data.n_rows, data.mass], np.float64))
        n_rows, mass = sizes.sum(axis=0)
        return int(n_rows), float(mass)

    def n_rows(self, n: int) -> int:
        total = int(self.allgather(np.array([n], np.int64)).sum())
        with self.agreeing():
            if not total:
                raise ValueError("MLP.fit: X has no rows on any rank")
        return total

    def trainer_options(self, average_every: int | None) -> Mapping[str, Any]:
        return {"ranks": self, "average_every": average_every}

    def checkpoint_settings(self, average_every: int | None) -> Mapping[str, Any]:
        return {"ranks": self.size, "average_every": average_every}

    def draw(
        self, generator: np.random.Generator, n_orders: int, n: int
    ) -> NDArray[np.uint32]:
        """Words follow from the rank's number and from words that rank 0 draws,
        whose number is fixed: rank 0's checkpoint is enough for all.
        """
        words = generator.integers(1 << 32, size=n_orders * N_WORDS, dtype=np.uint32)
        seeds = self.allgather(words)[0].reshape(n_orders, N_WORDS).tolist()
        own = [
            shuffling_words(np.random.default_rng([*seed, self.rank]), 1, n)
            for seed in seeds
        ]
        return np.concatenate(own)

    def new_validation(
        self, engine: Engine[Any], held_out: Data, metrics: Metrics
    ) -> "OnAllRanks":
        return OnAllRanks(self, engine, held_out, metrics)

    def of_first(self, flag: bool) -> bool:
        return bool(self.flags(flag)[0, 0])

    def warning(self) -> AbstractContextManager[Any]:
        if self.is_first:
            return nullcontext()
        return collect_warnings()

    def joined(self, digests: dict[str, str]) -> dict[str, str]:
        return {
            name: digest(*map(_bytes, self.allgather_objects(own)))
            for name, own in digests.items()
        }

    def resumed(self, resume: Callable[[], T], state: NetState) -> T:
        result: Any = None
        content: dict[str, Any] = {}
        with self.agreeing():
            if self.is_first:
                result = resume()
                if result is not None:
                    with state.lock.calling_back():
                        content = state.__getstate__()
                    # Every rank has both already.
                    del content["optimizer"], content["layout"]
        result, content = self.broadcast((result, content))
        if result is not None and not self.is_first:
            state.adopt(content)
        return result

    def interrupted(self, error: BaseException) -> None:
        raise error


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


class _Targets(NamedTuple):
    """The targets of all ranks' rows, as far as metrics look at `Data`."""

    y: Array
    weight: Array
    rows: None = None

    @property
    def n_rows(self) -> int:
        return len(self.y)


@final
class OnAllRanks:
    """The loss and the metrics of all ranks' validation rows, the same on all ranks.

    Rank 0 measures metrics, on the predictions of all.
    """

    def __init__(
        self, ranks: Exchange, engine: Engine[Any], held_out: Data, metrics: Metrics
    ) -> None:
        self._ranks = ranks
        self._mass = held_out.mass
        self._evaluation = engine.evaluation(held_out) if held_out.n_rows else None
        self._predictions: Array | None = None
        self._n_heads = len(engine.network.heads)
        self.head_losses: Array = np.empty(self._n_heads)
        if metrics:
            network = engine.network
            shape = (held_out.n_rows, network.layout.sizes[-1])
            self._predictions = np.empty(shape, network.dtype)
            y = self._joined(_in_use(held_out.y, held_out))
            weight = self._weights(held_out)
            whole: Any = _Targets(y, weight)
            self._measures = (
                Measures(metrics, network, whole) if ranks.is_first else None
            )

    def _weights(self, held_out: Data) -> Array:
        """The weights of all ranks' rows, shape (0,) if no rank has weights."""
        own = _in_use(held_out.weight, held_out)
        if not any(self._ranks.allgather_objects(bool(own.size))):
            return own
        return self._joined(
            own if own.size else np.ones(held_out.n_rows, held_out.weight.dtype)
        )

    def _joined(self, own: Array) -> Array:
        sizes = self._ranks.allgather(np.array([len(own)], np.int64))[:, 0].tolist()
        padded = np.zeros((max(sizes), *own.shape[1:]), own.dtype)
        padded[: len(own)] = own
        parts = self._ranks.allgather(padded.reshape(-1)).reshape(-1, *padded.shape)
        return np.concatenate([part[:n] for part, n in zip(parts, sizes, strict=True)])

    def __call__(self, parameters: Array) -> tuple[float, dict[str, float]]:
        losses = np.zeros(1 + self._n_heads)
        if self._evaluation is not None:
            losses[0] = self._evaluation(parameters, self._predictions)
            losses[1:] = self._evaluation.head_losses
        own = np.append(losses * self._mass, self._mass)
        sums = self._ranks.allgather(own).sum(axis=0)
        with np.errstate(all="ignore"):
            means = sums[:-1] / sums[-1]
        mean = float(means[0])
        self.head_losses = means[1:]
        if self._predictions is None:
            return mean, {}
        predictions = self._joined(self._predictions)
        values = {}
        if self._measures is not None:
            self._measures.predictions[:] = predictions
            values = self._measures()
        return mean, self._ranks.broadcast(values)


def _in_use(array: Array, data: Data) -> Array:
    if data.rows is None or not array.size:
        return array
    return array[data.rows]
