"""How many rows a chunk and a microbatch have."""

from fastmlp.backends.cpu.plan.packing import round_up
from fastmlp.backends.cpu.tuning import (
    CACHE_NUMBERS,
    CHUNK_FLOPS,
    CHUNK_NUMBERS,
    CHUNK_PER_WEIGHT,
    MICROBATCH_FLOPS,
    MICROBATCHES,
    MIN_CHUNK_ROWS,
    STRIP_ROWS,
)
from fastmlp.network.parameter_layout import Layout


def chunk_rows(layout: Layout, n_rows: int, *, train: bool = False, sparse: bool = False) -> int:
    """Return the rows of a chunk.

    `CHUNK_NUMBERS` activations and `CHUNK_FLOPS` operations, about 0.25 s of one core, bound them:
    memory does not grow with the data, and Ctrl-C is served in time. If the gradient is small
    beside the chunk, training takes as many rows as keep outputs and deltas in the second-level
    cache (`CACHE_NUMBERS`).
    """
    per_row = sum(layout.sizes[1:] if sparse else layout.sizes)
    by_memory = CHUNK_NUMBERS // per_row
    by_time = CHUNK_FLOPS // (6 * layout.n_weights)
    most = max(MIN_CHUNK_ROWS, min(by_memory, by_time))
    in_cache = CACHE_NUMBERS // (2 * per_row) // MIN_CHUNK_ROWS * MIN_CHUNK_ROWS
    if not train or in_cache * per_row > CHUNK_PER_WEIGHT * layout.n_weights:
        most = min(most, max(MIN_CHUNK_ROWS, in_cache))
    return _even_chunk(n_rows, most)


def microbatch_rows(layout: Layout, n_rows: int) -> int:
    """Return the rows of a microbatch, which one thread takes through both phases; 0: none.

    For large batches of small nets: a microbatch's outputs and deltas stay in the second-level
    cache, its gradient is small beside them, and a multiple of four microbatches shares out evenly.
    """
    if 6 * layout.n_weights * n_rows < MICROBATCH_FLOPS:
        return 0
    per_row = sum(layout.sizes)
    in_cache = max(MIN_CHUNK_ROWS, CACHE_NUMBERS // (2 * per_row))
    n_microbatches = round_up(-(-n_rows // in_cache), MICROBATCHES)
    rows = round_up(-(-n_rows // n_microbatches), STRIP_ROWS)
    return rows if rows * per_row > CHUNK_PER_WEIGHT * layout.n_weights else 0


def rows_by_microbatches(layout: Layout, n_rows: int, small: int, n_packed: int) -> int:
    """Return the rows of a chunk of microbatches, of `small` rows and n_packed gradients each: what
    one core trains on in 0.25 s, with `CHUNK_NUMBERS` numbers of gradients."""
    by_time, by_memory = CHUNK_FLOPS // (6 * layout.n_weights), CHUNK_NUMBERS // n_packed * small
    return min(n_rows, max(1, min(by_time, by_memory) // small) * small)


def _even_chunk(n_rows: int, most: int) -> int:
    """Return the rows of equal chunks of about `most` rows; a quarter more saves a short last one.

    Chunks of 499 and 13 rows -> one of 512: 156 -> 144 ms (1024-2048-2048-1000@512, 1 thread).
    """
    n_chunks = max(1, -(-(4 * n_rows - most) // (4 * most)))
    rows = -(-n_rows // n_chunks)
    # Whole strips, where there is room for them.
    return max(1, min(n_rows, max(most, rows), round_up(rows, STRIP_ROWS)))
