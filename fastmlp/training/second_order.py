"""Fits by second-order optimizers: an epoch is one iteration over all rows.

`fit` takes the place of the loop's windows; a request's actions after each epoch are the same.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp._process import memory, task_pool
from fastmlp._process.one_thread import one_thread
from fastmlp.backends import devices
from fastmlp.backends.protocol import Data, Engine, GaussNewton
from fastmlp.network import monotone
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.network.spec import Network
from fastmlp.network.state import NetState
from fastmlp.rules.curvature import OF_LOSSES, curvature_of
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import (
    LBFGS,
    LevenbergMarquardt,
    Optimizer,
    SecondOrder,
    matrix_bytes,
)
from fastmlp.rules.penalties import l2
from fastmlp.training.history import Status
from fastmlp.training.options import FitOptions
from fastmlp.validation.packages import needs

Array = NDArray[Any]
DEFAULT_BATCH, ALL_ROWS = 32, 1 << 40
# mu falls to this at most, and a number of D is at least this share of the largest.
LEAST_DAMPING, LEAST_SCALE = 1e-20, 1e-12
# Of the free memory, the most that a matrix may take.
MEMORY_SHARE = 4


def batch_size_for(optimizer: Optimizer, batch_size: Any, who: str) -> Any:
    """The batch size of a fit: as asked for, or that of the optimizer where it is None.

    Raises
    ------
    ValueError
        If there is one for an optimizer that takes all rows.
    """
    if not isinstance(optimizer, SecondOrder):
        return DEFAULT_BATCH if batch_size is None else batch_size
    if batch_size is not None:
        raise ValueError(
            f"{who}: {type(optimizer).__name__} takes all rows at once: leave batch_size out, got "
            f"{batch_size!r}"
        )
    return ALL_ROWS


def check(
    network: Network,
    optimizer: Optimizer,
    options: FitOptions,
    device: str,
    ranks: object,
    who: str,
) -> FitOptions:
    """Return the options by which a fit reads its rows; check that a net can be trained so by its
    optimizer, if that is of second order.

    Raises
    ------
    ValueError
        If it cannot.
    MemoryError
        If the matrix would take too much memory; nothing has been allocated then.
    """
    if not isinstance(optimizer, SecondOrder):
        return options
    name = type(optimizer).__name__
    is_lm = isinstance(optimizer, LevenbergMarquardt)
    penalties = [rule.__name__ for rule, _ in network.penalties if rule is not l2]
    refused = {
        "trains on the CPU; move the net: net.to('cpu')": device != "cpu",
        "works on one process: leave communicator out": ranks is not None,
        "cannot drop outputs, for then no two steps have one objective: leave dropout, "
        "input_dropout and input_noise out": network.dropout is not None,
        "works in float64: leave compute_dtype out": network.compute_dtype is not None,
        "has no learning rate: leave ReduceLROnPlateau out": options.plateau is not None,
        "has no learning rate: layer_rates may be 0 and 1 alone": any(
            factor not in (0, 1) for factors in network.factors for factor in factors
        ),
        f"has no second derivatives of the penalty {penalties[:1]}: use l2": is_lm and penalties,
        "cannot keep signs of weights: use LBFGS(), or leave monotonic_cst out": is_lm
        and network.signs,
        "keeps nothing from which a fit could go on: leave checkpoint out, or use "
        "LevenbergMarquardt()": not is_lm and options.checkpoint is not None,
    }
    for sentence, applies in refused.items():
        if applies:
            raise ValueError(f"{who}: {name} {sentence}")
    if is_lm and curvature_of(network.loss) is None:
        known = [known for known, loss in LOSSES.items() if loss.rule in OF_LOSSES]
        raise ValueError(
            f"{who}: {name} needs the curvature of the loss, and knows that of "
            f"{', '.join(known)}; use LBFGS(), or Adam()"
        )
    if is_lm:
        _check_memory(network, who)
    return replace(options, batch_size=DEFAULT_BATCH)


def _check_memory(network: Network, who: str) -> None:
    n = int(trained_parameters(network).sum())
    n_bytes = matrix_bytes(n)
    free = memory.available() if n_bytes > memory.SMALL else None
    if free is not None and n_bytes > free // MEMORY_SHARE:
        raise MemoryError(
            f"{who}: LevenbergMarquardt needs {memory.readable(n_bytes)} for the matrix of "
            f"{n:,} parameters, more than a quarter of the "
            f"{memory.readable(free)} that are available: use a smaller net, or LBFGS()"
        )


class Damping:
    """What `LevenbergMarquardt` keeps: mu and the factor of its next rise, the first numbers after
    D, shape (n_parameters,), in two slots."""

    def __init__(self, flat: Array | None, n_parameters: int, dtype: np.dtype[Any]) -> None:
        self.numbers = np.zeros((2, n_parameters), dtype) if flat is None else flat

    def flat(self) -> Array:
        """Return a copy, shape (2, n_parameters)."""
        return self.numbers.copy()

    def begin(self, parameters: Array, lag: float) -> bool:
        """Return False: there is no average."""
        return False


class Marquardt:
    """Iterations of `LevenbergMarquardt` on a net and its rows.

    D is the largest diagonal so far, as More (1978) scales; mu follows Nielsen's rule (1999). Of
    the pairs of the identity, the diagonal and its maximum with Nielsen's rule, and with factors
    of 10 as Hagan and Menhaj (1994), that was the best or near it on all of five smooth targets.

    Attributes
    ----------
    loss : float, at the parameters
    """

    loss: float

    def __init__(self, engine: Any, state: NetState, data: Data) -> None:
        optimizer: Any = state.optimizer
        self._settings: LevenbergMarquardt = optimizer
        self._state, self._dtype = state, state.parameters.dtype
        self._system: GaussNewton = engine.gauss_newton(data)
        shape = (len(state.parameters), self._dtype)
        self._slots = state.packed("damping", lambda flat: Damping(flat, *shape)).numbers
        self._parameters = np.full(len(state.parameters), np.nan)
        self.load()

    @property
    def slope(self) -> float:
        """The largest number of the gradient."""
        return float(abs(self._gradient[self._system.trained]).max(initial=0.0))

    def load(self) -> None:
        """Take the parameters of the net, which a callback may have changed."""
        now = self._state.parameters.astype(np.float64)
        if not np.array_equal(now, self._parameters):
            self._take(now, *self._system.objective(now))

    def store(self) -> None:
        """The net has its parameters after each iteration."""

    def _take(self, parameters: Array, loss: float, gradient: Array) -> None:
        self._parameters, self.loss, self._gradient = parameters, loss, gradient
        self._is_linear = False

    def run(self, ends: Callable[[float], bool]) -> bool:
        """Iterate as long as `ends`, called with the loss after each step, returns True; return
        True if there is no further step."""
        while self._iterate():
            self._state.assign(self._parameters)
            if not ends(self.loss):
                return False
        return True

    def _scale(self) -> Array:
        """D: the largest diagonal so far, which the slots keep."""
        kept, trained = self._slots[0], self._system.trained
        kept[trained] = np.maximum(kept[trained], self._system.diagonal)
        largest = kept[trained].astype(np.float64)
        return np.maximum(largest, LEAST_SCALE * largest.max(initial=0.0))

    def _iterate(self) -> bool:
        """Take the next step that lowers the objective; return False if there is none."""
        system, gradient = self._system, self._gradient
        trained = system.trained
        if not gradient[trained].any():
            return False
        if not self._is_linear:
            system.linearize(self._parameters)
            self._is_linear = True
            self._scales = self._scale()
        mu, rise = self._damping
        while mu <= self._settings.max_damping:
            damping = mu * self._scales
            step = system.step(gradient, damping)
            if step is not None and np.isfinite(step).all():
                tried = self._parameters.copy()
                tried[trained] += step
                tried = tried.astype(self._dtype).astype(np.float64)
                if np.array_equal(tried, self._parameters):
                    return False
                loss, slopes = system.objective(tried)
                expected = 0.5 * (step @ (damping * step) - gradient[trained] @ step)
                if loss < self.loss and np.isfinite(slopes).all():
                    gain = (self.loss - loss) / expected if expected > 0 else 1.0
                    mu *= max(1 / 3, 1 - (2 * min(gain, 2.0) - 1) ** 3)
                    self._damping = max(mu, LEAST_DAMPING), 2.0
                    self._take(tried, loss, slopes)
                    return True
            mu, rise = mu * rise, 2 * rise
            self._damping = mu, rise
        return False

    @property
    def _damping(self) -> tuple[float, float]:
        """mu, and the factor by which it rises after a step that is not taken."""
        mu, rise = map(float, self._slots[1, :2])
        return (mu, rise) if mu else (self._settings.damping, 2.0)

    @_damping.setter
    def _damping(self, pair: tuple[float, float]) -> None:
        with np.errstate(over="ignore"):
            self._slots[1, :2] = pair


class SciPys:
    """SciPy's L-BFGS-B on a net and its rows.

    Attributes
    ----------
    loss : float, at the first parameters
    """

    def __init__(self, engine: Any, state: NetState, data: Data) -> None:
        try:
            self._minimize: Any = import_module("scipy.optimize").minimize
        except ImportError as error:
            raise ImportError(needs("LBFGS", "scipy")) from error
        optimizer: Any = state.optimizer
        self._settings: LBFGS = optimizer
        network, self._state = engine.network, state
        self._objective, self._trained = engine.objective(data), trained_parameters(network)
        bounds = monotone.bounds_of(network) if network.signs else None
        self._bounds = bounds and [b for b, used in zip(bounds, self._trained, strict=True) if used]
        self._whole = state.parameters.astype(np.float64)
        self.loss = self._objective(self._whole)[0]

    @property
    def slope(self) -> float:
        """The largest number of the last gradient."""
        return float(abs(self._gradient).max(initial=0.0))

    def load(self) -> None:
        """SciPy goes on from its own parameters."""

    def store(self) -> None:
        """The net has its parameters after each iteration."""

    def _at(self, parameters: Array) -> tuple[float, Array]:
        self._whole[self._trained] = parameters
        loss, slopes = self._objective(self._whole)
        self._gradient = slopes[self._trained]
        return loss, self._gradient

    def run(self, ends: Callable[[float], bool]) -> bool:
        """Iterate as long as `ends`, called with the loss after each iteration, returns True;
        return True if there is no further iteration."""
        state = self._state

        def iterated(intermediate_result: Any) -> None:
            self._whole[self._trained] = intermediate_result.x
            state.assign(self._whole)
            if not ends(float(intermediate_result.fun)):
                raise StopIteration

        most, settings = np.iinfo(np.int32).max, self._settings
        limits = {"maxcor": settings.history_size, "gtol": settings.tolerance, "ftol": 0.0}
        with one_thread:
            result = self._minimize(
                self._at, self._whole[self._trained], jac=True, method="L-BFGS-B",
                bounds=self._bounds, callback=iterated,
                options={**limits, "maxiter": most, "maxfun": most},
            )  # fmt: skip
        return bool(result.status != 99)


KINDS: dict[type, type[Marquardt] | type[SciPys]] = {LevenbergMarquardt: Marquardt, LBFGS: SciPys}


def _rows_of(data: Data, name: str) -> Data:
    """The rows of some data as arrays of float64."""
    if not isinstance(data.x, np.ndarray):
        raise ValueError(f"{name} needs dense rows, and X is sparse or expanded: X.toarray()")
    rows = slice(None) if data.rows is None else data.rows
    weight = data.weight[rows] if data.weight.size else data.weight
    parts = (data.x[rows], data.y[rows], weight)
    x, y, weight = (np.ascontiguousarray(part, np.float64) for part in parts)
    return Data(x, y, weight)


def solver_of(engine: Any, state: NetState, data: Data) -> "Marquardt | SciPys":
    """The iterations of a net's optimizer on rows of any form, in float64.

    Raises
    ------
    ValueError
        If the rows are sparse.
    """
    rows = _rows_of(data, type(state.optimizer).__name__)
    network = engine.network._replace(dtype=np.dtype(np.float64), compute_dtype=None, dropout=None)
    double = devices.engine_on("cpu", network, engine.n_threads, engine.lock)
    return KINDS[type(state.optimizer)](double, state, rows)


def fit(engine: Engine[Any], state: NetState, request: Any, buffered: object = None) -> None:
    """Train a net as requested, as `loop.fit` does, by a second-order optimizer."""
    name = type(state.optimizer).__name__
    if buffered is not None:
        raise ValueError(
            f"{name} needs all rows in memory, and a buffer of the source has fewer: use Adam()"
        )
    state.bound(engine.network)
    try:
        with task_pool.turn():
            solver = solver_of(engine, state, request.data)
        with request.begin(engine, solver, state):

            def begins() -> bool:
                goes_on = bool(request.window(1))
                if goes_on:
                    request.rates(1)
                return goes_on

            def ends(loss: float) -> bool:
                state.n_steps += 1
                request.end_window(np.array([loss]), None)
                return begins()

            if begins():
                if not np.isfinite(solver.loss):
                    request.end_window(np.empty(0), solver.loss)
                    state.restart()
                elif solver.run(ends):
                    request.history.status = Status.CONVERGED
                begins()
    except KeyboardInterrupt as error:
        request.interrupted(error)
    finally:
        request.close()
