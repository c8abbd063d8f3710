"""What a model asks of a backend, and the one place where a device's name becomes a backend."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import signals
from fastmlp._process.buffer_pool import Idle
from fastmlp._process.locks import Guard
from fastmlp.network.spec import Network
from fastmlp.rules.optimizers import Optimizer, Rates

Array = NDArray[Any]
# Takes a key and a function without arguments; returns what that returns, or returned at this key.
Once = Callable[[Any, Callable[[], Any]], Any]


def each_time(key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, and keep nothing."""
    return make()


class Moments(Protocol):
    """An optimizer's state, wherever it lies."""

    def flat(self) -> Array:
        """Return a copy in the order of the parameters, shape (2, n_parameters)."""
        ...


class Data(Protocol):
    """Rows to work on, validated; a NamedTuple of x, y, weight and rows: which of them, or None."""

    @property
    def x(self) -> Any: ...

    @property
    def y(self) -> Any: ...

    @property
    def weight(self) -> Any: ...

    @property
    def rows(self) -> NDArray[np.int64] | None: ...

    @property
    def n_rows(self) -> int: ...

    @property
    def mass(self) -> float: ...


class Backend(Protocol):
    """Forward, gradient and update of one network on some device."""

    def data(self, X: Any, y: Any, sample_weight: Any, who: str, once: Once = each_time) -> Any:
        """Return rows, validated, where the device wants them; `once` keeps what nets share."""
        ...

    def evaluation(self, data: Any) -> Callable[[Array], float]:
        """Return the mean loss over the rows of `data`, as a function of the parameters."""
        ...

    def objective(self, data: Any) -> Callable[[Array], tuple[float, Array]]:
        """Return objective and gradient on all rows of `data`, as a function of the parameters."""
        ...

    def loss_and_gradient(self, parameters: Array, data: Any) -> tuple[float, Array]:
        """Return the objective, penalties included, and its gradient, flat."""
        ...

    def moments(self, flat: Array | None = None) -> Any:
        """Return this state of an optimizer, or that of one which has taken no step."""
        ...

    def update(
        self,
        parameters: Array,
        moments: Any,
        optimizer: Optimizer,
        gradient: Array,
        coefficients: Rates,
    ) -> None:
        """Apply one optimizer step with this gradient."""
        ...

    def trainer(
        self, parameters: Array, moments: Any, optimizer: Optimizer, data: Any, batch_size: int
    ) -> Any:
        """Allocate and compile what training on `data` needs: see `loop.Trainer`."""
        ...


def index_of(device: str) -> int:
    """Return the number of a GPU by its name: "cuda" is "cuda:0"."""
    return int(device.partition(":")[2] or 0)


def require(device: str, who: str = "MLP") -> None:
    """Check that there is such a device; nothing of CUDA is imported for the CPU.

    Raises
    ------
    ImportError, RuntimeError
        Where a package, the driver or the device is missing.
    """
    if device != "cpu":
        from fastmlp.backends.cuda import adapter

        adapter.require(index_of(device), who)


def backend_of(
    device: str, network: Network, n_threads: int | None, guard: Guard, idle: Idle
) -> Any:
    """Return the backend of a device, set up for a network."""
    if device == "cpu":
        return _module("cpu").Engine(network, n_threads, guard, idle)
    return _module("cuda").Engine(network, index_of(device), guard)


@cache
def _module(backend: str) -> Any:
    """Load a backend on first use, and Numba with it; what Ctrl-C would leave half of, a later
    import might not make whole."""
    with signals.deferred():
        return import_module(f"fastmlp.backends.{backend}.engine")
