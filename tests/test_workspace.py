"""Buffers: how many rows a chunk takes, and what is allocated for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp import workspace
from fastmlp.layout import Layout, make_layout
from fastmlp.workspace import (
    ALIGNMENT,
    STRIP_ROWS,
    aligned,
    chunk_rows,
    make_workspace,
    packed_size,
    round_up,
    transposed_size,
)

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


@for_every_layout
@given(layouts, st.integers(0, 10**9))
def test_a_chunk_of_training_is_all_the_rows_or_no_small_part_of_them(
    layout: Layout, n_rows: int
) -> None:
    rows = chunk_rows(layout, n_rows, train=True)
    assert rows <= max(1, n_rows)
    assert rows == max(1, n_rows) or rows >= workspace.MIN_CHUNK_ROWS


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_rounding_up_is_the_next_multiple(n: int, unit: int) -> None:
    assert round_up(n, unit) % unit == 0
    assert n <= round_up(n, unit) < n + unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_buffers_of_training_hold_a_chunk_of_every_layer(dtype: type) -> None:
    buffers = make_workspace(make_layout((3, 7, 5, 2)), 11, 6, dtype, 4, train=True)
    assert (buffers.chunk_rows, buffers.panel_rows, buffers.lanes) == (11, 16, 4)
    assert buffers.inputs.shape == (16 * 4,)
    assert buffers.outputs.shape == buffers.deltas.shape == (16 * (8 + 8 + 4),)
    for of_outputs in (buffers.raw, buffers.value, buffers.slope, buffers.loss_slope):
        assert of_outputs.shape == (16 * 2,)
    assert buffers.targets.shape == (16 * 6,)
    assert buffers.transposed.shape == (8 * 8 + 8 * 4,)
    # Panels with a row for the biases, and room for a square that reaches past the last one.
    packed = (8 * 4 + 8 * 8 + 4 * 6 + 4 * 4,)
    for of_parameters in ("parameters", "m", "v", "backup", "gradient"):
        assert getattr(buffers, of_parameters).shape == packed
    assert buffers.zeros.shape == (4,)
    arrays = [b for b in buffers if isinstance(b, np.ndarray) and b is not buffers.row_losses]
    assert {b.dtype.type for b in arrays} == {dtype, np.int64}


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([2, 4, 8, 16]))
def test_packed_layers_have_a_row_more_and_whole_panels(n_in: int, n_out: int, lanes: int) -> None:
    assert packed_size(n_in, n_out, lanes) % (lanes * (n_in + 1)) == 0
    assert 0 <= packed_size(n_in, n_out, lanes) - n_out * (n_in + 1) < lanes * (n_in + 1)
    assert transposed_size(n_in, n_out, lanes) % lanes**2 == 0
    assert transposed_size(n_in, n_out, lanes) >= n_in * n_out


@given(st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
def test_buffers_are_zeros_that_begin_on_a_cache_line(n: int, dtype: type) -> None:
    numbers = aligned(n, dtype)
    assert (numbers.shape, numbers.dtype) == ((n,), dtype)
    assert numbers.ctypes.data % ALIGNMENT == 0 or n == 0
    assert not numbers.any()


def test_losses_of_rows_are_float64() -> None:
    buffers = make_workspace(make_layout((3, 2)), 11, 1, np.float32, 16, train=True)
    assert buffers.row_losses.shape == (16,)
    assert buffers.row_losses.dtype == np.float64


@pytest.mark.parametrize("rows", [1, 8, 30])
def test_identity_counts_the_rows_of_a_chunk(rows: int) -> None:
    buffers = make_workspace(make_layout((3, 9, 5)), rows, 1, np.float32, 16, train=True)
    assert buffers.identity.tolist() == list(range(round_up(rows, STRIP_ROWS)))
    assert buffers.identity.dtype == np.int64


def test_a_forward_pass_allocates_its_parameters_and_nothing_else_of_their_size() -> None:
    buffers = make_workspace(make_layout((3, 4, 2)), 1, 1, np.float32, 16, train=False)
    assert buffers.parameters.size > 0
    unused = (buffers.transposed, buffers.gradient, buffers.backup, buffers.m, buffers.v)
    assert [b.size for b in unused] == [0] * 5
