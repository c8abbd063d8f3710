"""Buffers: how many rows a chunk takes, and what is allocated for it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp import workspace
from fastmlp.layout import Layout, make_layout
from fastmlp.workspace import (
    ALIGNMENT,
    PAGE_ROWS,
    STRIP_ROWS,
    aligned,
    chunk_rows,
    copy_size,
    is_turned,
    make_workspace,
    packed_size,
    round_up,
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
        # A quarter more, where that saves a short last chunk.
        whole = (rows - 1) * 4 / 5
        assert whole * sum(layout.sizes) <= workspace.CHUNK_NUMBERS
        assert whole * 6 * layout.n_weights <= workspace.CHUNK_FLOPS


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
    assert rows == max(1, n_rows) or rows >= workspace.MIN_CHUNK_ROWS // 2


@for_every_layout
@given(layouts, st.integers(1, 10**5), st.booleans())
def test_chunks_are_about_equal(layout: Layout, n_rows: int, train: bool) -> None:
    rows = chunk_rows(layout, n_rows, train=train)
    n_chunks = -(-n_rows // rows)
    assert rows * n_chunks - n_rows < STRIP_ROWS * n_chunks


def test_a_batch_a_little_over_a_chunk_is_one_chunk() -> None:
    assert chunk_rows(make_layout((1024, 2048, 2048, 1000)), 512, train=True) == 512


@given(st.integers(0, 10**6), st.integers(1, 100))
def test_rounding_up_is_the_next_multiple(n: int, unit: int) -> None:
    assert round_up(n, unit) % unit == 0
    assert n <= round_up(n, unit) < n + unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_buffers_of_training_hold_a_chunk_of_every_layer(dtype: type) -> None:
    buffers = make_workspace(make_layout((3, 7, 5, 2)), 11, 6, dtype, 4, train=True)
    assert (buffers.chunk_rows, buffers.panel_rows, buffers.lanes) == (11, 16, 4)
    assert buffers.inputs.shape == (16 * 4,)
    # And room for a square more.
    for of_layers in (buffers.deltas, buffers.outputs):
        assert of_layers.shape == (16 * (8 + 8 + 4) + 4 * 4,)
    for of_outputs in (buffers.raw, buffers.value, buffers.slope, buffers.loss_slope):
        assert of_outputs.shape == (16 * 2 + 2 * 4,)
    assert buffers.targets.shape == (16 * 6,)
    assert buffers.copies.shape == (8 * 8,)
    # Panels with a row for the biases; the last layer turned, its biases after its panels; and room
    # for a square that reaches past the end.
    packed = (8 * 4 + 8 * 8 + (8 * 2 + 4) + 4 * 4,)
    for of_parameters in ("parameters", "backup"):
        assert getattr(buffers, of_parameters).shape == packed
    assert buffers.zeros.shape == (4,)
    arrays = [b for b in buffers if isinstance(b, np.ndarray) and b is not buffers.row_losses]
    assert {b.dtype.type for b in arrays} == {dtype, np.int64}


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([2, 4, 8, 16]))
def test_packed_layers_have_a_row_more_and_whole_panels(n_in: int, n_out: int, lanes: int) -> None:
    assert packed_size(n_in, n_out, lanes) % (lanes * (n_in + 1)) == 0
    assert 0 <= packed_size(n_in, n_out, lanes) - n_out * (n_in + 1) < lanes * (n_in + 1)
    assert copy_size(n_in, n_out, lanes) % lanes**2 == 0
    assert copy_size(n_in, n_out, lanes) >= n_in * n_out


@given(st.integers(1, 300), st.integers(1, 4), st.sampled_from([4, 8, 16]))
def test_a_turned_layer_pads_its_inputs_in_place_of_its_outputs(
    n_in: int, n_out: int, lanes: int
) -> None:
    size = packed_size(n_in, n_out, lanes, turned=True)
    assert size % lanes == 0
    assert 0 <= size - n_out * n_in - lanes < n_out * lanes


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_layer_of_few_outputs_and_more_inputs_is_turned(lanes: int) -> None:
    turned = {n for n in range(1, 40) for n_in in (n + 1, 100) if is_turned(n_in, n, lanes)}
    assert turned == set(range(1, {2: 2, 4: 4, 8: 5, 16: 10}[lanes] + 1))
    assert not any(is_turned(n_in, n, lanes) for n in range(1, 40) for n_in in range(1, n + 1))


@given(st.integers(1, 5000))
def test_panels_of_rows_are_never_a_multiple_of_a_page_apart(rows: int) -> None:
    buffers = make_workspace(make_layout((1, 1)), rows, 1, np.float32, 16, train=False)
    assert buffers.panel_rows % STRIP_ROWS == 0
    assert buffers.panel_rows % PAGE_ROWS != 0
    assert rows <= buffers.panel_rows < rows + 2 * STRIP_ROWS


@pytest.mark.parametrize(
    ("sizes", "copied"),
    [
        ((3, 2), []),
        ((3, 20), []),
        ((3, 20, 12), [1]),
        ((9, 3, 3), [0, 1]),
        ((9, 3, 2), [0]),
        ((40, 3, 1), [0]),
        ((40, 30, 1), []),
    ],
)
def test_layers_that_are_read_in_both_forms_have_a_copy(
    sizes: tuple[int, ...], copied: list[int]
) -> None:
    """All but a first one that is not turned, and a last one that is."""
    buffers = make_workspace(make_layout(sizes), 5, 1, np.float32, 16, train=True)
    pairs = list(pairwise(sizes))
    assert buffers.copies.size == sum(copy_size(*pairs[i], 16) for i in copied)


def test_one_row_needs_copies_of_turned_layers_alone() -> None:
    buffers = make_workspace(make_layout((9, 3, 20, 12, 2)), 1, 1, np.float32, 16, train=True)
    assert buffers.copies.size == copy_size(9, 3, 16)


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


@pytest.mark.parametrize(("rows", "panel_rows"), [(1, 8), (8, 8), (30, 32), (57, 72), (64, 72)])
def test_identity_counts_the_rows_of_a_chunk(rows: int, panel_rows: int) -> None:
    buffers = make_workspace(make_layout((3, 9, 5)), rows, 1, np.float32, 16, train=True)
    assert buffers.identity.tolist() == list(range(panel_rows))
    assert buffers.identity.dtype == np.int64


def test_a_forward_pass_allocates_its_parameters_and_nothing_else_of_their_size() -> None:
    buffers = make_workspace(make_layout((3, 4, 2)), 1, 1, np.float32, 16, train=False)
    assert buffers.parameters.size > 0
    assert buffers.copies.size == buffers.backup.size == 0
