"""Fits by second-order optimizers: an epoch is one iteration over all rows."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastmlp._process import memory, task_pool
from fastmlp._process.task_pool import one_thread
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Data, Derivatives, Engine, GaussNewton
from fastmlp.network import layer_settings
from fastmlp.network.layer_settings import trained_parameters
from fastmlp.network.spec import Network, bias_views, weight_views
from fastmlp.network.state import NetState
from fastmlp.rules.activations import identity
from fastmlp.rules.losses import LINKS, LOSSES
from fastmlp.rules.optimizer_protocol import Optimizer
from fastmlp.rules.optimizers import (
    LBFGS,
    LevenbergMarquardt,
    SecondOrder,
    jacobian_bytes,
    matrix_bytes,
)
from fastmlp.rules.updates import l2
from fastmlp.training.history import Status
from fastmlp.training.options import FitOptions
from fastmlp.validation import Array
from fastmlp.validation.messages import count, imported

IsLate = Callable[[], bool]
DEFAULT_BATCH = 32
ALL_ROWS = 1 << 40
# Seconds of a window.
CALL_SECONDS = 0.05
# The least mu, and the least entry of D as a share of the largest.
LEAST_DAMPING, LEAST_SCALE = 1e-20, 1e-12
# The fraction 1 / MEMORY_SHARE of the free memory is for the equations.
MEMORY_SHARE = 4


def batch_size_for(optimizer: Optimizer, batch_size: Any, who: str) -> Any:
    """The batch size asked for, or the optimizer's."""
    if not isinstance(optimizer, SecondOrder):
        return DEFAULT_BATCH if batch_size is None else batch_size
    if batch_size is not None:
        raise ValueError(
            f"{who}: {type(optimizer).__name__} takes all rows at once: leave "
            f"batch_size out, got {batch_size!r}"
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
    """Check that a second-order optimizer can train the net;
    return the options for reading rows.
    """
    if not isinstance(optimizer, SecondOrder):
        return options
    name = type(optimizer).__name__
    is_lm = isinstance(optimizer, LevenbergMarquardt)
    penalties = [rule.__name__ for rule, _ in network.penalties if rule is not l2]
    refused = {
        "trains on the CPU; move the net: net.to('cpu')": device != "cpu",
        "works on one process: leave communicator out": ranks is not None,
        "needs an objective that stays the same from step to step: leave dropout, "
        "input_dropout and input_noise out": network.dropout is not None,
        "works in float64: leave compute_dtype out": network.compute_dtype is not None,
        "has no learning rate: leave ReduceLROnPlateau out": options.plateau
        is not None,
        "has no learning rate: layer_rates may be 0 and 1 alone": any(
            factor not in (0, 1) for factors in network.factors for factor in factors
        ),
        f"takes the penalty l2 alone: leave {', '.join(penalties)} out, or use LBFGS()": is_lm
        and penalties,
        "cannot keep signs of weights: use LBFGS(), or leave monotonic_cst out": is_lm
        and network.signs,
        "does not train heads: use LBFGS()": is_lm and bool(network.heads),
        "cannot resume a fit: leave checkpoint out, or use LevenbergMarquardt()": not is_lm
        and options.checkpoint is not None,
    }
    for sentence, applies in refused.items():
        if applies:
            raise ValueError(f"{who}: {name} {sentence}")
    if is_lm and network.loss.curvature is None:
        known = [known for known, loss in LOSSES.items() if loss.curvature is not None]
        raise ValueError(
            f"{who}: {name} needs the curvature of the loss, and knows that of "
            f"{', '.join(known)}; use LBFGS(), or Adam()"
        )
    if is_lm:
        _check_memory(network, network.layout.sizes[-1], who)
    return replace(options, batch_size=DEFAULT_BATCH)


def check_derivatives(network: Network, optimizer: Optimizer, who: str) -> None:
    """Check that a second-order optimizer can train a net on derivatives."""
    if not isinstance(optimizer, LevenbergMarquardt):
        return
    if network.link != LINKS["identity"]:
        raise ValueError(
            f"{who}: LevenbergMarquardt trains derivatives of raw outputs alone, and "
            "the loss has a link: use LBFGS(), Adam(), or loss='mse'"
        )
    n_features = network.layout.sizes[0]
    n_outputs = network.layout.sizes[-1]
    _check_memory(network, n_outputs * (1 + n_features), who)


def _check_memory(network: Network, n_sets: int, who: str) -> None:
    """`n_sets`: rows of the Jacobian for each row of X."""
    n = int(trained_parameters(network).sum())
    n_outputs = network.layout.sizes[-1]
    of_matrix = matrix_bytes(n)
    of_rows = jacobian_bytes(n, n_sets, protocol.n_threads_of(None))
    n_bytes = of_matrix + of_rows
    free = memory.available() if n_bytes > memory.UNCHECKED_BYTES else None
    if free is not None and n_bytes > free // MEMORY_SHARE:
        raise MemoryError(
            f"{who}: LevenbergMarquardt needs {memory.readable(n_bytes)}, "
            f"{memory.readable(of_matrix)} of them for the matrix of {n:,} parameters "
            f"and its factor, and {memory.readable(of_rows)} for rows of the Jacobian "
            f"of {count(n_outputs, 'output')}, more than a quarter of the "
            f"{memory.readable(free)} that are available: use a smaller net, fewer "
            "outputs, or LBFGS()"
        )


class Damping:
    """State of `LevenbergMarquardt`, two slots of n_parameters numbers:
    D; mu and its next factor.
    """

    def __init__(
        self, flat: Array | None, n_parameters: int, dtype: np.dtype[Any]
    ) -> None:
        if flat is None:
            self.numbers = np.zeros((2, n_parameters), dtype)
        else:
            self.numbers = flat

    def flat(self) -> Array:
        return self.numbers.copy()

    def begin(self, parameters: Array, lag: float) -> bool:
        return False


def _size_of(network: Network, y: Array) -> float:
    """Return the targets' deviation as a power of 16, which scales exactly;
    1 where outputs are not in the targets' unit.
    """
    with np.errstate(all="ignore"):
        deviation = float(np.sqrt(y.var(axis=0).mean()))
    is_other = network.loss.link or network.activations[-1] is not identity
    if is_other or not 1e-30 < deviation < 1e30:
        return 1.0
    return float(16.0 ** np.round(np.log2(deviation) / 4))


class Marquardt:
    """Iterations of `LevenbergMarquardt` on a net and its rows.

    D is the geometric mean of the largest diagonal so far, by which More (1978) scales,
    and of its mean, as Levenberg's identity; mu follows Nielsen's rule (1999). Test
    losses after 150 trials, or 300 of the last, by More's D -> identity -> both: 4e-6
    -> 6e-10 -> 6e-10 (van der Waals, 2-16-16-1), 3e-7 -> 1e-7 -> 5e-8 (Friedman), 9e-12
    -> 7e-10 -> 2e-10 (sinc, 1-20-1). Factors of 10 as Hagan and Menhaj (1994) were
    worse by 10 to 100.
    """

    loss: float
    derivative_loss: float
    derivative_losses: Array = np.empty(0)
    head_losses: Array = np.empty((0, 0))

    def __init__(self, engine: Any, state: NetState, data: Data) -> None:
        optimizer: Any = state.optimizer
        self._settings: LevenbergMarquardt = optimizer
        self._state = state
        self._dtype = state.parameters.dtype
        self._system: GaussNewton = engine.gauss_newton(data)
        trained = self._system.trained
        # No copy where all are trained: a mask of 61 parameters takes 4 us.
        self._trained: Any = slice(None) if trained.all() else trained
        shape = (len(state.parameters), self._dtype)
        self._slots = state.packed(
            "damping", lambda flat: Damping(flat, *shape)
        ).numbers
        self._largest: Array = self._slots[0, self._trained].astype(np.float64)
        mu, rise = map(float, self._slots[1, :2])
        self._first = max(self._rounded(optimizer.damping), LEAST_DAMPING), 2.0
        self._mu, self._rise = (mu, rise) if mu else self._first
        self._parameters = np.full(len(state.parameters), np.nan)
        network = engine.network
        y = data.y[:, : network.targets.n_targets]
        self._scale(network, y, is_new=not mu)
        self.load()

    def _scale(self, network: Network, y: Array, is_new: bool) -> None:
        """Make steps as on targets of a deviation near 1,
        for which the last layer is smaller.

        The last layer of a new net is multiplied by the targets' size,
        unless the net explains half of the objective already.
        """
        size = _size_of(network, y)
        last = np.zeros(network.layout.n_parameters, bool)
        for views in (weight_views, bias_views):
            views(network.layout, last)[-1][:] = True
        self._units = np.where(last, 1.0, size**-2)[self._trained]
        if size != 1 and is_new and self._system.trained[last].all():
            now = self._state.parameters.astype(np.float64)
            loss, of_nothing = (
                self._system.objective(each)[0] for each in (now, now * ~last)
            )
            if not loss < of_nothing / 2:
                self._state.assign(np.where(last, size, 1.0) * now)

    def _rounded(self, number: Any) -> float:
        """A number in the net's precision, so that a resumed fit has the same bits."""
        return float(self._dtype.type(number))

    @property
    def slope(self) -> float:
        return float(abs(self._gradient[self._trained]).max(initial=0.0))

    def losses_of_heads(self) -> Array:
        """Return an empty array: nets with heads are refused."""
        return np.empty(0)

    def load(self) -> None:
        """Take the net's parameters, which a callback may have changed."""
        now = self._state.parameters.astype(np.float64)
        if not np.array_equal(now, self._parameters):
            self._take(now, *self._system.objective(now))

    def store(self) -> None:
        self._slots[0, self._trained] = self._largest
        self._slots[1, :2] = self._mu, self._rise
        self._state.assign(self._parameters)

    def _take(self, parameters: Array, loss: float, gradient: Array) -> None:
        self._parameters = parameters
        self.loss = loss
        self._gradient = gradient
        self.derivative_loss = self._system.derivative_loss
        self._is_linear = False

    def run(
        self, goes_on: Callable[[float], bool], is_late: IsLate = lambda: False
    ) -> bool:
        """Iterate as long as `goes_on`, called with the loss after each step, returns
        True; return True after the last possible step. A step is given up when it
        `is_late`.
        """
        while self._iterate(is_late):
            if not goes_on(self.loss):
                return False
        return not is_late()

    def _linearize(self) -> None:
        self._system.linearize(self._parameters)
        diagonal = np.minimum(self._system.diagonal, np.finfo(self._dtype).max)
        diagonal = diagonal.astype(self._dtype).astype(np.float64)
        self._largest = np.fmax(self._largest, diagonal)
        largest = self._largest * self._units
        floored = np.maximum(largest, LEAST_SCALE * largest.max())
        self._scales = np.sqrt(floored * largest.mean()) / self._units
        self._is_linear = True

    def _iterate(self, is_late: IsLate) -> bool:
        """Take the next step that lowers the objective;
        return False without such a step.
        """
        gradient = self._gradient[self._trained]
        if not gradient.any():
            return False
        if not self._is_linear:
            self._linearize()
        while self._mu <= self._settings.max_damping:
            if is_late():
                return False
            damping = self._mu * self._scales
            step = self._system.step(self._gradient, damping)
            if step is not None:
                tried = self._parameters.copy()
                tried[self._trained] += step
                if self._dtype != np.float64:
                    tried = tried.astype(self._dtype).astype(np.float64)
                loss, slopes = self._system.objective(tried)
                if loss < self.loss and np.isfinite(slopes).all():
                    self._relax(
                        self.loss - loss, float(step @ (damping * step - gradient)) / 2
                    )
                    self._take(tried, loss, slopes)
                    return True
                if np.array_equal(tried, self._parameters):
                    return False
            self._mu = self._rounded(self._mu * self._rise)
            self._rise = 2 * self._rise
        # The next fit may have other rows.
        self._mu, self._rise = self._first
        return False

    def _relax(self, decrease: float, expected: float) -> None:
        """Lower mu after a step,
        the more the nearer its decrease is to the expected one.
        """
        gain = min(decrease / expected, 2.0) if expected > 0 else 1.0
        mu = self._mu * max(1 / 3, 1 - (2 * gain - 1) ** 3)
        self._mu = self._rounded(max(mu, LEAST_DAMPING))
        self._rise = 2.0


class QuasiNewton:
    """Iterations of `LBFGS`, SciPy's L-BFGS-B."""

    derivative_losses: Array = np.empty(0)

    def __init__(self, engine: Any, state: NetState, data: Data) -> None:
        """Bind the solver to the objective of all rows; frozen parameters stay out."""
        self._minimize: Any = imported("scipy.optimize", "LBFGS", "scipy").minimize
        optimizer: Any = state.optimizer
        self._settings: LBFGS = optimizer
        network = engine.network
        self._state = state
        self._objective, self._trained = (
            engine.objective(data),
            trained_parameters(network),
        )
        if network.signs:
            bounds = layer_settings.bounds_of(network)
        else:
            bounds = None
        self._bounds = bounds and [
            b for b, used in zip(bounds, self._trained, strict=True) if used
        ]
        self._whole = state.parameters.astype(np.float64)
        self._accepted = self._whole.copy()
        self.loss = self._objective(self._whole)[0]
        self.derivative_loss: float = self._objective.derivative_loss
        if network.heads:
            self._evaluation = engine.evaluation(data)
        else:
            self._evaluation = None
        self.head_losses: Array = np.empty((0, len(network.heads)))

    @property
    def slope(self) -> float:
        return float(abs(self._gradient).max(initial=0.0))

    def losses_of_heads(self) -> Array:
        """The mean loss of each head, at the accepted parameters."""
        if self._evaluation is None:
            return np.empty(0)
        self._evaluation(self._accepted)
        return self._evaluation.head_losses

    def load(self) -> None:
        """Do nothing: SciPy goes on from the parameters that `store` writes."""

    def store(self) -> None:
        self._state.assign(self._accepted)

    def _at(self, parameters: Array) -> tuple[float, Array]:
        self._whole[self._trained] = parameters
        loss, slopes = self._objective(self._whole)
        self._gradient = slopes[self._trained]
        return loss, self._gradient

    def run(
        self, goes_on: Callable[[float], bool], is_late: IsLate = lambda: False
    ) -> bool:
        """Minimize in float64; False if `goes_on` ended it before convergence."""

        def iterated(intermediate_result: Any) -> None:
            self._accepted[self._trained] = intermediate_result.x
            self.derivative_loss = self._objective.derivative_loss
            if not goes_on(float(intermediate_result.fun)):
                raise StopIteration

        most = np.iinfo(np.int32).max
        settings = self._settings
        limits = {
            "maxcor": settings.history_size,
            "gtol": settings.tolerance,
            "ftol": 0.0,
        }
        with one_thread:
            result = self._minimize(
                self._at,
                self._whole[self._trained],
                jac=True,
                method="L-BFGS-B",
                bounds=self._bounds,
                callback=iterated,
                options={**limits, "maxiter": most, "maxfun": most},
            )
        return bool(result.status != 99)


Iterations = Marquardt | QuasiNewton
SOLVERS_OF_OPTIMIZERS: dict[type, type[Iterations]] = {
    LevenbergMarquardt: Marquardt,
    LBFGS: QuasiNewton,
}


def _rows_of(data: Data, who: str) -> Data:
    if not isinstance(data.x, np.ndarray):
        raise ValueError(
            f"{who} needs dense rows, and X is sparse or expanded: X.toarray()"
        )
    rows = slice(None) if data.rows is None else data.rows
    weight = data.weight[rows] if data.weight.size else data.weight
    parts = (data.x[rows], data.y[rows], weight)
    x, y, weight = (np.ascontiguousarray(part, np.float64) for part in parts)
    if data.derivatives is None:
        return Data(x, y, weight)
    values, known, weights = data.derivatives
    derivatives = Derivatives(
        np.ascontiguousarray(values[rows], np.float64),
        np.ascontiguousarray(known[rows]),
        weights.astype(np.float64),
    )
    return Data(x, y, weight, derivatives=derivatives)


def solver_of(engine: Any, state: NetState, data: Data, who: str) -> Iterations:
    """Iterations on rows of any form, in float64."""
    rows = _rows_of(data, f"{who}: {type(state.optimizer).__name__}")
    network = engine.network._replace(
        dtype=np.dtype(np.float64), compute_dtype=None, dropout=None
    )
    double = protocol.engine_on("cpu", network, engine.n_threads, engine.lock)
    return SOLVERS_OF_OPTIMIZERS[type(state.optimizer)](double, state, rows)


class _Epochs:
    def __init__(self, state: NetState, request: Any, solver: Iterations) -> None:
        self._state = state
        self._request = request
        self._solver = solver
        self._losses: list[float] = []
        self._squares: list[float] = []
        self._of_heads: list[Array] = []
        self._most, self._start = 1, time.perf_counter()

    def begin(self) -> bool:
        """Return False if the fit ends."""
        self._losses = []
        self._squares = []
        self._of_heads = []
        self._window = self._request.window(self._most)
        if self._window:
            self._request.rates(self._window)
        self._start = time.perf_counter()
        return bool(self._window)

    def goes_on(self, loss: float) -> bool:
        """Take an epoch's loss; return False if the fit ends."""
        self._state.n_steps += 1
        self._losses.append(loss)
        self._squares.append(self._solver.derivative_loss)
        self._of_heads.append(self._solver.losses_of_heads())
        return len(self._losses) < self._window or self._flush()

    def _flush(self) -> bool:
        seconds = (time.perf_counter() - self._start) / len(self._losses)
        self._most = max(1, min(int(CALL_SECONDS / max(seconds, 1e-6)), 4 * self._most))
        self._solver.derivative_losses = np.array(self._squares)
        self._solver.head_losses = np.stack(self._of_heads)
        self._request.end_window(np.array(self._losses), None)
        return self.begin()

    def finish(self) -> None:
        """Record the unfinished window's epochs, and that the fit is done."""
        if self._losses:
            self._flush()
        else:
            self._request.window(1)


def fit(
    engine: Engine[Any], state: NetState, request: Any, buffered: object = None
) -> None:
    """Fit by a solver on all rows; but for divergence, its parameters are stored."""
    if buffered is not None:
        raise ValueError(
            f"{request.who}: {type(state.optimizer).__name__} needs all rows in "
            "memory, and buffer_rows and steps_per_epoch read a source in parts: leave "
            "them out, or use Adam()"
        )
    state.bound(engine.network)
    try:
        with task_pool.turn():
            solver = solver_of(engine, state, request.data, request.who)
        with request.begin(engine, solver, state):
            epochs = _Epochs(state, request, solver)
            try:
                if not epochs.begin():
                    return
                if not np.isfinite(solver.loss):
                    request.end_window(np.empty(0), solver.loss)
                    state.restart()
                elif solver.run(epochs.goes_on, request.is_late):
                    request.history.status = Status.CONVERGED
                epochs.finish()
            finally:
                if request.history.status is not Status.DIVERGED:
                    solver.store()
    except KeyboardInterrupt as error:
        request.interrupted(error)
    finally:
        request.close()
