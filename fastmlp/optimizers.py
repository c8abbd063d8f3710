"""Optimizers: how one step changes a parameter, given the gradient g of the objective.

An optimizer is a frozen dataclass of its settings. Its `rule` is one small function of
`fastmlp.updates`; `coefficients` computes what depends on the step and not on the parameter, so
that the rule is a handful of multiplications.

To add one: write its rule and its dataclass, and give it a row in `OPTIMIZERS`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks, updates
from fastmlp.updates import UpdateRule

Rates = NDArray[np.float64]


class Schedule(Protocol):
    """A learning rate that changes: from step numbers (from 0) and their total to rates."""

    def __call__(self, steps: NDArray[np.int64], total: int, /) -> Rates: ...


@runtime_checkable
class Optimizer(Protocol):
    """What a net needs of an optimizer.

    `coefficients` takes the number of the first step (from 1) and the learning rates of it and
    those that follow, shape (n_steps,), and returns shape (n_steps, n_coefficients).
    """

    @property
    def learning_rate(self) -> "float | Schedule": ...

    @property
    def rule(self) -> UpdateRule: ...

    def coefficients(self, first_step: int, rates: Rates) -> Rates: ...


def _columns(rates: Rates, *columns: Any) -> Rates:
    """Stack numbers and arrays of shape (n_steps,) into shape (n_steps, n_columns)."""
    table = np.empty((len(rates), len(columns)))
    for j, column in enumerate(columns):
        table[:, j] = column
    return table


def _powers(base: float, t: NDArray[np.int64]) -> Rates:
    """Return ``base**t`` for t of 1 or more, to rounding of 1: a tenth of NumPy's time."""
    return np.exp(t * np.log(base)) if base > 0 else np.zeros(len(t))


def _check_learning_rate(optimizer: Any) -> None:
    name, rate = type(optimizer).__name__, optimizer.learning_rate
    if isinstance(rate, type):
        wanted = f"{rate.__name__}(...)"
        raise TypeError(f"{name}: learning_rate must be a schedule, not its class: {wanted}")
    if not callable(rate):
        expected = "a finite number above 0 or a schedule"
        number = checks.real(name, "learning_rate", rate, expected, checks.is_positive(rate))
        object.__setattr__(optimizer, "learning_rate", number)


def _check(optimizer: Any, check: Callable[[str, str, object], Any], *names: str) -> None:
    """Check settings, and hold them as Python's numbers: 1 - float32(0.9) is not 1 - 0.9."""
    for name in names:
        value = check(type(optimizer).__name__, name, getattr(optimizer, name))
        object.__setattr__(optimizer, name, value)


def _finite_numbers(owner: str, name: str, value: object) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{owner}: {name} must be a tuple of numbers, got {value!r}")
    expected = "finite"
    return tuple(
        checks.real(owner, f"{name}[{i}]", number, expected, checks.is_finite(number))
        for i, number in enumerate(value)
    )


@dataclass(frozen=True)
class SGD:
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
        Where a setting is not a number or out of range, or Nesterov's form lacks a momentum.

    References
    ----------
    Polyak (1964), "Some methods of speeding up the convergence of iteration methods".
    Sutskever, Martens, Dahl & Hinton (2013), "On the importance of initialization and momentum in
    deep learning".

    Examples
    --------
    >>> from fastmlp import SGD
    >>> SGD(0.1, momentum=0.9)
    SGD(learning_rate=0.1, momentum=0.9, nesterov=False)
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_learning_rate(self)
        _check(self, checks.fraction, "momentum")
        _check(self, checks.boolean, "nesterov")
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, got momentum=0.0")

    @property
    def rule(self) -> UpdateRule:
        """The form that the settings call for."""
        if self.nesterov:
            return updates.sgd_nesterov
        return updates.sgd_momentum if self.momentum else updates.sgd

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate,), and the momentum where there is one."""
        return _columns(rates, rates, *([self.momentum] if self.momentum else []))


@dataclass(frozen=True)
class RMSprop:
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
        Where a setting is not a number or out of range.

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
    rule: ClassVar[UpdateRule] = staticmethod(updates.rmsprop)

    def __post_init__(self) -> None:
        _check_learning_rate(self)
        _check(self, checks.fraction, "rho", "momentum")
        _check(self, checks.positive, "epsilon")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, gain_v, momentum, epsilon), with gain_v = 1 - rho."""
        return _columns(rates, rates, 1 - self.rho, self.momentum, self.epsilon)


@dataclass(frozen=True)
class Adagrad:
    """Divide the gradient by the root of the sum of its squares so far.

    ``v <- v + g^2``, ``w <- w - rate g / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.01
    epsilon : float above 0, default 1e-10

    Raises
    ------
    TypeError, ValueError
        Where a setting is not a number or out of range.

    References
    ----------
    Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization".

    Examples
    --------
    >>> from fastmlp import Adagrad
    >>> Adagrad(0.1)
    Adagrad(learning_rate=0.1, epsilon=1e-10)
    """

    learning_rate: float | Schedule = 0.01
    epsilon: float = 1e-10
    rule: ClassVar[UpdateRule] = staticmethod(updates.adagrad)

    def __post_init__(self) -> None:
        _check_learning_rate(self)
        _check(self, checks.positive, "epsilon")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, epsilon)."""
        return _columns(rates, rates, self.epsilon)


@dataclass(frozen=True)
class Adam:
    """Adaptive moments.

    ``m <- beta_1 m + (1 - beta_1) g``, ``v <- beta_2 v + (1 - beta_2) g^2``, and
    ``w <- w - rate m' / (sqrt(v') + epsilon)`` with ``m' = m / (1 - beta_1^t)`` and
    ``v' = v / (1 - beta_2^t)`` at step t. Epsilon is added to the corrected root, as in the paper's
    algorithm and in PyTorch.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float above 0, default 1e-8
    epsilon_hat : bool, default False
        Add epsilon to the uncorrected root, the paper's "epsilon hat", as Keras and scikit-learn
        do: the step is ``rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)``.

    Raises
    ------
    TypeError, ValueError
        Where a setting is not a number or out of range.

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
    rule: ClassVar[UpdateRule] = staticmethod(updates.adam)

    def __post_init__(self) -> None:
        _check_learning_rate(self)
        _check(self, checks.fraction, "beta_1", "beta_2")
        _check(self, checks.positive, "epsilon")
        _check(self, checks.boolean, "epsilon_hat")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, gain_m, gain_v, epsilon), with the bias corrections folded in.

        The gains are 1 - beta, taken in float64: in float32, 1 - 0.999 is 5e-5 off.
        """
        t = first_step + np.arange(len(rates))
        root = np.sqrt(1 - _powers(self.beta_2, t))
        rate = rates * root / (1 - _powers(self.beta_1, t))
        return _columns(rates, rate, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root))

    def _epsilon(self, root: Rates) -> Any:
        """What is added to the uncorrected root of v; `root` is the correction's."""
        return self.epsilon if self.epsilon_hat else self.epsilon * root


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``w <- w - rate weight_decay w`` beside Adam's step.

    The decay acts on every parameter, biases included, as in the paper and in PyTorch.

    Parameters
    ----------
    learning_rate : float or schedule, default 0.001
    beta_1, beta_2 : float in [0, 1), default 0.9 and 0.999
    epsilon : float above 0, default 1e-8
    epsilon_hat : bool, default False
        As in `Adam`.
    weight_decay : float of 0 or more, default 0.01

    Raises
    ------
    TypeError, ValueError
        Where a setting is not a number or out of range.

    References
    ----------
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization", arXiv:1711.05101.

    Examples
    --------
    >>> from fastmlp import AdamW
    >>> AdamW(weight_decay=0.1).weight_decay
    0.1
    """

    weight_decay: float = 0.01
    rule: ClassVar[UpdateRule] = staticmethod(updates.adamw)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, checks.non_negative, "weight_decay")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return Adam's coefficients and keep = 1 - rate weight_decay."""
        keep = 1 - rates * self.weight_decay
        return np.column_stack([super().coefficients(first_step, rates), keep])


@dataclass(frozen=True)
class Nadam(Adam):
    """Adam with Nesterov's momentum, warmed up.

    With ``mu_t = beta_1 (1 - 0.5 * 0.96^(t momentum_decay))`` and M_t the product of mu_1 to mu_t:
    ``w <- w - rate u / (sqrt(v') + epsilon)`` with
    ``u = mu_(t+1) m / (1 - M_(t+1)) + (1 - mu_t) g / (1 - M_t)``.

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
        Where a setting is not a number or out of range.

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
    rule: ClassVar[UpdateRule] = staticmethod(updates.nadam)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, checks.non_negative, "momentum_decay")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate_m, rate_g, gain_m, gain_v, epsilon)."""
        t = first_step + np.arange(len(rates) + 1)
        mu = self._momentum(t)
        product = self._product(first_step) * np.cumprod(mu)
        root = np.sqrt(1 - _powers(self.beta_2, t[:-1]))
        rate_m = rates * root * mu[1:] / (1 - product[1:])
        rate_g = rates * root * (1 - mu[:-1]) / (1 - product[:-1])
        return _columns(
            rates, rate_m, rate_g, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root)
        )

    def _momentum(self, t: NDArray[np.int64]) -> Any:
        return self.beta_1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _product(self, step: int) -> float:
        """The product of the momenta before `step`; from where it is under 1e-30 on, 0."""
        vanished = 70 / -np.log(self.beta_1) if self.beta_1 else 1.0
        if step > vanished:
            return 0.0
        product: Any = 1.0
        for first in range(1, step, 1 << 16):
            product *= np.prod(self._momentum(np.arange(first, min(first + (1 << 16), step))))
        return float(product)


@dataclass(frozen=True)
class Custom:
    """An optimizer from a rule of your own.

    Parameters
    ----------
    rule : callable
        ``rule(w, g, m, v, rate, *constants) -> (w, m, v)`` on scalars: a parameter, its gradient
        and two numbers of state that start at 0. Compiled on first use; call the functions of
        `fastmlp.elementary` or NumPy's.
    learning_rate : float or schedule, default 0.001
    constants : tuple of float, default ()
        Further coefficients that the rule takes.

    Raises
    ------
    TypeError, ValueError
        Where a setting is not what it must be.

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

    def __post_init__(self) -> None:
        if not callable(self.rule):
            raise TypeError(f"Custom: rule must be a function, got {self.rule!r}")
        _check_learning_rate(self)
        _check(self, _finite_numbers, "constants")

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return the rate and the constants."""
        return _columns(rates, rates, *self.constants)


OPTIMIZERS: dict[str, type] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
}
