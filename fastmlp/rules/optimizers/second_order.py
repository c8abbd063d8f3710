"""Optimizers that take all rows at each epoch, and curvature: their settings."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastmlp.rules.optimizers.protocol import Rates
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained


class SecondOrder:
    """An optimizer whose epoch is one iteration over all rows; each has a step length of its own.

    Attributes
    ----------
    learning_rate : float, 1
    """

    learning_rate: float = 1.0

    @property
    def rule(self) -> UpdateRule:
        """The class, in the place of a rule: no parameter has an update of its own."""
        kind: Any = type(self)
        made: UpdateRule = kind
        return made

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return no numbers, shape (n_steps, 0)."""
        return np.empty((len(rates), 0))

    def settings(self) -> dict[str, Any]:
        """Return the settings by their names."""
        fields: Any = self
        return asdict(fields)


@explained
@dataclass(frozen=True)
class LevenbergMarquardt(SecondOrder):
    """Damped Gauss-Newton steps, for smooth functions to many digits by nets of a few thousand
    parameters at most.

    A step d solves ``(G + mu D) d = -g``: g is the gradient, G the Gauss-Newton matrix of all rows,
    D the root of the largest that its diagonal has been times the mean of that, and mu the damping.
    A step that does not lower the objective is not taken; mu rises then, and falls after good
    steps. An epoch of `MLP.fit` is one step that was taken, and its loss is that after the step. It
    works in float64, also for nets of float32. A `time_limit` gives the step at hand up.

    Targets of any scale are learned alike. With an identity output, D is that of a net on targets
    divided by their deviation, rounded to a power of 16. A net that explains less than half of the
    objective begins with its last layer times that number, unless the layer is frozen.

    It takes the losses "mse", "huber", "log_cosh", "binary_cross_entropy", "cross_entropy",
    "poisson", "gamma" and "tweedie", with l2, on the CPU, and 8 bytes times the square of the
    number of trained parameters.

    Parameters
    ----------
    damping : float above 0, default 1e-3
        The first mu.
    max_damping : float above `damping`, default 1e10
        A fit ends, with `Status.CONVERGED`, if mu would rise above.

    Raises
    ------
    TypeError, ValueError
        If a setting has a wrong type or value.

    References
    ----------
    Marquardt, An algorithm for least-squares estimation of nonlinear parameters, 1963.
    More, The Levenberg-Marquardt algorithm: implementation and theory, 1978.
    Madsen, Nielsen & Tingleff, Methods for non-linear least squares problems, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, LevenbergMarquardt
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> net = MLP((1, 10, 1), activation="tanh", dtype="float64", seed=0,
    ...           optimizer=LevenbergMarquardt())
    >>> net.fit(X, np.sin(3 * X), epochs=60).loss[-1] < 1e-4
    True
    """

    damping: float = 1e-3
    max_damping: float = 1e10

    def __post_init__(self) -> None:
        who = "LevenbergMarquardt"
        for name in ("damping", "max_damping"):
            object.__setattr__(self, name, scalars.positive(who, name, getattr(self, name)))
        if self.max_damping <= self.damping:
            raise ValueError(
                f"{who}: max_damping must be above damping={self.damping!r}, got "
                f"{self.max_damping!r}"
            )


@explained
@dataclass(frozen=True)
class LBFGS(SecondOrder):
    """SciPy's L-BFGS-B on all rows: an epoch of `MLP.fit` is one of its iterations.

    It works in float64, also for nets of float32, and starts anew in each fit. Parameters that a
    callback writes are overwritten by the next iteration's. Needs the extra `sklearn`, of SciPy.

    Parameters
    ----------
    history_size : int of 1 or more, default 10
        How many of the last steps the approximation of the curvature is made from.
    tolerance : float of 0 or more, default 0
        A fit ends, with `Status.CONVERGED`, if no number of the gradient is larger.

    Raises
    ------
    TypeError, ValueError
        If a setting has a wrong type or value.

    References
    ----------
    Byrd, Lu, Nocedal & Zhu, A limited memory algorithm for bound constrained optimization, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import MLP, LBFGS
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> net = MLP((1, 10, 1), activation="tanh", dtype="float64", seed=0, optimizer=LBFGS())
    >>> net.fit(X, np.sin(3 * X), epochs=100).loss[-1] < 1e-3
    True
    """

    history_size: int = 10
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        size = scalars.positive_integer("LBFGS", "history_size", self.history_size)
        object.__setattr__(self, "history_size", size)
        tolerance = scalars.non_negative("LBFGS", "tolerance", self.tolerance)
        object.__setattr__(self, "tolerance", tolerance)


# By their names in files.
SECOND_ORDER: dict[str, type[LevenbergMarquardt] | type[LBFGS]] = {
    "levenbergmarquardt": LevenbergMarquardt,
    "lbfgs": LBFGS,
}


def matrix_bytes(n: int) -> int:
    """The bytes of the matrix of n parameters and of its factor, which are half of it each."""
    return 8 * n * n


def jacobian_bytes(n: int, n_outputs: int, n_threads: int) -> int:
    """The bytes of a block of the Jacobian by n parameters, and of the threads' buffers for some
    rows of it and for roots of the curvature: about, and not much less."""
    rows_at_once = 16
    n_rows = min(max((1 << 17) // max(n, 1), 96), 384) + rows_at_once * n_outputs
    return 8 * (n_rows * n + n_threads * rows_at_once * (n + n_outputs**2))


def require_first_order(optimizer: object, who: str) -> None:
    """Check that an optimizer takes steps on single batches.

    Raises
    ------
    ValueError
        If its steps are those of `MLP.fit`.
    """
    if isinstance(optimizer, SecondOrder):
        name = type(optimizer).__name__
        raise ValueError(
            f"{who}: {name} takes its steps on all rows at once: use MLP.fit, or an optimizer of "
            "batches, such as Adam()"
        )
