"""The checked arguments of `fit_many`: each net's rows, epochs and batch size."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastmlp import validation
from fastmlp.backends.protocol import Data, Order
from fastmlp.model import MLP, Core, core_of
from fastmlp.network import layer_settings
from fastmlp.training.pool import cost_of
from fastmlp.training.rows import split
from fastmlp.validation import scalars

WHO = "fit_many"


class Job(NamedTuple):
    """One net's part of the call, checked.

    Attributes
    ----------
    core : Core, the net's engine and state
    data, held_out : Data, to train and to validate on; held_out may be None
    batch_size : no more than there are rows
    names : of the columns of X, or None
    number : of the net in the call
    """

    net: MLP
    core: Core
    data: Data
    held_out: Data | None
    epochs: int
    batch_size: int
    names: validation.Names
    number: int

    @property
    def cost(self) -> float:
        """About how long the fit takes, in operations at full speed."""
        return cost_of(self.core.state.layout, self.data.n_rows, self.epochs, self.batch_size)


def nets_of(given: Any) -> list[MLP]:
    """Check that the nets are a sequence of different `MLP`; return them as a list."""
    if isinstance(given, MLP) or not isinstance(given, Iterable):
        raise TypeError(f"{WHO}: nets must be a sequence of MLP, got {given!r}")
    nets, places = list(given), dict[int, int]()
    for i, net in enumerate(nets):
        if not isinstance(net, MLP):
            raise TypeError(f"{WHO}: nets must be a sequence of MLP, but nets[{i}] is {net!r}")
        if places.setdefault(id(net), i) != i:
            raise ValueError(f"{WHO}: nets[{i}] is the net that nets[{places[id(net)]}] is")
    return nets


def jobs_of(
    nets: list[MLP],
    X: Any,
    y: Any,
    epochs: Any,
    batch_size: Any,
    rows: Any,
    held_out: tuple[Any, Any],
    sample_weight: Any,
) -> list[Job]:
    """Check all arguments; return each net's job.

    `held_out` are the rows to validate on, and the fraction to hold out; one of them is None.
    """
    n = len(nets)
    validation_rows, validation_split = held_out
    each_epochs = each_integer(epochs, "epochs", n)
    each_batch_size = each_integer(batch_size, "batch_size", n)
    shared = Shared(X, y)
    each_weight = _each(sample_weight, "sample_weight", n)
    # X first: a wrong X would else be reported as rows out of range.
    cores = [core_of(net) for net in nets]
    for i, core in enumerate(cores):
        layer_settings.require_trained(core.engine.network, who(i))
    named = [shared.data(core, each_weight[i], who(i)) for i, core in enumerate(cores)]
    wholes, each_names = [data for data, _ in named], [names for _, names in named]
    each_rows = [_index(given, shared, i, "rows") for i, given in _numbered(rows, "rows", n)]
    numbered = _numbered(validation_rows, "validation_rows", n)
    each_held_out = [_index(given, shared, i, "validation_rows") for i, given in numbered]
    jobs = []
    for i, (net, core, whole) in enumerate(zip(nets, cores, wholes, strict=True)):
        parts = [whole._replace(rows=index) for index in (each_rows[i], each_held_out[i])]
        for part in parts if each_held_out[i] is not None else parts[:1]:
            if part.mass == 0:
                raise ValueError(f"{who(i)}: sample_weight must not be 0 in all of its rows")
        data, validated = parts[0], None if each_held_out[i] is None else parts[1]
        if validation_split is not None:
            data, validated = split(data, validation_split, who(i))
        batch = min(each_batch_size[i], data.n_rows)
        jobs.append(Job(net, core, data, validated, each_epochs[i], batch, each_names[i], i))
    return jobs


def check_generators(jobs: list[Job]) -> None:
    """Raise if two nets draw their orders of rows from one generator: which net draws first, and so
    the bits, would depend on the threads."""
    places = dict[int, int]()
    for i, job in enumerate(jobs):
        if job.batch_size < job.data.n_rows:
            first = places.setdefault(id(job.core.state.generator), i)
            if first != i:
                raise ValueError(
                    f"{who(i)} shuffles by the generator that nets[{first}] does; make each net "
                    "with a seed of its own, as one of generator.spawn(n)"
                )


class Shared:
    """X, y and weights in the nets' forms, each form made once and shared by nets."""

    def __init__(self, X: Any, y: Any) -> None:
        validation.warn_of_forgotten(X, WHO)
        self._x, self._y = validation.named(X, None, WHO)[0], y
        self._made: dict[Any, Any] = {}
        # Objects known by their id must stay alive.
        self._kept: list[Any] = []

    @property
    def n_rows(self) -> int:
        """The rows of X; 0 where it is no array."""
        return len(self._x) if hasattr(self._x, "__len__") else 0

    def data(self, core: Core, weight: Any, who: str) -> tuple[Data, validation.Names]:
        """Return all rows, in the form and on the device of a net, and the names of its columns."""
        self._kept.append(weight)
        x, names = validation.named(self._x, core.state.feature_names, who)
        own = None if x is self._x else names

        def memo(key: Any, make: Callable[[], Any]) -> Any:
            return self.memo((own, key) if key[0] == "x" else key, make)

        return core.engine.data(x, self._y, weight, who, memo), names

    def index(self, given: Any, who: str, name: str) -> Order:
        """Return checked indices of rows."""
        self._kept.append(given)
        make = partial(validation.row_index, given, self.n_rows, who, name)
        index: Order = self.memo(("index", id(given)), make)
        return index

    def memo(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the object made under this key; make it on the first call."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _index(given: Any, shared: Shared, i: int, name: str) -> Order | None:
    return None if given is None else shared.index(given, who(i), name)


def who(i: int) -> str:
    """Return the name of a net in messages."""
    return f"{WHO}: nets[{i}]"


def each_integer(given: Any, name: str, n: int) -> list[int]:
    """Return one integer per net, from one for all or from a sequence."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [scalars.positive_integer(WHO, name, given)] * n
    numbers = list(given)
    _as_many(numbers, name, n)
    return [scalars.positive_integer(WHO, f"{name}[{i}]", k) for i, k in enumerate(numbers)]


def _numbered(given: Any, name: str, n: int) -> Iterable[tuple[int, Any]]:
    return enumerate(_each(given, name, n))


def _each(given: Any, name: str, n: int) -> list[Any]:
    """Return one array or None per net, from one for all or from a sequence of them."""
    if not isinstance(given, Sequence) and not (isinstance(given, np.ndarray) and given.ndim):
        return [given] * n
    if len(given) == 0 or (np.ndim(given[0]) == 0 and given[0] is not None):
        return [given] * n
    parts = list(given)
    _as_many(parts, name, n)
    return parts


def _as_many(given: Sequence[Any], name: str, n: int) -> None:
    if len(given) != n:
        raise ValueError(f"{WHO}: there are {n} nets, but {name} has the length {len(given)}")
