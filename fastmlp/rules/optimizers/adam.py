"""Adam, AdamW and Nadam."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.rules import updates
from fastmlp.rules.optimizers.protocol import (
    Rates,
    Schedule,
    Settings,
    check_settings,
    columns,
    powers,
)
from fastmlp.rules.updates import UpdateRule
from fastmlp.validation import scalars
from fastmlp.validation.calls import explained


@explained
@dataclass(frozen=True, repr=False)
class Adam(Settings):
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

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.fraction, "beta_1", "beta_2")
        check_settings(self, scalars.positive, "epsilon")
        check_settings(self, scalars.boolean, "epsilon_hat")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.adam`."""
        return updates.adam

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate, gain_m, gain_v, epsilon), with the bias corrections folded in.

        The gains are 1 - beta, computed in float64: in float32, 1 - 0.999 has an error of 5e-5.
        """
        t = first_step + np.arange(len(rates))
        root = np.sqrt(1 - powers(self.beta_2, t))
        rate = rates * root / (1 - powers(self.beta_1, t))
        return columns(rates, rate, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root))

    def _epsilon(self, root: Rates) -> Any:
        """Return what the rule adds to the uncorrected root of v; `root` is the correction."""
        return self.epsilon if self.epsilon_hat else self.epsilon * root


@explained
@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``w <- w - rate weight_decay w`` beside Adam's step.

    The decay acts on every parameter, biases included, as in the paper and in PyTorch, unless
    `decay_biases` is False.

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
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization", arXiv:1711.05101.

    Examples
    --------
    >>> from fastmlp import AdamW
    >>> AdamW(weight_decay=0.1).weight_decay
    0.1
    """

    weight_decay: float = 0.01
    decay_biases: bool = field(default=True, kw_only=True)

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.non_negative, "weight_decay")
        check_settings(self, scalars.boolean, "decay_biases")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.adamw`."""
        return updates.adamw

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return Adam's coefficients and keep = 1 - rate weight_decay."""
        keep = 1 - rates * self.weight_decay
        return np.column_stack([super().coefficients(first_step, rates), keep])


@explained
@dataclass(frozen=True, repr=False)
class Nadam(Adam):
    """Adam with Nesterov's momentum and a momentum schedule.

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

    def _check(self) -> None:
        super()._check()
        check_settings(self, scalars.non_negative, "momentum_decay")

    @property
    def rule(self) -> UpdateRule:
        """The update rule, `updates.nadam`."""
        return updates.nadam

    def coefficients(self, first_step: int, rates: Rates) -> Rates:
        """Return (rate_m, rate_g, gain_m, gain_v, epsilon)."""
        t = first_step + np.arange(len(rates) + 1)
        mu = self._momentum(t)
        product = self._product(first_step) * np.cumprod(mu)
        root = np.sqrt(1 - powers(self.beta_2, t[:-1]))
        rate_m = rates * root * mu[1:] / (1 - product[1:])
        rate_g = rates * root * (1 - mu[:-1]) / (1 - product[:-1])
        return columns(rates, rate_m, rate_g, 1 - self.beta_1, 1 - self.beta_2, self._epsilon(root))

    def _momentum(self, t: NDArray[np.int64]) -> Any:
        return self.beta_1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def _product(self, step: int) -> float:
        """Return the product of the momenta before `step`; 0 if it is below 1e-30."""
        vanished = 70 / -np.log(self.beta_1) if self.beta_1 else 1.0
        if step > vanished:
            return 0.0
        product: Any = 1.0
        for first in range(1, step, 1 << 16):
            product *= np.prod(self._momentum(np.arange(first, min(first + (1 << 16), step))))
        return float(product)
