"""The blocks of the phases, which every session needs, and those that only some need."""

from functools import cache
from typing import Any

import numpy as np

from fastmlp.backends.cpu.kernels import dropout, single_row
from fastmlp.backends.cpu.kernels.by_panels import forward_backward_by_panels
from fastmlp.backends.cpu.kernels.epoch import train_clipped
from fastmlp.backends.cpu.kernels.first_layer.csr import (
    sparse_columns,
    sparse_forward,
    sparse_gradient,
)
from fastmlp.backends.cpu.kernels.first_layer.expanded import (
    expanded_columns,
    expanded_forward,
    expanded_gradient,
)
from fastmlp.backends.cpu.kernels.forward_backward import forward_backward
from fastmlp.backends.cpu.kernels.gradient_norm import scaled, squares
from fastmlp.backends.cpu.kernels.gradient_update import update
from fastmlp.backends.cpu.kernels.microbatches import microbatches
from fastmlp.backends.cpu.kernels.mixed_precision import pair_rows, pair_tiles, pair_weights
from fastmlp.backends.cpu.kernels.single_row_backward import row_backward
from fastmlp.backends.cpu.kernels.split_k import split_k, split_k_backward
from fastmlp.backends.cpu.plan.pack import pack, transposes, unpack
from fastmlp.backends.cpu.simd.gemm import product
from fastmlp.compiler import Block, block_of
from fastmlp.compiler.target import pair_products

FORWARD_BLOCKS = ("product", "pack", "forward_backward")
PHASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "product": (product, {"by_column": False}),
    "gradient_product": (product, {"by_column": True}),
    "pack": (pack, {}),
    "unpack": (unpack, {}),
    "transposes": (transposes, {}),
    "forward_backward": (forward_backward, {}),
    "update": (update, {}),
}
# What mixed precision needs beside the phases.
FORWARD_PAIRED = ("pair_product", "pair_rows", "pair_weights")
TRAIN_PAIRED = ("pair_product", "pair_rows", "pair_tiles", "pair_gradient_product")
PAIRED: dict[str, tuple[Any, dict[str, Any]]] = {
    "pair_product": (product, {"by_column": False, "pairs": True}),
    "pair_rows": (pair_rows, {}),
    "pair_weights": (pair_weights, {}),
    "pair_tiles": (pair_tiles, {}),
    "pair_gradient_product": (product, {"by_column": True, "pairs": True}),
}
# Blocks that only some nets and rows need: compiled on first use.
OTHERS = (
    microbatches,
    split_k,
    split_k_backward,
    forward_backward_by_panels,
    row_backward,
    train_clipped,
    single_row.descend,
    sparse_forward,
    sparse_columns,
    sparse_gradient,
    expanded_forward,
    expanded_columns,
    expanded_gradient,
    squares,
    scaled,
    dropout.dropout,
    dropout.input_noise,
)


def compile_others(dtype: np.dtype[Any]) -> None:
    """Compile the blocks that only some sessions need."""
    for factory in OTHERS:
        block_of(factory, dtype)
    phase("update", dtype, by_norm=True)


def compile_paired(dtype: np.dtype[Any]) -> None:
    """Compile the blocks that mixed precision needs beside the others."""
    for name in PAIRED:
        phase(name, dtype)


def names_of(*, train: bool, paired: bool) -> list[str]:
    """Return the names of the blocks of a session; `paired`: products take pairs."""
    further = TRAIN_PAIRED if train else FORWARD_PAIRED
    return [*(PHASES if train else FORWARD_BLOCKS), *(further if paired else ())]


@cache
def phase(name: str, dtype: np.dtype[Any], by_norm: bool = False) -> Block:
    """Return the block of a phase, by its name; `by_norm`: of the update that clips by norm."""
    factory, options = (PAIRED if name in PAIRED else PHASES)[name]
    if by_norm:
        options = {**options, "by_norm": True}
    if options.get("pairs"):
        # As the host multiplies them: the code cache must know.
        options = {**options, "pairs": pair_products()}
    return block_of(factory, dtype, **options)
