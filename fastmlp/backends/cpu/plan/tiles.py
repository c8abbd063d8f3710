"""The tiles of phase two: pieces of the packed parameters, grouped by thread."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import Packed, round_up
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.records import Tile
from fastmlp.backends.cpu.plan.workspace import Workspace
from fastmlp.backends.cpu.simd.gemm import groups_of_panels, panels_at_once
from fastmlp.backends.cpu.tuning import CACHE_BYTES, LARGEST_TILE, TILE_ROWS


def groups_of(n_panels: int) -> list[tuple[int, int]]:
    """Cut a layer's panels into groups that a tile of sums takes at once: first panel, number."""
    groups, panel = [], 0
    while panel < n_panels:
        groups.append((panel, panels_at_once(n_panels - panel)))
        panel += groups[-1][1]
    return groups


class Tiling(NamedTuple):
    """All that tiles depend on, as a key: nets with equal keys share a table of tiles.

    Attributes
    ----------
    packed : the layout of each layer's weights
    lanes, size : numbers of a vector, and bytes of a number
    block : rows whose inputs stay in the second-level cache
    sparse : True if the first layer's rows are sparse
    n_threads : among how many threads the tiles are divided
    split_layer, middle : the layer, from 1, that is computed by split-K, and its second half's
        first input
    by_panels : True if a team shares phase one by panels
    cuts : first inputs where tiles are cut, if they can be
    """

    packed: tuple[Packed, ...]
    lanes: int
    size: int
    block: int
    sparse: bool
    n_threads: int
    split_layer: int
    middle: int
    by_panels: bool
    cuts: tuple[int, ...]


def tiles_of(workspace: Workspace, partition: Partition, middle: int) -> NDArray[Any]:
    """Cut all packed parameters into tiles: groups of panels, and in them groups of rows.

    A group has as many rows as keep their inputs in the second-level cache while all deltas pass.
    Each thread has its own panels of every layer, and as many tiles as any other.
    """
    size, packed, lanes = workspace.parameters.itemsize, workspace.packed, workspace.lanes
    block = max(1, CACHE_BYTES // (workspace.chunk_rows * size * TILE_ROWS)) * TILE_ROWS
    shared = (partition.n_threads, partition.split_layer, middle, partition.by_panels)
    cuts = partition.cuts
    return _make_tiles(Tiling(packed, lanes, size, block, workspace.sparse, *shared, cuts))


@lru_cache(maxsize=256)
def _make_tiles(tiling: Tiling) -> NDArray[Any]:
    """Return the tiles, read-only, grouped by thread."""
    packed, n_threads, middle = tiling.packed, tiling.n_threads, tiling.middle
    lanes, split_layer = tiling.lanes, tiling.split_layer
    tiles: list[tuple[int, ...]] = []
    owners: list[int] = []
    begin_of_layer = 0
    for i, layer in enumerate(packed):
        n_rows = layer.rows
        at_once = n_rows if tiling.sparse and i == 0 else tiling.block
        parts = [(0, middle), (middle, n_rows)] if i + 1 == split_layer else [(0, n_rows)]
        groups = groups_of(layer.panels)
        shares = len(parts) * len(groups)
        for part, (low, high) in enumerate(parts):
            for begin in range(low, high, at_once):
                end = min(begin + at_once, high)
                for g, panels in enumerate(groups):
                    for first, last in _rows_of_tiles(begin, end, tiling.cuts if i == 0 else ()):
                        down = begin_of_layer + layer.place(panels[0], first)
                        place = (down * lanes * tiling.size, len(tiles))
                        tiles.append((i, first, last, *panels, *place, 0, n_rows))
                        owners.append((part * len(groups) + g) * n_threads // shares)
        begin_of_layer += layer.size
    table = _balanced(np.array(tiles, Tile.dtype), np.array(owners), n_threads)
    if tiling.by_panels:
        _mark_cached(table.reshape(n_threads, -1), packed, lanes, max(split_layer, 1))
    table.flags.writeable = False
    return table


def _rows_of_tiles(first: int, end: int, cuts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the rows of each tile, first and after the last: `TILE_ROWS`, or up to the last cut in
    their second half."""
    while first < end:
        most = min(first + TILE_ROWS, end)
        half = first + TILE_ROWS // 2
        last = max((cut for cut in cuts if half <= cut < most), default=most)
        last = most if most == end or most in cuts else last
        yield first, last
        first = last


def _mark_cached(
    shares: NDArray[Any], packed: tuple[Packed, ...], lanes: int, first_layer: int
) -> None:
    """Mark, per tile, the weight rows that its own thread reads again in the backward pass; they
    are stored through the cache."""
    for i, layer in enumerate(packed):
        if i < first_layer or layer.is_transposed:
            continue
        n_groups = groups_of_panels(round_up(layer.rows, lanes) // lanes)
        for thread, share in enumerate(shares):
            ends = (part * n_groups // len(shares) for part in (thread, thread + 1))
            its = share["layer"] == i
            for name, end in zip(("cached_first", "cached_last"), ends, strict=True):
                share[name][its] = end * LARGEST_TILE[1] * lanes


def _balanced(tiles: NDArray[Any], owners: NDArray[Any], n_threads: int) -> NDArray[Any]:
    """Group tiles by thread, balance the groups by work (greedy), and pad them to equal length with
    empty tiles.

    By number alone, one of two threads had 58 % of 784-100-100-10: 7 panels are two pairs, a pair
    and one.
    """
    work = (tiles["last"] - tiles["first"]) * tiles["n_panels"]
    loads = np.bincount(owners, work, n_threads)
    for tile in np.argsort(-work, kind="stable"):
        low, high = loads.argmin(), owners[tile]
        if loads[low] + work[tile] < loads[high]:
            owners[tile] = low
            loads[[low, high]] += work[tile], -work[tile]
    most = np.bincount(owners, minlength=n_threads).max()
    table = np.zeros((n_threads, most), Tile.dtype)
    table["n_panels"] = 1
    for thread, share in enumerate(table):
        own = tiles[owners == thread]
        share[: len(own)] = own
    flat = table.ravel()
    # An empty tile's slot of the sum of penalties is its own, and stays 0.
    flat["slot"][flat["first"] == flat["last"]] = np.arange(len(tiles), len(flat))
    return flat
