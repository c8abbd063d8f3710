"""The design of a net's kernels: its rules, and the shapes of tiles; and the refusals.

Features of a training on the CPU that a training on a GPU lacks are refused by name. To add one: a
row in `REFUSALS`. `rules_of` checks them before a fit copies anything to the GPU or compiles.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backends.cuda.device import adapter
from fastmlp.backends.cuda.device.card import Card
from fastmlp.backends.cuda.plan.plan import (
    AVERAGE_OF_M,
    NO_AVERAGE,
    OWN_AVERAGE,
    Need,
    make_plan,
)
from fastmlp.network.spec import Computed, Network
from fastmlp.rules.groups import groups_of
from fastmlp.rules.links import Link
from fastmlp.rules.losses import Loss
from fastmlp.rules.optimizer_protocol import (
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

    @property
    def scalar(self) -> type[Any]:
        """NumPy's class of the dtype's numbers."""
        return np.dtype(self.dtype).type


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


class TileShape(NamedTuple):
    """The tile of a matrix product that a block computes.

    Attributes
    ----------
    across, down : threads along columns and along rows
    rows, columns : sums of a thread
    depth : depth of the tiles in shared memory
    """

    across: int
    down: int
    rows: int
    columns: int
    depth: int = 16

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.across * self.down

    @property
    def tile_rows(self) -> int:
        """The rows of a block's tile."""
        return self.down * self.rows

    @property
    def tile_columns(self) -> int:
        """The columns of a block's tile."""
        return self.across * self.columns

    @property
    def staging(self) -> int:
        """The numbers of shared memory; one padding column reduces bank conflicts."""
        return self.depth * (self.tile_rows + 1 + self.tile_columns + 1)


class GridShape(NamedTuple):
    """The shapes of the grid's kernels; both phases have the same number of threads.

    Attributes
    ----------
    rows : the tile of the forward and the backward pass
    weights : the tile of the gradient
    """

    rows: TileShape
    weights: TileShape

    @property
    def n_threads(self) -> int:
        """The threads of a block."""
        return self.rows.n_threads

    @property
    def staging(self) -> int:
        """The numbers of shared memory, enough for either phase."""
        return max(self.rows.staging, self.weights.staging)


# 16 rows of 128, or 64 of 64; weights in 32 of 32, or in 64 of 64.
FEW_ROWS, MANY_ROWS = TileShape(32, 8, 2, 4), TileShape(16, 16, 4, 4)
FEW_WEIGHTS, MANY_WEIGHTS = TileShape(16, 16, 2, 2), TileShape(16, 16, 4, 4)
# The simulator takes 0.3 s for a block of 256 threads.
SIMULATED_TILE = TileShape(2, 2, 2, 2, 3)
SIMULATED_THREADS = 8


def grid_shape(network: Network, n_rows: int, card: Card, n_nets: int = 1) -> GridShape:
    """Return the tiles for nets with n rows at once: large ones if there are enough for
    all multiprocessors."""
    if adapter.SIMULATED:
        return GridShape(SIMULATED_TILE, SIMULATED_TILE)
    enough = card.n_multiprocessors
    rows = MANY_ROWS if n_nets * n_rows >= enough * MANY_ROWS.tile_rows else FEW_ROWS
    weights = MANY_WEIGHTS if n_nets * n_tiles(network, MANY_WEIGHTS) >= enough else FEW_WEIGHTS
    return GridShape(rows, weights)


def training_need(
    shape: GridShape,
    network: Network,
    optimizer: Optimizer,
    batch: int,
    n_rows: int,
    n_weights: int,
    n_steps: int,
) -> Need:
    """Return the need of a training, of at most `n_steps` steps a launch."""
    rules, groups = rules_of(network, optimizer), groups_of(optimizer, network.factors)
    need = Need(
        batch,
        n_rows,
        n_weights=n_weights,
        n_steps=n_steps,
        n_epochs=n_steps + 1,
        train=True,
        average=rules.average,
        with_penalties=True,
        n_drawn=network.dropout.n_numbers if network.dropout else 0,
        tile=(shape.weights.tile_rows, shape.weights.tile_columns),
    )
    return need.of_groups(groups, rules.n_coefficients)


def n_tiles(network: Network, shape: TileShape) -> int:
    """Return the number of tiles of a net's weights."""
    need = Need(1, 1, tile=(shape.tile_rows, shape.tile_columns))
    return int(make_plan(network, need).plan["n_tiles"][0])
