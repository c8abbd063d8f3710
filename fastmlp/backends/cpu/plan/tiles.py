"""The tiles of phase two: pieces of the packed parameters, ordered by the thread that has them."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends.cpu.plan.packing import Packed, round_up
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.records import Tile
from fastmlp.backends.cpu.plan.workspace import Workspace
from fastmlp.backends.cpu.simd.gemm import LARGEST, groups_of_panels, panels_at_once
from fastmlp.backends.cpu.tuning import CACHE_BYTES, TILE_ROWS


def groups_of(n_panels: int) -> list[tuple[int, int]]:
    """Cut a layer's panels into groups that a tile of sums takes at once: first panel, number."""
    groups, panel = [], 0
    while panel < n_panels:
        groups.append((panel, panels_at_once(n_panels - panel)))
        panel += groups[-1][1]
    return groups


class Shares(NamedTuple):
    """How tiles are shared out.

    Attributes
    ----------
    n_threads : int
    split_layer : int, from 1, the layer that is done by split-K; 0: none
    middle : int, the row at which its second half begins
    by_panels : bool, whether the backward pass is shared by panels
    """

    n_threads: int
    split_layer: int
    middle: int
    by_panels: bool


def tiles_of(workspace: Workspace, partition: Partition, middle: int) -> NDArray[Any]:
    """Cut all packed parameters into tiles: groups of panels, and in them groups of rows.

    A group has as many rows as keep their inputs in the second-level cache while all deltas pass.
    Each thread has its own panels of every layer, and as many tiles as any other.
    """
    size, packed, lanes = workspace.parameters.itemsize, workspace.packed, workspace.lanes
    block = max(1, CACHE_BYTES // (workspace.chunk_rows * size * TILE_ROWS)) * TILE_ROWS
    shares = Shares(partition.n_threads, partition.split_layer, middle, partition.by_panels)
    return _cut(packed, lanes, size, block, workspace.sparse, shares)


@lru_cache(maxsize=256)
def _cut(
    packed: tuple[Packed, ...], lanes: int, size: int, block: int, sparse: bool, shares: Shares
) -> NDArray[Any]:
    """Return the tiles of layers that are held so: the same for every net of a kind."""
    tiles: list[tuple[int, ...]] = []
    owners: list[int] = []
    begin_of_layer, middle = 0, shares.middle
    for i, held in enumerate(packed):
        n_rows = held.rows
        at_once = n_rows if sparse and i == 0 else block
        split = i + 1 == shares.split_layer
        parts = [(0, middle), (middle, n_rows)] if split else [(0, n_rows)]
        groups = groups_of(held.panels)
        n_shares = len(parts) * len(groups)
        for part, (low, high) in enumerate(parts):
            for begin in range(low, high, at_once):
                end = min(begin + at_once, high)
                for g, panels in enumerate(groups):
                    for first in range(begin, end, TILE_ROWS):
                        last = min(first + TILE_ROWS, end)
                        down = begin_of_layer + held.place(panels[0], first)
                        place = (down * lanes * size, len(tiles))
                        tiles.append((i, first, last, *panels, *place, 0, n_rows))
                        owners.append((part * len(groups) + g) * shares.n_threads // n_shares)
        begin_of_layer += held.size
    table = _shared_out(np.array(tiles, Tile.dtype), np.array(owners), shares.n_threads)
    if shares.by_panels:
        by_thread = table.reshape(shares.n_threads, -1)
        _mark_cached(by_thread, packed, lanes, max(shares.split_layer, 1))
    table.flags.writeable = False
    return table


def _mark_cached(
    by_thread: NDArray[Any], packed: tuple[Packed, ...], lanes: int, first_layer: int
) -> None:
    """Mark, per tile, the weight rows that its own thread reads again in the backward pass: those
    of its groups of panels of the layer below. They are stored through the cache."""
    for i, held in enumerate(packed):
        if i < first_layer or held.turned:
            continue
        n_groups = groups_of_panels(round_up(held.rows, lanes) // lanes)
        for thread, share in enumerate(by_thread):
            ends = (part * n_groups // len(by_thread) for part in (thread, thread + 1))
            its = share["layer"] == i
            for name, end in zip(("cached_first", "cached_last"), ends, strict=True):
                share[name][its] = end * LARGEST[1] * lanes


def _shared_out(tiles: NDArray[Any], owners: NDArray[Any], n_threads: int) -> NDArray[Any]:
    """Group tiles by thread, balance the groups by work (greedy), and pad them to equal length with
    empty tiles: a team cuts them by their number.

    By number alone one of two threads had 58 % of 784-100-100-10, whose 7 panels are two pairs, a
    pair and one.
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
    # An empty tile adds 0 to a sum, in a slot of its own.
    flat["slot"][flat["first"] == flat["last"]] = np.arange(len(tiles), len(flat))
    return flat
