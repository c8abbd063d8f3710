"""Nets of a call, each with rows, epochs and batch size, from arrays or one source."""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastmlp._process import task_pool
from fastmlp.backends.protocol import Data, Order
from fastmlp.data.arrow import paths_of
from fastmlp.data.feed import Feed
from fastmlp.data.sources import Rows, has_blocks, is_source
from fastmlp.model import MLP, Core, core_of
from fastmlp.network import layer_settings
from fastmlp.training.derivatives import NOT_GIVEN, Given
from fastmlp.training.loop import cost_of
from fastmlp.training.options import FitOptions, FitRows, RawRows, rows_of, split
from fastmlp.training.second_order import DEFAULT_BATCH, batch_size_for
from fastmlp.validation import arrays, frames, scalars
from fastmlp.validation.arrays import unnamed
from fastmlp.validation.frames import Names, is_table
from fastmlp.validation.gaps import n_axes
from fastmlp.validation.messages import listed

WHO = "fit_many"


class NetJob(NamedTuple):
    """One net's checked part of the call.

    Attributes
    ----------
    data, held_out : Data, to train and to validate on; held_out may be None
    batch_size : at most the number of rows
    names : of the columns of X, or None
    number : of the net in the call
    """

    net: MLP
    data: Data
    held_out: Data | None
    epochs: int
    batch_size: int
    names: frames.Names
    number: int

    @property
    def core(self) -> Core:
        """Engine and state of the net; a copy in another process makes a new engine."""
        core = core_of(self.net)
        if self.data.derivatives is None:
            return core
        return core._replace(engine=self.net._with_derivatives())

    @property
    def cost(self) -> float:
        """Approximate operations of the fit at full speed."""
        return cost_of(
            self.core.state.layout, self.data.n_rows, self.epochs, self.batch_size
        )


def nets_of(sequence: Any, caller: str = WHO) -> list[MLP]:
    """The nets as a list, after a check that they are distinct `MLP`."""
    if isinstance(sequence, MLP) or not isinstance(sequence, Iterable):
        raise TypeError(f"{caller}: nets must be a sequence of MLP, got {sequence!r}")
    nets = list(sequence)
    places = dict[int, int]()
    for i, net in enumerate(nets):
        if not isinstance(net, MLP):
            raise TypeError(
                f"{caller}: nets must be a sequence of MLP, but nets[{i}] is {net!r}"
            )
        if places.setdefault(id(net), i) != i:
            raise ValueError(
                f"{caller}: nets[{i}] is the net that nets[{places[id(net)]}] is; "
                "make another, or copy it: copy.deepcopy(net)"
            )
    return nets


def jobs_of(
    nets: list[MLP],
    X: Any,
    y: Any,
    epochs: Any,
    batch_size: Any,
    rows: Any,
    held_out: tuple[Any, Any],
    weights: tuple[Any, bool],
    *,
    given: Given = NOT_GIVEN,
) -> list[NetJob]:
    """Checked jobs of the nets.

    `held_out` are the rows to validate on, and the fraction to hold out; one of them is
    None. `weights` are weights of rows or targets, and True if gaps in y are ignored.
    """
    n = len(nets)
    (sample_weight, ignores) = weights
    validation_rows, validation_split = held_out
    each_epochs = each_integer(epochs, "epochs", n)
    sizes = (
        [None] * n if batch_size is None else each_integer(batch_size, "batch_size", n)
    )
    shared = Shared(X, y, ignores)
    each_weight = _each(sample_weight, "sample_weight", n)
    # X first: a wrong X would else be reported as rows out of range.
    cores = [core_of(net) for net in nets]
    for i, core in enumerate(cores):
        layer_settings.require_trained(core.engine.network, who(i))
    named = [shared.data(core, each_weight[i], who(i)) for i, core in enumerate(cores)]
    wholes = [data for data, _ in named]
    each_names = [names for _, names in named]
    each_rows = shared.indices(rows, "rows", n)
    each_held_out = shared.indices(validation_rows, "validation_rows", n)
    jobs = []
    n_outputs = min((core.state.layout.sizes[-1] for core in cores), default=1)
    each_given = given.of_nets(n, n_outputs, WHO)
    for i, (net, whole) in enumerate(zip(nets, wholes, strict=True)):
        taken = each_rows[i]
        looked_at = each_held_out[i]
        data = whole if taken is None else whole._replace(rows=taken)
        if looked_at is None:
            validated = None
        else:
            validated = whole._replace(rows=looked_at)
        for part in (data, validated):
            if part is not None and part.mass == 0:
                raise ValueError(
                    f"{who(i)}: sample_weight must not be 0 in all of its rows"
                )
        if validation_split is not None:
            data, validated = split(data, validation_split, who(i))
        network = cores[i].engine.network
        each_given[i].check(network, net.device, net.optimizer, who(i))
        parts = FitRows(None, data, validated, each_names[i])
        _, data, validated, _ = each_given[i].attached(parts, network, who(i))
        batch = min(batch_size_for(net.optimizer, sizes[i], who(i)), data.n_rows)
        jobs.append(
            NetJob(net, data, validated, each_epochs[i], batch, each_names[i], i)
        )
    return jobs


def check_generators(jobs: list[NetJob]) -> None:
    """Raise if two nets shuffle by one generator:
    bits would depend on the first thread.
    """
    places = dict[int, int]()
    for i, job in enumerate(jobs):
        if job.batch_size < job.data.n_rows:
            first = places.setdefault(id(job.core.state.generator), i)
            if first != i:
                raise ValueError(
                    f"{who(i)} shuffles by the generator that nets[{first}] does; make "
                    "each net with a seed of its own, as one of generator.spawn(n)"
                )


class Shared:
    """X, y and weights in the nets' forms, each form made once and shared."""

    def __init__(self, X: Any, y: Any, ignores_gaps: bool = False) -> None:
        self._ignores = ignores_gaps
        own = frames.named(X, None, WHO, warns=True)
        self._x = own[0]
        self._y = y
        self._made: dict[Any, Any] = {("named", None): own}
        # Objects known by their id must stay alive.
        self._kept: list[Any] = []

    @property
    def n_rows(self) -> int:
        """Number of rows of X; 0 where X is not an array."""
        return len(self._x) if hasattr(self._x, "__len__") else 0

    def data(self, core: Core, weight: Any, who: str) -> tuple[Data, frames.Names]:
        """All rows, in the form and on the device of a net,
        and the names of columns.
        """
        self._kept.append(weight)
        known = core.state.feature_names
        select = partial(frames.named, self._x, known, who)
        x, names = self.memo(("named", known), select)
        network = core.engine.network
        queue = core.engine.queue
        dtype = network.dtype
        kind = network.layout.sizes[0], dtype, network.targets, queue
        own = None if x is self._x else names
        by_head = isinstance(weight, tuple | Mapping)
        if self._ignores or by_head or n_axes(weight) == 2:
            read = core.engine.data
            make = partial(read, x, self._y, weight, who, ignore=self._ignores)
            return self.memo((own, kind, id(weight)), make), names
        data = self.memo((own, kind), partial(core.engine.data, x, self._y, None, who))
        # Separate, as nets of one kind may have a weight each.
        weigh = partial(core.engine.weights, weight, data.n_rows, who)
        weight = self.memo(("weight", id(weight), dtype, queue), weigh)
        return data._replace(weight=weight), names

    def indices(self, values: Any, name: str, n: int) -> list[Order | None]:
        """Checked indices of rows for each net, or None."""
        indices: list[Order | None] = []
        if values is None:
            return [None] * n
        for i, rows in enumerate(_each(values, name, n)):
            self._kept.append(rows)
            make = partial(arrays.row_index, rows, self.n_rows, who(i), name)
            indices.append(
                None if rows is None else self.memo(("index", id(rows)), make)
            )
        return indices

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def who(i: int) -> str:
    return f"{WHO}: nets[{i}]"


def each_integer(values: Any, name: str, n: int) -> list[int]:
    """One integer per net, from one for all or from a sequence."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [scalars.positive_integer(WHO, name, values)] * n
    numbers = list(values)
    _as_many(numbers, name, n)
    return [
        scalars.positive_integer(WHO, f"{name}[{i}]", k) for i, k in enumerate(numbers)
    ]


def _each(values: Any, name: str, n: int) -> list[Any]:
    """One array or None per net, from one for all or from a sequence."""
    if not isinstance(values, Sequence) and not (
        isinstance(values, np.ndarray) and values.ndim
    ):
        return [values] * n
    if len(values) == 0 or (np.ndim(values[0]) == 0 and values[0] is not None):
        return [values] * n
    parts = list(values)
    _as_many(parts, name, n)
    return parts


def _as_many(values: Sequence[Any], name: str, n: int) -> None:
    if len(values) != n:
        raise ValueError(
            f"{WHO}: there are {n} nets, but {name} has the length {len(values)}"
        )


# Seconds of one wait.
LOOK_SECONDS = 0.1


def is_over_source(
    X: Any, y: Any, validation_data: Any, parts: Mapping[str, Any]
) -> bool:
    """True if X is a source; `parts` are arguments that go with arrays."""
    unnamed(y, WHO)
    if y is not None and not has_blocks(X):
        if validation_data is not None:
            raise TypeError(
                f"{WHO}: validation_data is for a source; use validation_split=0.2, or "
                "validation_rows, indices of rows of X"
            )
        return False
    if y is None and not is_source(X) and not is_table(X) and paths_of(X) is None:
        raise TypeError(
            f"{WHO}: missing 1 required argument: 'y'; call {WHO}(nets, X, y), or "
            f"{WHO}(nets, source), with a source such as Blocks; got X of type "
            f"{type(X).__name__}"
        )
    for name, value in parts.items():
        if value is not None:
            if name.startswith("validation"):
                advice = "validation_data"
            else:
                advice = f"no {name}"
            raise TypeError(f"{WHO}: {name} is for arrays; with a source give {advice}")
    return True


def jobs_over(
    nets: Sequence[MLP],
    rows: tuple[Any, Any],
    validation_data: Any,
    options: FitOptions,
    sizes: tuple[Any, Any],
) -> tuple[list[NetJob], Feed | None]:
    """Jobs of the nets over a source, and the feed of the first buffer.

    Parameters
    ----------
    rows : the source, and y, which must be None
    options : FitOptions, without epochs and batch size
    sizes : epochs and batch size, each one number or one for each net
    """
    epochs = each_integer(sizes[0], "epochs", len(nets))
    given = DEFAULT_BATCH if sizes[1] is None else sizes[1]
    batch_sizes = each_integer(given, "batch_size", len(nets))
    if not nets:
        return [], None
    cores = [core_of(net) for net in nets]
    first_form = None
    for i, core in enumerate(cores):
        network = core.engine.network
        form = (network.layout.sizes[0], network.dtype, network.targets)
        if first_form is None:
            first_form = form
        if core.engine.queue is not None:
            raise ValueError(f"{who(i)} is on a GPU: with a source use its own fit")
        if form != first_form:
            raise ValueError(
                f"{who(i)} has other inputs, outputs, targets or another dtype than "
                "nets[0]: with a source make a call for each kind"
            )
    # A buffer holds whole batches of each net.
    options = options.having(epochs=max(epochs), batch_size=math.lcm(*batch_sizes))
    raw = RawRows(*rows, None, validation_data)
    feed, data, held_out, names = rows_of(
        cores[0].engine, raw, options, _names_of(cores)
    )
    assert feed is not None
    by_net = zip(nets, epochs, batch_sizes, strict=True)
    jobs = [
        NetJob(net, data, held_out, n_epochs, min(batch_size, data.n_rows), names, i)
        for i, (net, n_epochs, batch_size) in enumerate(by_net)
    ]
    return jobs, feed


def _names_of(cores: Sequence[Core]) -> Names:
    """Names of columns that nets know, which must be equal."""
    first: Names = None
    for i, core in enumerate(cores):
        names = core.state.feature_names
        if names is not None and first is not None and names != first:
            raise ValueError(
                f"{who(i)} has the feature_names {listed([*names])}, and nets before "
                f"it have {listed([*first])}: with a source make a call for each kind"
            )
        first = first or names
    return first


class SharedFeed:
    """A feed for many fits that share some cores, each in a separate thread.

    Parameters
    ----------
    n_fits : int, which all take `part`
    n_threads : int, number of concurrent fits
    """

    def __init__(self, feed: Feed, n_fits: int, n_threads: int) -> None:
        self._feed, self._cores = feed, threading.Semaphore(n_threads)
        self._changed = threading.Condition()
        self._number = self._waiting = 0
        self._active = n_fits
        self._starts = True

    def part(self) -> "FeedPart":
        return FeedPart(self, self._feed)

    def close(self) -> None:
        self._feed.close()

    def enter(self) -> None:
        """Begin a fit: wait for a core."""
        with self._changed:
            if self._starts:
                self._feed.start(0)
            self._starts = False
        self._take_core()

    def leave(self) -> None:
        self._cores.release()
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def advance(self) -> None:
        """Wait for all fits; the last one reads the next buffer."""
        self._cores.release()
        with self._changed:
            number = self._number
            self._waiting += 1
            while self._number == number:
                if self._waiting == self._active:
                    self._waiting = 0
                    self._feed.next()
                    self._number += 1
                    self._changed.notify_all()
                else:
                    self._changed.wait(LOOK_SECONDS)
                    task_pool.check()
        self._take_core()

    def _take_core(self) -> None:
        while not self._cores.acquire(timeout=LOOK_SECONDS):
            task_pool.check()


class FeedPart:
    """One fit's view of a `SharedFeed`: a `Buffers`."""

    is_whole = False

    def __init__(self, shared: SharedFeed, feed: Feed) -> None:
        self._shared = shared
        self._feed = feed
        self._has_core = False
        self.n_rows = feed.n_rows

    @property
    def rows(self) -> Rows:
        return self._feed.rows

    @property
    def ends(self) -> bool:
        return self._feed.ends

    def start(self, epoch: int) -> None:
        self._shared.enter()
        self._has_core = True

    def next(self) -> None:
        """Go on to the next buffer, with all other fits."""
        self._has_core = False
        self._shared.advance()
        self._has_core = True

    def close(self) -> None:
        if self._has_core:
            self._shared.leave()
        self._has_core = False
