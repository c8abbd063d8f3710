"""A session's tables: addresses point where they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import SIZE, for_every_layout, layouts, plan_of, spacings, widths

from fastmlp.backends.cpu.plan.packing import Spacing, holds_transposed, round_up
from fastmlp.backends.cpu.plan.records import (
    ALL,
    NONE,
    OTHERS,
    Batch,
    BlockAddresses,
    Job,
    Layer,
    Net,
    Tile,
    address,
)
from fastmlp.backends.cpu.tuning import PAGE_ROWS, STRIP_ROWS
from fastmlp.compiler import Record
from fastmlp.network.spec import Layout, make_layout


def test_what_no_cache_holds_goes_past_them() -> None:
    small, large = make_layout((10, 20, 30)), make_layout((1000, 1000, 1000))
    assert plan_of(small, 16)[0].net[0].non_temporal == NONE
    assert plan_of(small, 16, n_threads=2, by_panels=True)[0].net[0].non_temporal == OTHERS
    assert plan_of(small, 16, n_threads=1, by_panels=True)[0].net[0].non_temporal == NONE
    assert plan_of(large, 16, n_threads=2, by_panels=True)[0].net[0].non_temporal == ALL


@for_every_layout
@given(layouts, widths, spacings)
def test_transposes_lie_at_whole_vectors(layout: Layout, lanes: int, spacing: Spacing) -> None:
    # A store past the caches faults elsewhere.
    for layer in plan_of(layout, lanes, spacing=spacing)[0].layers:
        assert layer.transposed_copy % (lanes * SIZE) == 0
        assert layer.copy_panel % (lanes * SIZE) == 0


@for_every_layout
@given(layouts, widths, st.booleans(), spacings)
def test_layers_lie_one_after_the_other_in_the_packed_vector(
    layout: Layout, lanes: int, train: bool, spacing: Spacing
) -> None:
    plan, buffers = plan_of(layout, lanes, train=train, spacing=spacing)
    layers, packed, vector = plan.layers, buffers.packed, lanes * SIZE
    begin = address(buffers.parameters)
    ends = begin + np.cumsum([held.size for held in packed]) * vector
    assert [*layers.packed] == [begin, *ends[:-1]]
    # A square that is transposed may reach past the end by one less than its rows.
    assert ends[-1] + (lanes - 1) * vector <= begin + buffers.parameters.nbytes
    for layer, held in zip(layers, packed, strict=True):
        assert (
            layer.is_transposed
            == held.is_transposed
            == (train and holds_transposed(layer.n_in, layer.n_out, lanes))
        )
        assert (layer.packed_rows, layer.packed_panels) == (held.rows, held.panels)
        assert layer.packed_panel == held.panel * vector
        assert layer.biases == layer.packed + held.biases * vector
        assert (layer.middle, layer.gap) == (held.middle, held.gap * vector)


@for_every_layout
@given(layouts, widths, st.booleans())
def test_one_form_of_the_weights_serves_the_way_forward_and_one_the_way_back(
    layout: Layout, lanes: int, train: bool
) -> None:
    for layer in plan_of(layout, lanes, train=train)[0].layers:
        forms = (layer.packed, layer.packed_panel), (layer.transposed_copy, layer.copy_panel)
        ways = (layer.weights, layer.weight_panel), (layer.transposed, layer.transposed_panel)
        assert ways == (forms[::-1] if layer.is_transposed else forms)


@for_every_layout
@given(layouts, widths)
def test_a_layer_knows_its_sizes_and_its_rule_and_where_its_numbers_lie(
    layout: Layout, lanes: int
) -> None:
    layers = plan_of(layout, lanes)[0].layers
    assert [*layers.offset] == [*layout.weights]
    assert [*layers.bias_offset] == [*layout.biases]
    assert ([*layers.n_in], [*layers.n_out]) == ([*layout.sizes[:-1]], [*layout.sizes[1:]])
    assert [*layers.n_panels] == [round_up(n, lanes) // lanes for n in layout.sizes[1:]]
    assert [*layers.activation] == list(range(layout.n_layers))
    assert [*layers.form] == [i % 3 for i in range(layout.n_layers)]


@for_every_layout
@given(layouts, widths, spacings)
def test_copies_lie_one_after_the_other(layout: Layout, lanes: int, spacing: Spacing) -> None:
    plan, buffers = plan_of(layout, lanes, spacing=spacing)
    begin = end = address(buffers.copies)
    for layer, held in zip(plan.layers, buffers.packed, strict=True):
        assert layer.transposed_copy == (end if held.copy_size else 0)
        assert layer.copy_panel == held.copy_panel * lanes * SIZE
        # Panels of the transpose, their rows filled up to whole squares.
        n_panels = round_up(layer.packed_rows, lanes) // lanes if layer.transposed_copy else 0
        end += n_panels * layer.copy_panel
    assert end - begin == buffers.copies.nbytes


@for_every_layout
@given(layouts, widths)
def test_a_forward_pass_has_no_copies_and_turns_no_layer(layout: Layout, lanes: int) -> None:
    layers = plan_of(layout, lanes, train=False)[0].layers
    assert not layers.transposed_copy.any()
    assert not layers.is_transposed.any()


@for_every_layout
@given(layouts, widths, st.integers(1, 40), spacings)
def test_buffers_of_layers_lie_one_after_the_other(
    layout: Layout, lanes: int, rows: int, spacing: Spacing
) -> None:
    plan, buffers = plan_of(layout, lanes, rows, spacing=spacing)
    panel = plan.net[0].panel
    assert panel == buffers.panel_rows * lanes * SIZE
    assert panel // (lanes * SIZE) % PAGE_ROWS != 0
    for name in ("outputs", "deltas"):
        begins, buffer = plan.layers[name], getattr(buffers, name)
        ends = begins + plan.layers.n_panels * panel
        assert begins[0] == address(buffer)
        assert [*ends[:-1]] == [*begins[1:]]
        assert ends[-1] == address(buffer) + buffer.nbytes - lanes * lanes * SIZE


@for_every_layout
@given(layouts, st.integers(1, 100))
def test_every_strip_of_rows_has_a_place_for_its_loss(layout: Layout, rows: int) -> None:
    plan, _ = plan_of(layout, 16, rows)
    assert len(plan.strip_losses) >= len(range(0, rows, STRIP_ROWS))
    assert len(plan.tile_penalties) == len(plan.tiles) == plan.net[0].n_tiles


def test_a_net_knows_its_tables_and_buffers() -> None:
    plan, buffers = plan_of(make_layout((3, 20, 2)), 16)
    net = plan.net[0]
    for name in ("layers", "tiles", "strip_losses", "tile_penalties", "penalties", "strengths"):
        assert net[name] == address(getattr(plan, name))
    for name in ("inputs", "raw", "loss_slope", "parameters", "backup", "zeros"):
        assert net[name] == address(getattr(buffers, name))
    assert (net.n_layers, net.n_in, net.n_out, net.n_targets) == (2, 3, 2, 1)
    assert net.n_packed == buffers.parameters.size


def test_penalties_have_their_addresses_and_strengths() -> None:
    plan, _ = plan_of(make_layout((2, 1)), 16)
    assert plan.net[0].n_penalties == 2
    assert plan.penalties.tolist() == [7, 8]
    assert plan.strengths.tolist() == [0.1, 0.2]
    assert plan.scales.shape == (2,)


@pytest.mark.parametrize("kind", [Net, Batch, BlockAddresses, Layer, Tile, Job])
def test_no_field_has_the_name_of_a_method_of_records(kind: type[Record]) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(kind.dtype.names or ()) & set(dir(np.record))


def test_an_offset_counts_numbers_not_bytes() -> None:
    numbers = np.zeros(4, np.float32)
    assert address(numbers, 3) == numbers[3:].ctypes.data
