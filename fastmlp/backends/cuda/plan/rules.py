"""A network's rules, the key of the cache of compiled kernels, and what a GPU refuses.

Features of a training on the CPU that a training on a GPU lacks are refused by name. To add one: a
row in `REFUSALS`. `rules_of` checks them before a fit copies anything to the GPU or compiles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.plan.records import AVERAGE_OF_M, NO_AVERAGE, OWN_AVERAGE
from fastmlp.network.spec import Computed, Network
from fastmlp.rules.links import Link
from fastmlp.rules.losses import Loss
from fastmlp.rules.optimizers import (
    Optimizer,
    coefficients_of,
    gradient_rule_of,
    is_averaged,
    lag_of,
    norm_limit_of,
)

Function = Callable[..., Any]


class Refusal(NamedTuple):
    """A feature that a GPU lacks: its condition, its name in words, and the alternative."""

    applies: Callable[[Network, Optimizer], bool]
    feature: str
    instead: str


REFUSALS = [
    Refusal(
        lambda network, optimizer: norm_limit_of(optimizer) is not None,
        "does not clip gradients by their norm (clipnorm, global_clipnorm)",
        "use clipvalue",
    ),
    Refusal(
        lambda network, optimizer: network.compute_dtype is not None,
        "does not train in mixed precision (compute_dtype)",
        "use compute_dtype=None",
    ),
    Refusal(
        lambda network, optimizer: bool(network.signs),
        "does not keep the signs of weights (monotonic_cst)",
        "leave it out",
    ),
]
PREDICTING = REFUSALS[1]._replace(feature="does not predict in mixed precision (compute_dtype)")


def refuse(network: Network, optimizer: Optimizer) -> None:
    """Check that a GPU can train a network by an optimizer.

    Raises
    ------
    ValueError
        If one of `REFUSALS` applies.
    """
    for refusal in REFUSALS:
        if refusal.applies(network, optimizer):
            raise _refused(refusal)


def refuse_predicting(compute_dtype: Computed) -> None:
    """Check that a GPU can predict with products in this dtype.

    Raises
    ------
    ValueError
        If they are in another than the network's.
    """
    if compute_dtype is not None:
        raise _refused(PREDICTING)


def _refused(refusal: Refusal) -> ValueError:
    words = f'MLP: device="cuda" {refusal.feature}: {refusal.instead}'
    return ValueError(f'{words}, or device="cpu"')


class KernelRules(NamedTuple):
    """The rules of a kernel, the key of the cache of compiled kernels.

    Attributes
    ----------
    activations : the distinct activations of a net; an activation's code is its index here
    update : the optimizer's rule, or None for a kernel without an update
    n_coefficients : those of the optimizer's rule, and then the setting of the gradient rule
    gradient_rule : the name of the rule that changes each number of the gradient first, or ""
    average : NO_AVERAGE, OWN_AVERAGE (the gain is the last coefficient) or AVERAGE_OF_M
    draws : True for training with dropout or noise
    """

    dtype: str
    activations: tuple[Function, ...]
    loss: Loss
    link: Link
    penalties: tuple[Function, ...]
    update: Function | None = None
    n_coefficients: int = 0
    gradient_rule: str = ""
    average: int = NO_AVERAGE
    draws: bool = False


def rules_of(network: Network, optimizer: Optimizer | None = None) -> KernelRules:
    """Return the rules of a network, and of its optimizer if there is one.

    Raises
    ------
    ValueError
        If there are no kernels for the optimizer, or for a training of the network.
    """
    update, n, gradient_rule, average = None, 0, "", NO_AVERAGE
    if optimizer is not None:
        refuse(network, optimizer)
        update, gradient_rule = optimizer.rule, gradient_rule_of(optimizer)
        n = coefficients_of(optimizer, 1, np.ones(1)).shape[1]
        if is_averaged(optimizer):
            average = AVERAGE_OF_M if lag_of(optimizer) else OWN_AVERAGE
    return KernelRules(
        network.dtype.name,
        tuple(dict.fromkeys(network.activations)),
        network.loss,
        network.link,
        tuple(rule for rule, _ in network.penalties),
        update,
        n,
        gradient_rule,
        average,
        optimizer is not None and network.dropout is not None,
    )
