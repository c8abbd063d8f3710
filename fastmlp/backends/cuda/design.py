"""The choice of design and block shapes for a net and a batch, and a cache of their kernels."""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda import adapter, small, wide
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import N_TILES, Need, make_plan
from fastmlp.backends.cuda.rules import Rules
from fastmlp.backends.cuda.staged import Shape
from fastmlp.network.spec import Network

# Operations of a step up to which one block trains a net. A block does about 0.2 TFLOP/s of an
# H100's 25, so 3 MFLOP take 15 us, the least that two grid barriers and the phases take. Estimated,
# not measured on a card.
SMALL_FLOPS = 4_000_000
# 16 rows of 128, or 64 of 64; weights in 32 of 32, or in 64 of 64.
FEW_ROWS, MANY_ROWS = Shape(32, 8, 2, 4), Shape(16, 16, 4, 4)
FEW_WEIGHTS, MANY_WEIGHTS = Shape(16, 16, 2, 2), Shape(16, 16, 4, 4)
# Small blocks: the simulator takes 0.3 s for a block of 256 threads.
SIMULATED_SHAPE = Shape(2, 2, 2, 2, 3)
SIMULATED_THREADS = 8


class Design(NamedTuple):
    """A way to train on the device.

    Attributes
    ----------
    kind : "small" (one block), "wide" (a grid, many steps a launch) or "phases" (a grid, a launch
        for each phase)
    """

    kind: str
    small: small.Form
    wide: Form


def design_for(
    network: Network, batch: int, card: Card, kind: str | None = None, n_nets: int = 1
) -> Design:
    """Return the design for batches of `batch` rows; `kind`, if given, decides."""
    space = space_bytes(network, batch)
    fits = space <= card.shared_bytes
    if kind is None:
        light = 6 * network.layout.n_weights * batch <= SMALL_FLOPS
        grid = "phases" if adapter.SIMULATED else "wide"
        kind = "small" if n_nets > 1 or (fits and light) else grid
    n_threads = SIMULATED_THREADS if adapter.SIMULATED else small.THREADS
    return Design(kind, small.Form(fits, n_threads), form_for(network, batch, card))


def form_for(network: Network, n_rows: int, card: Card) -> Form:
    """Return the shapes of blocks: large tiles if there are enough of them for the card."""
    if adapter.SIMULATED:
        return Form(SIMULATED_SHAPE, SIMULATED_SHAPE)
    enough = card.n_multiprocessors
    many_rows = n_rows >= enough * MANY_ROWS.tile_rows
    tiles = n_tiles(network, MANY_WEIGHTS)
    return Form(
        MANY_ROWS if many_rows else FEW_ROWS, MANY_WEIGHTS if tiles >= enough else FEW_WEIGHTS
    )


def n_tiles(network: Network, shape: Shape) -> int:
    """Return how many tiles of weights a net has."""
    tile = (shape.tile_rows, shape.tile_columns)
    plan, _ = make_plan(network, Need(1, 1, tile=tile))
    return int(plan[N_TILES])


def space_bytes(network: Network, batch: int) -> int:
    """Return the bytes of shared memory that a block needs to train such a net."""
    sizes = make_plan(network, Need(batch, batch, block=True))[1]
    return sizes.space * network.dtype.itemsize


@cache
def small_kernel(rules: Rules, form: small.Form) -> Any:
    """Return the kernel of the small design, made once per process and rules."""
    return small.make_kernel(rules, form)


@cache
def wide_kernels(rules: Rules, form: Form) -> wide.Kernels:
    """Return the kernels of the wide design, made once per process and rules."""
    return wide.make_kernels(rules, form)


@cache
def apply_kernel(rules: Rules, n_threads: int) -> Any:
    """Return the kernel of a single step, made once per process and rules."""
    return wide.make_apply(rules, n_threads)
