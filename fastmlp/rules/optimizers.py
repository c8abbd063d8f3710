"""Optimizers: settings, an update rule, and the rule's coefficients of each step.

An optimizer is a frozen dataclass. `rule` is a function of `updates`;
`coefficients` computes, in float64, the numbers that depend on the step alone.
"""

from dataclasses import asdict, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules import updates
from fastmlp.rules.optimizer_protocol import (
    OptimizerSettings,
    Rates,
    Schedule,
    at_steps,
    columns,
    powers,
    root_of,
)
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation import scalars
from fastmlp.validation.calls import settings


@settings
class SGD(OptimizerSettings):
    """Stochastic gradient descent, with momentum and Nesterov's form of it.

    ``m <- momentum m - rate g``, then ``w <- w + m``, or with `nesterov`
    ``w <- w + momentum m - rate g``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
    momentum : float in [0, 1), default 0
    nesterov : bool, default False

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range,
        or `nesterov` is True without a momentum.

    References
    ----------
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    Sutskever, Martens, Dahl & Hinton (2013), "On the importance of initialization and
    momentum in deep learning".

    Examples
    --------
    >>> from fastmlp import SGD
    >>> SGD(0.1, momentum=0.9)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def _check(self) -> None:
        super()._check()
        if self.nesterov and self.momentum == 0:
            raise ValueError(
                "SGD: nesterov=True needs a momentum above 0, got momentum=0.0"
            )

    @property
    def rule(self) -> UpdateRule:
        if self.nesterov:
            return updates.sgd_nesterov
        return updates.sgd_momentum if self.momentum else updates.sgd

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        return columns(rates, rates, *([self.momentum] if self.momentum else []))


@settings
class Adam(OptimizerSettings):
    """Adaptive moments.

    ``m <- beta_1 m + (1 - beta_1) g``, ``v <- beta_2 v + (1 - beta_2) g^2``, and ``w <-
    w - rate m' / (sqrt(v') + epsilon)`` with ``m' = m / (1 - beta_1^t)`` and ``v' = v /
    (1 - beta_2^t)`` at step t. Epsilon is added to the corrected root, as in the
    paper's algorithm and in PyTorch.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float above 0, default 1e-8
    epsilon_hat : bool, default False
        Add epsilon to the uncorrected root, the paper's "epsilon hat", as Keras and
        scikit-learn do: the step is ``rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m /
        (sqrt(v) + epsilon)``.

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Kingma & Ba (2015), "Adam: a method for stochastic optimization", arXiv:1412.6980.

    Examples
    --------
    >>> from fastmlp import Adam
    >>> Adam(0.01).beta_2
    0.999
    """

    learning_rate: float | Schedule = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = field(default=False, kw_only=True)

    @property
    def rule(self) -> UpdateRule:
        return updates.adam

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, gain_m, gain_v, epsilon), with the bias corrections folded in.

        The gains are 1 - beta, computed in float64:
        in float32, 1 - 0.999 has an error of 5e-5.
        """
        t, rates_at_t = at_steps(first_step, rates)
        root = root_of(1 - powers(self.beta_2, t))
        rate = rates_at_t * root / (1 - powers(self.beta_1, t))
        return columns(
            rates, rate, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root)
        )

    def _epsilon(self, root: Rates) -> Any:
        """Return the term that the rule adds to the uncorrected root of v;
        `root` corrects it.
        """
        return self.epsilon if self.epsilon_hat else self.epsilon * root


@settings
class AdamW(Adam):
    """Adam with decoupled weight decay:
    ``w <- w - rate weight_decay w`` beside Adam's step.

    The decay acts on every parameter, biases included,
    as in the paper and in PyTorch, unless `decay_biases` is False.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float above 0, default 1e-8
    epsilon_hat : bool, default False
        As in `Adam`.
    weight_decay : float of 0 or more, default 0.01
    decay_biases : bool, default True
        False: biases do not decay, as in most recipes for tables.

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Loshchilov & Hutter (2019),
    "Decoupled weight decay regularization", arXiv:1711.05101.

    Examples
    --------
    >>> from fastmlp import AdamW
    >>> AdamW(weight_decay=0.1).weight_decay
    0.1
    """

    weight_decay: float = 0.01
    decay_biases: bool = field(default=True, kw_only=True)

    @property
    def rule(self) -> UpdateRule:
        return updates.adamw

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        adam: Any = super().coefficients(first_step, rates)
        keep = 1 - rates * self.weight_decay
        row: Any = (
            (*adam, keep) if isinstance(adam, tuple) else np.column_stack([adam, keep])
        )
        return row


@settings
class Nadam(Adam):
    """Adam with Nesterov's momentum and a momentum schedule.

    With ``mu_t = beta_1 (1 - 0.5 * 0.96^(t momentum_decay))`` and M_t the product of
    mu_1 to mu_t: ``w <- w - rate u / (sqrt(v') + epsilon)`` with ``u = mu_(t+1) m /
    (1 - M_(t+1)) + (1 - mu_t) g / (1 - M_t)``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float above 0, default 1e-8
    epsilon_hat : bool, default False
        As in `Adam`.
    momentum_decay : float of 0 or more, default 0.004

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Dozat (2016), "Incorporating Nesterov momentum into Adam".

    Examples
    --------
    >>> from fastmlp import Nadam
    >>> Nadam(0.002).momentum_decay
    0.004
    """

    momentum_decay: float = 0.004

    @property
    def rule(self) -> UpdateRule:
        return updates.nadam

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        t = first_step + np.arange(len(rates) + 1)
        mu = self._momentum(t)
        product = self._product(first_step) * np.cumprod(mu)
        root = np.sqrt(1 - powers(self.beta_2, t[:-1]))
        rate_m = rates * root * mu[1:] / (1 - product[1:])
        rate_g = rates * root * (1 - mu[:-1]) / (1 - product[:-1])
        return columns(
            rates, rate_m, rate_g, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root)
        )

    def _momentum(self, t: NDArray[np.int64]) -> Any:
        return self.beta_1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _product(self, step: int) -> float:
        """Return the product of the momenta before `step`; 0 if it is below 1e-30."""
        vanished = 70 / -np.log(self.beta_1) if self.beta_1 else 1.0
        if step > vanished:
            return 0.0
        product: Any = 1.0
        for first in range(1, step, 1 << 16):
            product *= np.prod(
                self._momentum(np.arange(first, min(first + (1 << 16), step)))
            )
        return float(product)


@settings
class RMSprop(OptimizerSettings):
    """Divide the gradient by a running mean of its size.

    ``v <- rho v + (1 - rho) g^2``, ``m <- momentum m + g / (sqrt(v) + epsilon)``,
    ``w <- w - rate m``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    rho : float in [0, 1), default 0.9
    momentum : float in [0, 1), default 0
    epsilon : float above 0, default 1e-8

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Tieleman & Hinton (2012), "Lecture 6.5: rmsprop", Coursera.

    Examples
    --------
    >>> from fastmlp import RMSprop
    >>> RMSprop(rho=0.99).momentum
    0.0
    """

    learning_rate: float | Schedule = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-8

    @property
    def rule(self) -> UpdateRule:
        return updates.rmsprop

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        return columns(rates, rates, 1 - self.rho, self.momentum, self.epsilon)


@settings
class Adagrad(OptimizerSettings):
    """Divide the gradient by the root of the sum of its squares so far.

    ``v <- v + g^2``, ``w <- w - rate g / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
    epsilon : float above 0, default 1e-10

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range.

    References
    ----------
    Duchi, Hazan & Singer (2011),
    "Adaptive subgradient methods for online learning and stochastic optimization".

    Examples
    --------
    >>> from fastmlp import Adagrad
    >>> Adagrad(0.1)
    Adagrad(learning_rate=0.1, epsilon=1e-10)
    """

    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10

    @property
    def rule(self) -> UpdateRule:
        return updates.adagrad

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        return columns(rates, rates, self.epsilon)


@settings
class ScheduleFreeAdamW(OptimizerSettings):
    """AdamW with an average of its iterates, built in, in place of a schedule.

    Gradients are taken at ``y = (1 - beta_1) z + beta_1 x``. Step t, with the rate ``r
    = learning_rate min(1, t / warmup_steps)``, is ``v <- beta_2 v + (1 - beta_2) g^2``,
    ``s = g / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay y``, ``z <- z - r s``,
    and x becomes the mean of all z so far, each weighted by the square of its rate. The
    net's parameters are x, while and after it trains; a further fit goes on from y and
    z.

    Parameters
    ----------
    learning_rate : float, default 0.0025
        A number: a schedule would be a second one.
    beta_1 : float in (0, 1), default 0.9
        The share of x in y.
    beta_2 : float in [0, 1), default 0.999
    epsilon : float above 0, default 1e-8
        Added to the corrected root, as in `Adam`.
    weight_decay : float of 0 or more, default 0
        Of y, biases included.
    warmup_steps : int of 0 or more, default 0
        Number of steps over which the rate rises linearly from 0.

    Raises
    ------
    TypeError, ValueError
        If a setting is not a number or out of range, or if there is an `average`.

    References
    ----------
    Defazio et al. (2024), "The road less scheduled", arXiv:2405.15682.

    Examples
    --------
    >>> from fastmlp import MLP, ScheduleFreeAdamW
    >>> net = MLP((2, 4, 1), optimizer=ScheduleFreeAdamW(0.01, warmup_steps=100))
    """

    learning_rate: float = 0.0025
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0

    @property
    def rule(self) -> UpdateRule:
        return updates.schedule_free_adamw

    def _check(self) -> None:
        who = type(self).__name__
        rate = self.learning_rate
        if callable(rate):
            raise TypeError(
                f"{who}: learning_rate must be a finite number above 0, got {rate!r}: "
                f"the average "
                "takes the place of a schedule; use warmup_steps, or AdamW with the "
                "schedule"
            )
        scalars.positive(who, "learning_rate", rate)
        scalars.inner_fraction(who, "beta_1", self.beta_1)
        super()._check()
        if self.average is not None:
            raise ValueError(
                f"{who}: it averages by itself, got average={self.average!r}: leave it "
                f"out, or use "
                "AdamW with it"
            )

    def coefficients(
        self, first_step: int, rates: Rates, averaged_from: int = 0
    ) -> Rates:
        """Return (rate, gain_v, epsilon, root, weight_decay, share, rate_m),
        v's bias correction folded in; x counts the steps after step `averaged_from`.
        """
        t = first_step + np.arange(len(rates))
        root = np.sqrt(1 - powers(self.beta_2, t))
        of_z = rates * self._risen(t)
        share = self._risen(t) ** 2 / (
            self._mass(t) - self._mass(np.array(averaged_from))
        )
        rate_m = of_z * self.beta_1 * (1 - share)
        fixed = (1 - self.beta_2, self.epsilon * root, root, self.weight_decay)
        return columns(rates, of_z - rate_m, *fixed, share, rate_m)

    def _risen(self, t: Any) -> Any:
        return np.minimum(t / max(self.warmup_steps, 1), 1.0)

    def _mass(self, t: Any) -> Any:
        """Return the sums of squares of the rates,
        in parts of the full rate, up to steps t.
        """
        n = float(max(self.warmup_steps, 1))
        low = np.minimum(t, n)
        return low * (low + 1) * (2 * low + 1) / (6 * n * n) + (t - low)


@settings
class Custom(OptimizerSettings):
    """An optimizer from your update rule.

    Parameters
    ----------
    rule : callable
        ``rule(w, g, m, v, rate, *constants) -> (w, m, v)`` on scalars: a parameter, its
        gradient and two slots of state that start at 0. The rule may call NumPy and
        `fastmlp.rules.elementary`.
    learning_rate : float or schedule, default 0.001
    constants : tuple of float, default ()
        Further coefficients that the rule takes.

    Raises
    ------
    TypeError, ValueError
        If a setting has the wrong type or is out of range.

    Examples
    --------
    >>> from fastmlp import Custom, MLP
    >>> def sign_descent(w, g, m, v, rate):
    ...     return (w - rate if g > 0 else w + rate), m, v
    >>> net = MLP((2, 4, 1), optimizer=Custom(sign_descent, learning_rate=0.01))
    """

    rule: UpdateRule
    learning_rate: float | Schedule = 0.001
    constants: tuple[float, ...] = field(default=())

    def _check(self) -> None:
        if not callable(self.rule):
            raise TypeError(f"Custom: rule must be a function, got {self.rule!r}")
        super()._check()

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        return columns(rates, rates, *self.constants)


class SecondOrder:
    """An epoch is one iteration over all rows, which finds its step length.

    Attributes
    ----------
    learning_rate : 1
    """

    held_as: ClassVar[str] = "net.optimizer"
    learning_rate: float = 1.0

    @property
    def rule(self) -> UpdateRule:
        """The class, in the place of a rule: a step changes all parameters together."""
        kind: Any = type(self)
        made: UpdateRule = kind
        return made

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        return np.empty((len(rates), 0))

    def settings(self) -> dict[str, Any]:
        fields: Any = self
        return asdict(fields)


@settings
class LevenbergMarquardt(SecondOrder):
    """Damped Gauss-Newton steps, for smooth functions to many digits,
    by nets of at most a few thousand parameters.

    A step d solves ``(G + mu D) d = -g``: g is the gradient, G the Gauss-Newton matrix
    of all rows, and mu the damping. D is the root of the largest diagonal so far times
    the diagonal's mean. Mu rises after a step that does not lower the objective, which
    is not taken, and falls after good steps. An epoch of `MLP.fit` is one step that was
    taken, with the loss after it. All numbers are float64. A `time_limit` abandons the
    current step.

    Targets of any scale are learned alike. With an identity output, D is taken as if
    the targets were divided by their deviation, rounded to a power of 16. A net that
    explains less than half of the objective begins with its last layer times that
    number, unless the layer is frozen.

    The losses are "mse", "huber", "log_cosh", "binary_cross_entropy", "cross_entropy",
    "poisson", "gamma" and "tweedie", with l2, on the CPU. The matrix takes 8 bytes
    times the square of the number of trained parameters.

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
            object.__setattr__(
                self, name, scalars.positive(who, name, getattr(self, name))
            )
        if self.max_damping <= self.damping:
            raise ValueError(
                f"{who}: max_damping must be above damping={self.damping!r}, got "
                f"{self.max_damping!r}"
            )


@settings
class LBFGS(SecondOrder):
    """SciPy's L-BFGS-B on all rows: an epoch of `MLP.fit` is one of its iterations.

    All numbers are float64. Each fit starts anew; parameters that a callback writes are
    overwritten. Needs SciPy, of the extra `sklearn`.

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
    Byrd, Lu, Nocedal & Zhu, A limited memory algorithm for bound constrained
    optimization, 1995.

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


SECOND_ORDER: dict[str, type[LevenbergMarquardt] | type[LBFGS]] = {
    "levenbergmarquardt": LevenbergMarquardt,
    "lbfgs": LBFGS,
}


def matrix_bytes(n: int) -> int:
    """The matrix of n parameters, and its factor of half the size."""
    return 8 * n * n


def jacobian_bytes(n: int, n_outputs: int, n_threads: int) -> int:
    """A block of the Jacobian, and the threads' buffers:
    rows, and roots of the curvature.
    """
    rows_at_once = 16
    n_rows = min(max((1 << 17) // max(n, 1), 96), 384) + rows_at_once * n_outputs
    return 8 * (n_rows * n + n_threads * rows_at_once * (n + n_outputs**2))


def require_first_order(optimizer: object, who: str) -> None:
    """Check that an optimizer takes steps on single batches."""
    if isinstance(optimizer, SecondOrder):
        name = type(optimizer).__name__
        raise ValueError(
            f"{who}: {name} takes its steps on all rows at once: use MLP.fit, or an "
            f"optimizer of "
            "batches, such as Adam()"
        )


# `coefficients` of one rate, a number, are one step's numbers.
TAKING_ONE_RATE: tuple[type, ...] = (SGD, RMSprop, Adagrad, Adam, AdamW, Custom)
OptimizerName = Literal[
    "sgd", "rmsprop", "adagrad", "adam", "adamw", "nadam", "schedulefreeadamw"
]
OPTIMIZERS: dict[str, type] = {
    kind.__name__.lower(): kind
    for kind in (SGD, RMSprop, Adagrad, Adam, AdamW, Nadam, ScheduleFreeAdamW)
}
# Words of other libraries, by name or by sentence of advice.
OPTIMIZER_SYNONYMS = {
    "sgd": "gd gradient_descent stochastic_gradient_descent",
    "schedulefreeadamw": "schedule_free schedule_free_adamw adamw_schedulefree "
    "adamwschedulefree",
    "write SGD(0.01, momentum=0.9)": "momentum",
    "write SGD(0.01, momentum=0.9, nesterov=True)": "nesterov",
    "write LBFGS(), or in MLPClassifier and MLPRegressor solver='lbfgs'": "lbfgs l_bfgs_b bfgs",
    "write LevenbergMarquardt()": "lm levenberg_marquardt levenbergmarquardt trainlm "
    "gauss_newton",
}
