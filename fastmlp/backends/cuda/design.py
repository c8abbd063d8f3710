"""Which design, and which shape of blocks, for a net and a batch; and their kernels, kept."""

from functools import cache
from typing import Any, NamedTuple

from fastmlp.backends.cuda import adapter
from fastmlp.backends.cuda.adapter import Card
from fastmlp.backends.cuda.kernels import grid as wide
from fastmlp.backends.cuda.kernels import single_block as small
from fastmlp.backends.cuda.kernels.rule_blocks import Rules
from fastmlp.backends.cuda.kernels.shared_memory_gemm import Shape
from fastmlp.backends.cuda.launch_shape import Form
from fastmlp.backends.cuda.plan import N_TILES, Need, make_plan
from fastmlp.network.spec import Network

# One block does about 0.2 TFLOP/s of an H100's 25: 3 MFLOP a step take it 15 us, what the two
# joins of a grid and its phases take at the least. An estimate, until a card has measured it.
SMALL_FLOPS = 4_000_000
# 16 rows of 128, or 64 of 64; weights in 32 of 32, or in 64 of 64.
FEW_ROWS, MANY_ROWS = Shape(32, 8, 2, 4), Shape(16, 16, 4, 4)
FEW_WEIGHTS, MANY_WEIGHTS = Shape(16, 16, 2, 2), Shape(16, 16, 4, 4)
# The simulator takes 0.3 s for a block of 256 threads.
SIMULATED_SHAPE = Shape(2, 2, 2, 2, 3)
SIMULATED_THREADS = 8


class Design(NamedTuple):
    """How to train.

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
    """Return the design for batches of so many rows; `kind` chooses it, where it is given."""
    space = space_bytes(network, batch)
    fits = space <= card.shared_bytes
    if kind is None:
        light = 6 * network.layout.n_weights * batch <= SMALL_FLOPS
        grid = "phases" if adapter.SIMULATED else "wide"
        kind = "small" if n_nets > 1 or (fits and light) else grid
    n_threads = SIMULATED_THREADS if adapter.SIMULATED else small.THREADS
    return Design(kind, small.Form(fits, n_threads), form_for(network, batch, card))


def form_for(network: Network, n_rows: int, card: Card) -> Form:
    """Return the shapes of blocks: large tiles where there are enough of them for the card."""
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
    """Return the shared memory that a block needs to train a net of this form."""
    sizes = make_plan(network, Need(batch, batch, block=True))[1]
    return sizes.space * network.dtype.itemsize


@cache
def small_kernel(rules: Rules, form: small.Form) -> Any:
    """Return the kernel of design one, made once per process and rules."""
    return small.make_kernel(rules, form)


@cache
def wide_kernels(rules: Rules, form: Form) -> wide.Kernels:
    """Return the kernels of design two, made once per process and rules."""
    return wide.make_kernels(rules, form)


@cache
def apply_kernel(rules: Rules, n_threads: int) -> Any:
    """Return the kernel of a single step, made once per process and rules."""
    return wide.make_apply(rules, n_threads)
