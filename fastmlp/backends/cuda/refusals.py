"""What training on the CPU has and training on a GPU has not yet: refused by name.

To add one: a row in `REFUSALS`. `rule_blocks.rules_of` asks, before a fit copies anything to the
GPU or compiles.
"""

from collections.abc import Callable
from typing import NamedTuple

from fastmlp.network.spec import Computed, Network
from fastmlp.rules.optimizers import Optimizer, norm_limit_of


class Refusal(NamedTuple):
    """What is refused, when, and what to do instead."""

    applies: Callable[[Network, Optimizer], bool]
    what: str
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
]
PREDICTING = REFUSALS[-1]._replace(what="does not predict in mixed precision (compute_dtype)")


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
    words = f'MLP: device="cuda" {refusal.what}: {refusal.instead}'
    return ValueError(f'{words}, or device="cpu"')
