"""Tables that kernels read: tiles cover the parameters, addresses point where they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing, is_turned, round_up
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses, Plan, make_plan
from fastmlp.backends.cpu.plan.records import (
    ALL,
    NONE,
    OTHERS,
    Batch,
    Blocks,
    Job,
    Layer,
    Net,
    Tile,
    address,
)
from fastmlp.backends.cpu.plan.workspace import Workspace, make_workspace
from fastmlp.backends.cpu.simd.gemm import LARGEST, groups_of_panels
from fastmlp.backends.cpu.tuning import PAGE_ROWS, STRIP_ROWS, TILE_ROWS
from fastmlp.network.parameter_layout import Layout, make_layout

# Layers of few outputs, which may be turned, as often as others.
layouts = st.lists(st.integers(1, 300) | st.integers(1, 6), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
for_every_layout = settings(derandomize=True, deadline=None, max_examples=50)
which_halves = st.integers(0, 2)
spacings = st.sampled_from([CLOSE, Spacing(8, 0), Spacing(16, 1), Spacing(16, 2)])
SIZE = 8  # bytes of a number


def plan_of(
    layout: Layout,
    lanes: int,
    rows: int = 5,
    *,
    train: bool = True,
    members: int = 1,
    halved: int = 0,
    by_layers: bool = False,
    spacing: Spacing = CLOSE,
) -> tuple[Plan, Workspace]:
    buffers = make_workspace(layout, rows, 1, np.float64, lanes, train=train, spacing=spacing)
    forms = [i % 3 for i in range(layout.n_layers)]
    blocks = Addresses(range(layout.n_layers), forms, penalties=(7, 8))
    halved = min(halved, layout.n_layers)
    if halved and is_turned(*layout.sizes[halved - 1 : halved + 1], lanes):
        halved = 0
    partition = Partition(rows, 0, members, by_layers, halved)
    return make_plan(layout, buffers, blocks, (0.1, 0.2), 1, partition), buffers


@for_every_layout
@given(layouts, widths, which_halves)
def test_tiles_cover_every_row_of_every_panel_once(layout: Layout, lanes: int, halved: int) -> None:
    plan, _ = plan_of(layout, lanes, halved=halved)
    covered = [np.zeros((each.packed_panels, each.packed_rows), int) for each in plan.layers]
    biases = [np.zeros(1 if each.is_transposed else each.n_panels, int) for each in plan.layers]
    for piece in plan.tiles:
        layer = plan.layers[piece.layer]
        panels = slice(piece.panel, piece.panel + piece.n_panels)
        assert panels.stop <= layer.packed_panels
        assert piece.last <= layer.packed_rows
        covered[piece.layer][panels, piece.first : piece.last] += 1
        # The last piece of a panel takes its biases, of a turned layer the last of all.
        if piece.last == layer.packed_rows and not layer.is_transposed:
            biases[piece.layer][panels] += 1
        elif piece.last == layer.packed_rows and panels.stop == layer.packed_panels:
            biases[piece.layer] += 1
    assert all((count == 1).all() for count in covered)
    assert all((count == 1).all() for count in biases)


@for_every_layout
@given(layouts, widths, which_halves)
def test_a_tile_is_small(layout: Layout, lanes: int, halved: int) -> None:
    tiles = plan_of(layout, lanes, halved=halved)[0].tiles
    assert (tiles.last > tiles.first).all()
    assert (tiles.last - tiles.first <= TILE_ROWS).all()
    assert ((tiles.n_panels >= 1) & (tiles.n_panels <= LARGEST[1])).all()


@for_every_layout
@given(layouts, widths, which_halves)
def test_tiles_start_at_whole_panels_and_squares(layout: Layout, lanes: int, halved: int) -> None:
    # The gradient reads its inputs by panel, the transposition its weights by square.
    assert TILE_ROWS % lanes == 0
    assert (plan_of(layout, lanes, halved=halved)[0].tiles["first"] % lanes == 0).all()


@for_every_layout
@given(layouts, widths, st.integers(1, 2))
def test_a_tile_is_of_one_half(layout: Layout, lanes: int, halved: int) -> None:
    plan, _ = plan_of(layout, lanes, members=2, halved=halved)
    net, i = plan.net[0], plan.net[0].split_layer - 1
    assert net.middle % lanes == 0
    if i < 0:
        assert net.middle == 0
        return
    assert 0 <= net.middle < plan.layers[i].n_in
    own = plan.tiles[(plan.tiles.layer == i) & (plan.tiles.first < plan.tiles.last)]
    assert ((own.last <= net.middle) | (own.first >= net.middle)).all()


def test_of_two_threads_each_has_the_weights_of_one_half() -> None:
    plan, _ = plan_of(make_layout((320, 40)), 16, members=2, halved=1)
    first, second = plan.tiles.reshape(2, -1)
    assert plan.net[0].middle == 160
    assert first.last.max() == 160
    assert second.first.min() == 160


@for_every_layout
@given(layouts, widths, st.integers(1, 3), which_halves)
def test_each_member_keeps_the_transposes_of_its_own_rows(
    layout: Layout, lanes: int, members: int, halved: int
) -> None:
    plan, _ = plan_of(layout, lanes, members=members, halved=halved, by_layers=True)
    for i, layer in enumerate(plan.layers):
        shares = [share[share.layer == i] for share in plan.tiles.reshape(members, -1)]
        whole = i < max(plan.net[0].split_layer, 1) or layer.is_transposed
        groups = groups_of_panels(-(-layer.packed_rows // lanes))
        for member, share in enumerate(shares):
            # Those of its part of the layer below, as a team shares it on the way back.
            low, high = (part * groups // members for part in (member, member + 1))
            rows = np.array([0, layer.packed_rows] if whole else [low, high])
            unit = 1 if whole else LARGEST[1] * lanes
            own = share[share.first < share.last]
            assert (own.cached_first == rows[0] * unit).all()
            assert (own.cached_last == rows[1] * unit).all()


def test_what_no_cache_holds_goes_past_them() -> None:
    small, large = make_layout((10, 20, 30)), make_layout((1000, 1000, 1000))
    assert plan_of(small, 16)[0].net[0].non_temporal == NONE
    assert plan_of(small, 16, members=2, by_layers=True)[0].net[0].non_temporal == OTHERS
    assert plan_of(small, 16, members=1, by_layers=True)[0].net[0].non_temporal == NONE
    assert plan_of(large, 16, members=2, by_layers=True)[0].net[0].non_temporal == ALL


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
            == held.turned
            == (train and is_turned(layer.n_in, layer.n_out, lanes))
        )
        assert (layer.packed_rows, layer.packed_panels) == (held.rows, held.panels)
        assert layer.packed_panel == held.panel * vector
        assert layer.biases == layer.packed + held.biases * vector
        assert (layer.middle, layer.gap) == (held.middle, held.gap * vector)


@for_every_layout
@given(layouts, widths, st.integers(1, 3), spacings)
def test_a_tile_knows_where_its_parameters_lie(
    layout: Layout, lanes: int, members: int, spacing: Spacing
) -> None:
    halved = min(spacing.split_layer, layout.n_layers)
    plan, buffers = plan_of(layout, lanes, members=members, halved=halved, spacing=spacing)
    for piece in plan.tiles[plan.tiles.first < plan.tiles.last]:
        layer, held = plan.layers[piece.layer], buffers.packed[piece.layer]
        place = layer.packed + held.place(piece.panel, piece.first) * lanes * SIZE
        assert plan.net[0].parameters + piece.offset == place


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


@for_every_layout
@given(layouts, widths, st.integers(2, 5), which_halves)
def test_members_of_a_team_have_the_same_tiles_in_even_shares(
    layout: Layout, lanes: int, members: int, halved: int
) -> None:
    alone = plan_of(layout, lanes, halved=halved)[0]
    shared = plan_of(layout, lanes, members=members, halved=halved)[0]
    tiles = shared.tiles[shared.tiles.first < shared.tiles.last]
    assert np.array_equal(np.sort(tiles, order="slot"), alone.tiles)
    assert len(np.unique(shared.tiles.slot)) == len(shared.tiles) == shared.net[0].n_tiles
    shares = shared.tiles.reshape(members, -1)
    work = (shares.last - shares.first) * shares.n_panels
    largest = work.max()
    loads = work.sum(axis=1)
    assert loads.max() - loads.min() <= largest


def test_a_forward_pass_has_no_tiles() -> None:
    plan, _ = plan_of(make_layout((3, 2)), 16, train=False)
    assert len(plan.tiles) == plan.net[0].n_tiles == 0


def test_penalties_have_their_addresses_and_strengths() -> None:
    plan, _ = plan_of(make_layout((2, 1)), 16)
    assert plan.net[0].n_penalties == 2
    assert plan.penalties.tolist() == [7, 8]
    assert plan.strengths.tolist() == [0.1, 0.2]
    assert plan.scales.shape == (2,)


@pytest.mark.parametrize("kind", [Net, Batch, Blocks, Layer, Tile, Job])
def test_no_field_has_the_name_of_a_method_of_records(kind: Any) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(kind.dtype.names) & set(dir(np.record))


def test_an_offset_counts_numbers_not_bytes() -> None:
    numbers = np.zeros(4, np.float32)
    assert address(numbers, 3) == numbers[3:].ctypes.data
