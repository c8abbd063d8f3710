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
    TILE,
    TILE_PANELS,
    TILE_ROWS,
    Addresses,
    Plan,
    address,
    make_plan,
)
from fastmlp.layout import Layout, make_layout
from fastmlp.workspace import STRIP_ROWS, Workspace, make_workspace, round_up

layouts = st.lists(st.integers(1, 300), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
for_every_layout = settings(derandomize=True, deadline=None, max_examples=50)
SIZE = 8  # bytes of a number


def plan_of(
    layout: Layout, lanes: int, rows: int = 5, *, train: bool = True
) -> tuple[Plan, Workspace]:
    buffers = make_workspace(layout, rows, 1, np.float64, lanes, train=train)
    forms = [i % 3 for i in range(layout.n_layers)]
    blocks = Addresses(range(layout.n_layers), forms, penalties=(7, 8))
    return make_plan(layout, buffers, blocks, (0.1, 0.2), 1), buffers


@for_every_layout
@given(layouts, widths)
def test_tiles_cover_every_row_of_every_panel_once(layout: Layout, lanes: int) -> None:
    plan, _ = plan_of(layout, lanes)
    covered = [np.zeros((layer.n_panels, layer.n_in), int) for layer in plan.layers]
    biases = [np.zeros(layer.n_panels, int) for layer in plan.layers]
    for piece in plan.tiles:
        panels = slice(piece.panel, piece.panel + piece.n_panels)
        assert panels.stop <= plan.layers[piece.layer].n_panels
        assert piece.last <= plan.layers[piece.layer].n_in
        covered[piece.layer][panels, piece.first : piece.last] += 1
        if piece.last == plan.layers[piece.layer].n_in:  # the last piece takes the biases
            biases[piece.layer][panels] += 1
    assert all((count == 1).all() for count in covered)
    assert all((count == 1).all() for count in biases)


@for_every_layout
@given(layouts, widths)
def test_a_tile_is_small(layout: Layout, lanes: int) -> None:
    tiles = plan_of(layout, lanes)[0].tiles
    assert (tiles.last > tiles.first).all()
    assert (tiles.last - tiles.first <= TILE_ROWS).all()
    assert ((tiles.n_panels >= 1) & (tiles.n_panels <= TILE_PANELS)).all()


@for_every_layout
@given(layouts, widths)
def test_tiles_start_at_whole_panels_and_squares(layout: Layout, lanes: int) -> None:
    # The gradient reads its inputs by panel, the transposition its weights by square.
    assert TILE_ROWS % lanes == 0
    assert (plan_of(layout, lanes)[0].tiles["first"] % TILE_ROWS == 0).all()


@for_every_layout
@given(layouts, widths)
def test_layers_lie_one_after_the_other_in_the_packed_vector(layout: Layout, lanes: int) -> None:
    plan, buffers = plan_of(layout, lanes)
    layers = plan.layers
    begin = address(buffers.parameters)
    ends = layers.packed_offset + layers.n_panels * layers.weight_panel // SIZE
    assert layers.packed_offset[0] == 0
    assert [*layers.packed_offset[1:]] == [*ends[:-1]]
    # A square that is transposed may reach past the end by one less than its rows.
    assert ends[-1] + lanes * (lanes - 1) <= buffers.parameters.size
    assert [*layers.weights] == [begin + offset * SIZE for offset in layers.packed_offset]
    assert [*layers.weight_panel] == [(n + 1) * lanes * SIZE for n in layout.sizes[:-1]]


@for_every_layout
@given(layouts, widths)
def test_a_layer_knows_its_sizes_and_its_rule_and_where_its_numbers_lie(
    layout: Layout, lanes: int
) -> None:
    layers = plan_of(layout, lanes)[0].layers
    assert [*layers.offset] == [*layout.weights]
    assert [*layers.bias_offset] == [*layout.biases]
    assert ([*layers.n_in], [*layers.n_out]) == ([*layout.sizes[:-1]], [*layout.sizes[1:]])
    assert [*layers.n_in_panels] == [round_up(n, lanes) // lanes for n in layout.sizes[:-1]]
    assert [*layers.n_panels] == [round_up(n, lanes) // lanes for n in layout.sizes[1:]]
    assert [*layers.activation] == list(range(layout.n_layers))
    assert [*layers.form] == [i % 3 for i in range(layout.n_layers)]


@for_every_layout
@given(layouts, widths)
def test_transposes_lie_one_after_the_other_and_the_first_layer_has_none(
    layout: Layout, lanes: int
) -> None:
    plan, buffers = plan_of(layout, lanes)
    layers = plan.layers[1:]
    ends = [*(layers.transposed + layers.n_in_panels * layers.transposed_panel)]
    begins = [*layers.transposed, address(buffers.transposed) + buffers.transposed.nbytes]
    assert begins == [address(buffers.transposed), *ends]
    heights = [round_up(n, lanes) for n in layout.sizes[2:]]
    assert [*layers.transposed_panel] == [n * lanes * SIZE for n in heights]


@for_every_layout
@given(layouts, widths, st.integers(1, 40))
def test_buffers_of_layers_lie_one_after_the_other(layout: Layout, lanes: int, rows: int) -> None:
    plan, buffers = plan_of(layout, lanes, rows)
    panel = plan.net[0].panel
    assert panel == round_up(rows, STRIP_ROWS) * lanes * SIZE
    for name in ("outputs", "deltas"):
        begins, buffer = plan.layers[name], getattr(buffers, name)
        ends = begins + plan.layers.n_panels * panel
        assert begins[0] == address(buffer)
        assert [*ends[:-1]] == [*begins[1:]]
        assert ends[-1] == address(buffer) + buffer.nbytes


@for_every_layout
@given(layouts, st.integers(1, 100))
def test_every_strip_of_rows_has_a_place_for_its_loss(layout: Layout, rows: int) -> None:
    plan, _ = plan_of(layout, 16, rows)
    assert len(plan.strip_losses) == len(range(0, rows, STRIP_ROWS))
    assert len(plan.tile_penalties) == len(plan.tiles) == plan.net[0].n_tiles


def test_a_net_knows_its_tables_and_buffers() -> None:
    plan, buffers = plan_of(make_layout((3, 20, 2)), 16)
    net = plan.net[0]
    for name in ("layers", "tiles", "strip_losses", "tile_penalties", "penalties", "strengths"):
        assert net[name] == address(getattr(plan, name))
    for name in ("inputs", "raw", "loss_slope", "parameters", "m", "v", "backup", "zeros"):
        assert net[name] == address(getattr(buffers, name))
    assert (net.n_layers, net.n_in, net.n_out, net.n_targets) == (2, 3, 2, 1)
    assert net.n_packed == buffers.parameters.size


def test_a_forward_pass_has_no_tiles() -> None:
    plan, _ = plan_of(make_layout((3, 2)), 16, train=False)
    assert len(plan.tiles) == plan.net[0].n_tiles == 0


def test_penalties_have_their_addresses_and_strengths() -> None:
    plan, _ = plan_of(make_layout((2, 1)), 16)
    assert plan.net[0].n_penalties == 2
    assert plan.penalties.tolist() == [7, 8]
    assert plan.strengths.tolist() == [0.1, 0.2]
    assert plan.scales.shape == (2,)


@pytest.mark.parametrize("record", [NET, LAYER, TILE, JOB], ids=["net", "layer", "tile", "job"])
def test_no_field_has_the_name_of_a_method_of_records(record: Any) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(record.names) & set(dir(np.record))


def test_an_offset_counts_numbers_not_bytes() -> None:
    numbers = np.zeros(4, np.float32)
    assert address(numbers, 3) == numbers[3:].ctypes.data
