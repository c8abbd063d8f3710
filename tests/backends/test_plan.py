"""Tables that kernels read: tiles cover the parameters, addresses point where they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.backends.cpu.drive import JOB
from fastmlp.backends.cpu.plan import (
    LAYER,
    NET,
    ROW_BLOCK,
    TILE,
    TILE_NUMBERS,
    Addresses,
    Plan,
    address,
    make_plan,
)
from fastmlp.layout import Layout, bias_views, make_layout, weight_views
from fastmlp.workspace import Workspace, make_workspace

layouts = st.lists(st.integers(1, 300), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
for_every_layout = settings(derandomize=True, deadline=None, max_examples=50)


def plan_of(layout: Layout, flat: Any, rows: int = 5) -> tuple[Plan, Workspace]:
    buffers = make_workspace(layout, rows, 1, flat.dtype, train=True)
    blocks = Addresses(range(layout.n_layers), penalties=(7, 8))
    moments = np.zeros((2, flat.size), flat.dtype)
    return make_plan(layout, buffers, blocks, flat, moments, (0.1, 0.2), 1), buffers


@for_every_layout
@given(layouts)
def test_tiles_cover_every_parameter_once(layout: Layout) -> None:
    flat = np.zeros(layout.n_parameters, np.float32)
    weights, biases = weight_views(layout, flat), bias_views(layout, flat)
    for piece in plan_of(layout, flat)[0].tiles:
        if piece.first == layout.sizes[piece.layer]:
            biases[piece.layer] += 1
        else:
            assert piece.last <= layout.sizes[piece.layer]
            weights[piece.layer][piece.first : piece.last] += 1
    assert (flat == 1).all()


@for_every_layout
@given(layouts)
def test_a_tile_is_small_or_four_rows(layout: Layout) -> None:
    for piece in plan_of(layout, np.zeros(layout.n_parameters))[0].tiles:
        n_rows = piece.last - piece.first
        width = layout.sizes[piece.layer + 1]
        assert n_rows > 0
        assert n_rows <= 4 or n_rows * width <= TILE_NUMBERS


@for_every_layout
@given(layouts)
def test_tiles_of_a_matrix_start_at_every_fourth_row(layout: Layout) -> None:
    tiles = plan_of(layout, np.zeros(layout.n_parameters))[0].tiles
    starts = [t.first for t in tiles if t.first < layout.sizes[t.layer]]
    assert all(first % 4 == 0 for first in starts)


@for_every_layout
@given(layouts)
def test_a_layer_knows_where_its_numbers_lie(layout: Layout) -> None:
    flat = np.zeros(layout.n_parameters)
    plan, _ = plan_of(layout, flat)
    expected = [
        view.ctypes.data for view in (*weight_views(layout, flat), *bias_views(layout, flat))
    ]
    assert [*plan.layers.weights, *plan.layers.biases] == expected
    assert [*plan.layers.activation] == list(range(layout.n_layers))


@for_every_layout
@given(layouts, st.integers(1, 40))
def test_buffers_of_layers_lie_one_after_the_other(layout: Layout, rows: int) -> None:
    plan, buffers = plan_of(layout, np.zeros(layout.n_parameters), rows)
    ends = plan.layers.outputs + rows * plan.layers.n_out * 8
    assert plan.layers.outputs[0] == address(buffers.outputs)
    assert [*ends[:-1]] == [*plan.layers.outputs[1:]]
    assert ends[-1] == address(buffers.outputs) + buffers.outputs.nbytes


@for_every_layout
@given(layouts, st.integers(1, 100))
def test_every_block_of_rows_has_a_place_for_its_loss(layout: Layout, rows: int) -> None:
    plan, _ = plan_of(layout, np.zeros(layout.n_parameters), rows)
    assert len(plan.block_losses) == len(range(0, rows, ROW_BLOCK))
    assert len(plan.tile_penalties) == len(plan.tiles) == plan.net[0].n_tiles


def test_penalties_have_their_addresses_and_strengths() -> None:
    plan, _ = plan_of(make_layout((2, 1)), np.zeros(3))
    assert plan.net[0].n_penalties == 2
    assert plan.penalties.tolist() == [7, 8]
    assert plan.strengths.tolist() == [0.1, 0.2]


@pytest.mark.parametrize("record", [NET, LAYER, TILE, JOB], ids=["net", "layer", "tile", "job"])
def test_no_field_has_the_name_of_a_method_of_records(record: Any) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(record.names) & set(dir(np.record))


def test_an_offset_counts_numbers_not_bytes() -> None:
    numbers = np.zeros(4, np.float32)
    assert address(numbers, 3) == numbers[3:].ctypes.data
