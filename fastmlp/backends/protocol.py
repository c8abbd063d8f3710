"""The interface of a backend,
and the one place where a device's name becomes an engine.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import locks, task_pool
from fastmlp._process.locks import NetLock
from fastmlp._process.memory import FreeList
from fastmlp.network.spec import Computed, Network
from fastmlp.network.state import NetState, PackedSlots
from fastmlp.rules.optimizer_protocol import Optimizer, Rates
from fastmlp.validation import Array

Order = NDArray[np.int64]
# From X and the caller's name to X with the columns that the net knows.
Select = Callable[[Any, str], Any]


def as_given(X: Any, who: str) -> Any:
    """The `select` of nets that know no names of columns."""
    return X


class Derivatives(NamedTuple):
    """Derivatives of the outputs by the inputs, or an objective's gradient by them.

    Attributes
    ----------
    values : shape (n_rows, n_outputs, n_features), in the net's dtype
        Targets, NaN where unknown; or the gradient by the raw Jacobian.
    known : float64, shape (n_rows,): known numbers of each row, times its weight; empty for a
        gradient
    weights : shape (n_outputs, n_features), in the net's dtype: of the squares
    """

    values: Any
    known: Array
    weights: Array


class Data(NamedTuple):
    """Rows to work on, validated, where a device wants them.

    Attributes
    ----------
    x : shape (n_rows, n_features): an array, rows of a sparse matrix, or expanded rows
    y : shape (n_rows, n_targets), or (n_rows, 2 n_targets) with a factor for each target
    weight : shape (n_rows,), or (0,) for rows of weight 1; on the host
    rows : int64, indices of the rows to work on, in their order; None: all rows
    derivatives : of all rows, or None
    """

    x: Any
    y: Any
    weight: Array
    rows: Order | None = None
    derivatives: Derivatives | None = None

    @property
    def n_rows(self) -> int:
        """Rows to work on."""
        return len(self.x if self.rows is None else self.rows)

    @property
    def mass(self) -> float:
        """The number of rows to work on, or the sum of their weights."""
        if not self.weight.size:
            return float(self.n_rows)
        if self.rows is None:
            weight = self.weight
        else:
            weight = self.weight[self.rows]
        return float(weight.sum(dtype=np.float64))

    @property
    def plain_order(self) -> Order:
        """Indices of the rows to work on, in their order, shape (1, n_rows)."""
        return (
            np.arange(self.n_rows, dtype=np.int64) if self.rows is None else self.rows
        )[None]

    def orders(self, words: NDArray[np.uint32]) -> Order:
        """An order of the rows for each row of random words,
        shape (n_orders, n_rows).
        """
        orders: Order = _shuffle().orders_of(words)
        return orders if self.rows is None else self.rows[orders]

    @staticmethod
    def reshuffled(random: np.random.RandomState, order: Order, n_orders: int) -> Order:
        """n_orders orders, each the one before it as ``random.shuffle`` would leave
        it.
        """
        orders: Order = _shuffle().reshuffled(random, order, n_orders)
        return orders


def _shuffle() -> Any:
    """The module of shuffles, and with it the compiler, is imported on first use."""
    return import_module("fastmlp.backends.shuffle")


P = TypeVar("P", bound=PackedSlots)


class Evaluation(Protocol):
    """The mean loss over some rows, weighted, without penalties."""

    def __call__(self, parameters: Array, out: Array | None = None) -> float:
        """Return the loss at these parameters;
        write predictions to `out`, if there is one.
        """
        ...

    @property
    def head_losses(self) -> Array:
        """The mean loss of each head, of the last call, shape (n_heads,)."""
        ...


class Objective(Protocol):
    """The objective on some rows, penalties included, and its gradient."""

    def __call__(
        self,
        parameters: Array,
        inputs: Array | None = None,
        *,
        by_parameters: bool = True,
    ) -> tuple[float, Array]:
        """Return the objective at these parameters, and its flat gradient, which has no
        meaning without `by_parameters`; write the gradient by the inputs to `inputs`,
        shape (n_rows, n_features), if given.
        """
        ...

    def take(self, data: Data) -> None:
        """Switch to these rows, at most as many as it serves."""
        ...

    @property
    def n_bytes(self) -> int: ...


class GaussNewton(Protocol):
    """Objective, Gauss-Newton matrix G and damped steps of a net on rows, in float64.

    Attributes
    ----------
    trained : (n_parameters,) array of bool, False for frozen parameters
    diagonal : (n_trained,) array, of the last matrix
    derivative_loss : the mean square of the last objective's residuals of derivatives, or NaN
    """

    trained: NDArray[np.bool_]
    diagonal: Array

    @property
    def derivative_loss(self) -> float: ...

    def objective(self, parameters: Array) -> tuple[float, Array]:
        """The objective at these parameters, and its gradient, flat."""
        ...

    def linearize(self, parameters: Array) -> None:
        """Compute the matrix at these parameters."""
        ...

    def step(self, gradient: Array, damping: Array) -> Array | None:
        """The solution of (G + damping) d = -gradient, shape (n_trained,),
        or None; `damping`, shape (n_trained,), is added to the diagonal.
        """
        ...


class Predictor(Protocol):
    """One net's predictions at its live parameters; a copy or a pickle is None."""

    def __call__(self, X: Any, out: Any = None, who: str = "MLP.predict") -> Any:
        """Return predictions, shape (n_rows, n_outputs): check X and `out`, choose the
        fastest method for the number of rows, and warn if a prediction is not finite.
        """
        ...

    def quick(self, x: object, *, alone: bool) -> Array | None:
        """Return predictions of plain rows; None if x needs a check or a copy.

        With `alone` the call stays on the caller's thread, and takes the buffers of an
        earlier call for a few rows.
        """
        ...

    def write(self, x: Any, out: Array) -> object:
        """Write predictions to `out` for features in the form of `Engine.features`,
        unchecked.
        """
        ...


class RankExchange(Protocol):
    """The processes, or threads, that train one net, as one rank sees them.

    All ranks make the same calls in the same order.
    """

    rank: int
    size: int

    def sum(self, numbers: Array) -> None:
        """Replace numbers by their sums over the ranks,
        added in the order of the ranks.

        `numbers` has shape (n,), with n a multiple of `size`.
        """
        ...

    def allgather(self, values: Array) -> Array:
        """Return the values of all ranks, shape (size, n); `values` has shape (n,)."""
        ...


class StepSize(Protocol):
    @property
    def is_short(self) -> bool:
        """True if it holds the GIL."""
        ...


class QuickStep(Protocol):
    """Steps of a trainer on plain rows in one call.

    Attributes
    ----------
    slots : by which it is known if the optimizer's state lies elsewhere since
    is_lost : True once the parameters are not finite after a step
    """

    is_lost: bool

    def adopt(self, moments: Any) -> bool:
        """Go on with the optimizer's state as it lies now; return False if a step of
        the trainer's was interrupted: it may have been taken.
        """
        ...

    def size_of(self, n_rows: int) -> StepSize | None:
        """The size of a step on n rows, or None without a short step on them."""
        ...

    @property
    def slots(self) -> object: ...

    def point_to(self, table: Array, first_step: int) -> None:
        """Take the coefficients of steps from `first_step` on of a table in the net's
        dtype.
        """
        ...

    def __call__(self, step: int, x: Any, y: Any, weight: Any) -> float | None:
        """Take the step of this number, if its loss is finite;
        return the loss, or None where rows need a check or a copy.
        """
        ...

    def has_taken(self, step: int) -> bool:
        """Return True if the last call took this step; see that the net shows it."""
        ...


class Trainer(Protocol):
    """A fit's buffers on a device, and the calls that train in them. A unit is the
    least work of a call, at most a step.

    Attributes
    ----------
    derivative_losses : each epoch's mean square of the residuals of derivatives, of the last window
    """

    units_per_epoch: int
    unit_flops: int
    derivative_losses: Array
    # Losses of the epochs of the last window, shape (n_epochs, n_heads).
    head_losses: Array

    @property
    def n_bytes(self) -> int: ...

    @property
    def diverged(self) -> bool:
        """True if the last call met a number that is not finite."""
        ...

    @property
    def reached(self) -> int:
        """The unit of the window that `run` has reached, interrupted or not."""
        ...

    def take(self, data: Any) -> None:
        """Train on these rows: of the same kind and width,
        and at most as many as before.
        """
        ...

    def regroup(self, optimizer: Optimizer) -> bool:
        """Train with the engine's factors of learning rates;
        return False where that needs another trainer.
        """
        ...

    def resume(self, moments: Any, data: Any) -> None:
        """Continue on these rows, as many as it serves,
        from the current parameters and slots.
        """
        ...

    def pause(self) -> QuickStep | None:
        """Let go of the rows, until `resume`;
        return the next steps in one call, if they can be.
        """
        ...

    def begin(self) -> None:
        """Begin a window of epochs: `reached` is 0."""
        ...

    def run(
        self, order: Order, coefficients: Rates, losses: Array, first: int, last: int
    ) -> int:
        """Do units first to last of a window of epochs;
        return the unit where it stopped.

        Parameters
        ----------
        order : int64, shape (n_epochs or 1, n_rows), C-contiguous: row indices
        coefficients : shape (n_steps, n_coefficients), for the steps of this call
        losses : float64, shape (n_epochs,), receives each epoch's mean objective
        """
        ...

    def step_of(self, unit: int) -> int:
        """The steps of a window that are complete before this unit."""
        ...

    def load(self) -> None:
        """Read the parameters again, which a callback may have changed."""
        ...

    def store(self) -> None:
        """Write parameters and optimizer's state as the calls so far have left them."""
        ...

    def end(self) -> None:
        """Leave the buffers to the next fit."""
        ...


T = TypeVar("T", bound=Trainer)


@dataclass
class Span(Generic[T]):
    """The units first to last of a window of epochs, that a fit asks its trainer for.

    Attributes
    ----------
    order, coefficients, losses, first, last : as `Trainer.run` takes them
    reached : unit where the trainer stopped
    seconds : time taken
    """

    trainer: T
    order: Order
    coefficients: Rates
    losses: Array
    first: int
    last: int
    reached: int = 0
    seconds: float = 0.0

    def run(self) -> None:
        """Do the units, by the trainer alone."""
        start = time.perf_counter()
        self.reached = self.trainer.run(
            self.order, self.coefficients, self.losses, self.first, self.last
        )
        self.seconds = time.perf_counter() - start


class Engine(Protocol[P]):
    """Prediction, gradient and training of one network on one device.

    Attributes
    ----------
    queue : int or None
        The number of the GPU: fits on one queue wait for each other, and leave the
        cores free. None: fits share the cores.
    """

    network: Network

    @property
    def queue(self) -> int | None: ...

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, **gaps: bool) -> Data:
        """Validated rows where the device wants them.

        `gaps` are options of `weighted_targets`.
        """
        ...

    def weights(self, sample_weight: Any, n_rows: int, who: str) -> Array:
        """Validated weights of rows, on the host; an empty array for None."""
        ...

    def trusted(self, X: Any, y: Array, sample_weight: Array | None) -> Data:
        """Rows that are validated already,
        X dense or sparse, converted to the dtype.
        """
        ...

    def features(self, X: Any) -> Any:
        """Validated features, dense or sparse, in the form of `Data.x`."""
        ...

    def predictor(
        self,
        parameters: Array,
        *,
        raw: bool = False,
        select: Select = as_given,
        compute_dtype: Computed = None,
    ) -> Predictor:
        """The predictor for these live parameters.

        Parameters
        ----------
        raw : True for outputs before the output activation or the link
        select : applied to an X that is not a plain array
        compute_dtype : dtype of the products; None: the net's
        """
        ...

    def evaluation(self, data: Data) -> Evaluation:
        """The mean loss over the rows of `data`, as a function of the parameters."""
        ...

    def serves(self, n_rows: int, room: int) -> bool:
        """True if a trainer of single steps, or an objective,
        with `room` for dense rows serves n_rows of them, to the bit.
        """
        ...

    def objective(
        self, data: Data, *, summed: bool = False, room: int | None = None
    ) -> Objective:
        """Objective and gradient on all rows of `data`, from the parameters.

        Parameters
        ----------
        summed : True for the sum of the losses, False for their mean
        room : the most rows that `Objective.take` switches to later
        """
        ...

    def slots(self, state: NetState, data: Data | None = None) -> P:
        """A net's optimizer state, packed for training on `data`."""
        ...

    def update(
        self,
        parameters: Array,
        slots: P,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with a flat gradient and coefficients,
        shape (1, n).
        """
        ...

    def trainer(
        self,
        parameters: Array,
        slots: P,
        optimizer: Optimizer,
        data: Data,
        batch_size: int,
        **options: Any,
    ) -> Trainer:
        """A trainer on `data`: its buffers are allocated, its blocks are compiled.

        `options` of the device's `Trainer`: `stepping` and `summed` for single steps;
        the estimators set `guarded` and `by_rows`, which the CPU has, and fits on
        several ranks `ranks` and `average_every`.
        """
        ...


class Launches(Protocol):
    """Nets that train in the same launches:
    a trainer of each, by its seat, is in all of them.
    """

    n_nets: int

    def seat(self, net: int) -> Any:
        """The option `seat` of a net's trainer."""
        ...

    def run(self, spans: "Sequence[Span[Any]]") -> None:
        """Do a span of some of the nets, each step in the launch of all of them."""
        ...


class GroupEngine(Engine[P], Protocol):
    """An engine whose device trains many nets in one launch."""

    def kind(self, state: NetState, data: Data) -> Any:
        """The key of nets that may train in the same launches."""
        ...

    def launches(
        self, members: Sequence[tuple[Any, NetState, Data]], batch_size: int
    ) -> Launches:
        """The launches of the first nets, as many as fit into memory.

        Parameters
        ----------
        members : engine, state and rows of nets of one kind
        batch_size : the largest of the nets
        """
        ...


def index_of(device: str) -> int:
    """Return the number of a GPU by its name: "cuda" is "cuda:0"."""
    return int(device.partition(":")[2] or 0)


def require(device: str, who: str = "MLP") -> None:
    """Check that there is such a device; nothing of CUDA is imported for the CPU."""
    if device != "cpu":
        import_module("fastmlp.backends.cuda.device").require(index_of(device), who)


def engine_on(
    device: str,
    network: Network,
    n_threads: int | None = None,
    lock: NetLock | None = None,
    buffers: FreeList | None = None,
) -> Engine[Any]:
    """Return a device's engine for one network.

    Parameters
    ----------
    device : "cpu", "cuda" or "cuda:<number>"
    n_threads : the most threads of the CPU; None: as many as the process may use
    lock : held while the parameters are read or written as a whole
    buffers : where calls leave buffers for the next ones; None: a list of the engine's
    """
    if device == "cpu":
        engine: Engine[Any] = _module("cpu").Engine(network, n_threads, lock, buffers)
    else:
        engine = _module("cuda").Engine(network, index_of(device), lock)
    return engine


def thread_limit() -> int:
    return int(import_module("fastmlp.backends.cpu.limits").thread_limit())


def n_threads_of(n_threads: int | None) -> int:
    """Return the number of threads; None: as many as this thread may use."""
    if n_threads is None:
        return task_pool.threads_of_task() or thread_limit()
    return int(n_threads)


@cache
def _module(backend: str) -> Any:
    """Import a backend on first use, Ctrl-C deferred: an import that ends half way may
    leave modules that a later import cannot complete.
    """
    with locks.deferred():
        return import_module(f"fastmlp.backends.{backend}.engine")
