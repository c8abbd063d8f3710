"""Buffers: how many rows a chunk takes, and what is allocated for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp import workspace
from fastmlp.layout import Layout, make_layout
from fastmlp.workspace import chunk_rows, make_workspace

layouts = st.lists(st.integers(1, 5000), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
for_every_layout = settings(derandomize=True, deadline=None)


@for_every_layout
@given(layouts, st.integers(0, 10**9))
def test_a_chunk_has_a_row_and_no_more_than_there_are(layout: Layout, n_rows: int) -> None:
    assert 1 <= chunk_rows(layout, n_rows) <= max(1, n_rows)


@for_every_layout
@given(layouts, st.integers(0, 10**9))
def test_a_chunk_is_bounded_in_memory_and_in_time(layout: Layout, n_rows: int) -> None:
    rows = chunk_rows(layout, n_rows)
    if rows > workspace.MIN_CHUNK_ROWS:
        assert rows * sum(layout.sizes) <= workspace.CHUNK_NUMBERS
        assert rows * 6 * layout.n_weights <= workspace.CHUNK_FLOPS


@for_every_layout
@given(layouts)
def test_rows_in_plenty_fill_the_smallest_chunk_at_least(layout: Layout) -> None:
    assert chunk_rows(layout, 10**9) >= workspace.MIN_CHUNK_ROWS


def test_a_small_batch_is_one_chunk() -> None:
    assert chunk_rows(make_layout((10, 100, 10)), 256) == 256


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_buffers_of_training_hold_a_chunk_of_every_layer(dtype: type) -> None:
    buffers = make_workspace(make_layout((3, 7, 5, 2)), 11, 4, dtype, train=True)
    assert buffers.chunk_rows == 11
    assert buffers.outputs.shape == buffers.deltas.shape == (11 * (7 + 5 + 2),)
    assert buffers.raw.shape == (11 * 7,)
    assert buffers.targets.shape == (11 * 4,)
    assert buffers.transposed.shape == (3 * 7 + 7 * 5 + 5 * 2,)
    assert buffers.gradient.shape == buffers.backup.shape == (66 + 14,)
    kept = {b.dtype.type for b in buffers[1:] if b is not buffers.row_losses}
    assert kept == {dtype, np.int64}


def test_losses_of_rows_are_float64() -> None:
    buffers = make_workspace(make_layout((3, 2)), 11, 1, np.float32, train=True)
    assert buffers.row_losses.shape == (11,)
    assert buffers.row_losses.dtype == np.float64


@pytest.mark.parametrize(("rows", "n"), [(2, 9), (30, 30)])
def test_identity_counts_the_rows_of_a_chunk_and_the_widest_layer(rows: int, n: int) -> None:
    buffers = make_workspace(make_layout((3, 9, 5)), rows, 1, np.float32, train=True)
    assert buffers.identity.tolist() == list(range(n))
    assert buffers.identity.dtype == np.int64


def test_a_forward_pass_allocates_nothing_the_size_of_the_parameters() -> None:
    buffers = make_workspace(make_layout((3, 2)), 1, 1, np.float32, train=False)
    assert buffers.transposed.size == buffers.gradient.size == buffers.backup.size == 0
