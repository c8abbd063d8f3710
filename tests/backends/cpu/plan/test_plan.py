"""A session's tables, the partition of a step,
tiles that cover the parameters, and prefetches.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import (
    SIZE,
    Net,
    for_every_layout,
    layouts,
    plan_of,
    spacings,
    split_layers,
    widths,
)
from panelled import block

from fastmlp import MLP
from fastmlp.backends.cpu import trainer
from fastmlp.backends.cpu.kernels.memory_traffic import prefetch_for, prefetches_rows_of
from fastmlp.backends.cpu.plan.packing import CLOSE, Spacing, holds_transposed, round_up
from fastmlp.backends.cpu.plan.partition import (
    Partition,
    Step,
    panels_pay,
    partition_of,
    split_layer_of,
)
from fastmlp.backends.cpu.plan.plan import Addresses, make_plan, make_workspace
from fastmlp.backends.cpu.plan.records import (
    STORE_ALL_PAST,
    STORE_NO_COPY_PAST,
    STORE_OTHERS_PAST,
    Batch,
    BlockAddresses,
    Job,
    Layer,
    Tile,
    address,
    fields_of,
)
from fastmlp.backends.cpu.plan.records import Net as NetRecord
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.simd.gemm import groups_of_panels
from fastmlp.backends.cpu.simd.microkernel import STREAMS_BYTES
from fastmlp.backends.cpu.tuning import LARGEST_TILE, PAGE_ROWS, STRIP_ROWS, TILE_ROWS
from fastmlp.compiler import Block
from fastmlp.compiler.memory import Record, record_at, records_at, row, stack
from fastmlp.compiler.target import LINE_BYTES, vector_bytes
from fastmlp.network.spec import Layout, make_layout


def test_what_no_cache_holds_goes_past_them() -> None:
    small = make_layout((10, 20, 30))
    large = make_layout((1000, 1000, 1000))
    assert plan_of(small, 16)[0].net[0].non_temporal == STORE_NO_COPY_PAST
    assert (
        plan_of(small, 16, n_threads=2, by_panels=True)[0].net[0].non_temporal
        == STORE_OTHERS_PAST
    )
    assert (
        plan_of(small, 16, n_threads=1, by_panels=True)[0].net[0].non_temporal
        == STORE_NO_COPY_PAST
    )
    assert (
        plan_of(large, 16, n_threads=2, by_panels=True)[0].net[0].non_temporal
        == STORE_ALL_PAST
    )


@for_every_layout
@given(layouts, widths, st.booleans(), spacings)
def test_layers_adjoin_in_the_packed_vector(
    layout: Layout, lanes: int, train: bool, spacing: Spacing
) -> None:
    plan, buffers = plan_of(layout, lanes, train=train, spacing=spacing)
    layers = plan.layers
    packed = buffers.packed
    vector = lanes * SIZE
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
        # One form of the weights serves the way forward, and one the way back.
        forms = (
            (layer.packed, layer.packed_panel),
            (layer.transposed_copy, layer.copy_panel),
        )
        ways = (
            (layer.weights, layer.weight_panel),
            (layer.transposed, layer.transposed_panel),
        )
        assert ways == (forms[::-1] if layer.is_transposed else forms)
        assert train or not (layer.transposed_copy or layer.is_transposed)


@for_every_layout
@given(layouts, widths, spacings)
def test_copies_lie_one_after_the_other(
    layout: Layout, lanes: int, spacing: Spacing
) -> None:
    plan, buffers = plan_of(layout, lanes, spacing=spacing)
    begin = end = address(buffers.copies)
    for layer, held in zip(plan.layers, buffers.packed, strict=True):
        assert layer.transposed_copy == (end if held.copy_size else 0)
        assert layer.copy_panel == held.copy_panel * lanes * SIZE
        # A store past the caches faults elsewhere.
        assert layer.transposed_copy % (lanes * SIZE) == 0
        # Panels of the transpose, their rows filled up to whole squares.
        if layer.transposed_copy:
            n_panels = round_up(layer.packed_rows, lanes) // lanes
        else:
            n_panels = 0
        end += n_panels * layer.copy_panel
    assert end - begin == buffers.copies.nbytes


@for_every_layout
@given(layouts, widths, st.integers(1, 40), spacings)
def test_buffers_of_layers_adjoin(
    layout: Layout, lanes: int, rows: int, spacing: Spacing
) -> None:
    plan, buffers = plan_of(layout, lanes, rows, spacing=spacing)
    panel = plan.net[0].panel
    assert panel == buffers.panel_rows * lanes * SIZE
    assert panel // (lanes * SIZE) % PAGE_ROWS != 0
    for name in ("outputs", "deltas"):
        begins = plan.layers[name]
        buffer = getattr(buffers, name)
        ends = begins + plan.layers.n_panels * panel
        assert begins[0] == address(buffer)
        assert [*ends[:-1]] == [*begins[1:]]
        assert ends[-1] == address(buffer) + buffer.nbytes - lanes * lanes * SIZE


@for_every_layout
@given(layouts, st.integers(1, 100))
def test_every_strip_of_rows_has_a_place_for_its_loss(
    layout: Layout, rows: int
) -> None:
    plan, _ = plan_of(layout, 16, rows)
    assert len(plan.strip_losses) >= len(range(0, rows, STRIP_ROWS))
    assert len(plan.tile_penalties) == len(plan.tiles) == plan.net[0].n_tiles


@pytest.mark.parametrize("kind", [NetRecord, Batch, BlockAddresses, Layer, Tile, Job])
def test_no_field_has_the_name_of_a_method_of_records(kind: type[Record]) -> None:
    # Uncompiled, `record.transpose` would be the method, not the field.
    assert not set(kind.dtype.names or ()) & set(dir(np.record))


def test_fields_of_a_record_are_live_and_no_others_are_known() -> None:
    record = np.zeros(1, Job.dtype)
    fields = fields_of(record)
    fields["last"] = np.int64(3)
    fields["mass"] = np.float32(0.5)
    record["reached"] = -7
    assert (record["last"][0], record["mass"][0], fields["reached"]) == (3, 0.5, -7)
    assert [fields[name] for name in Job.dtype.names or ()] == list(record[0])
    with pytest.raises(AttributeError, match="'lasts'"):
        fields["lasts"] = 3


def step_of(sizes: tuple[int, ...], rows: int) -> Step:
    return Step(make_layout(sizes), rows, np.dtype(np.float32), 16)


@pytest.mark.parametrize(
    ("sizes", "rows", "n_threads", "expected"),
    [
        ((784, 512, 512, 10), 128, 2, True),
        ((1024, 2048, 2048, 1000), 32, 2, True),
        ((784, 512, 512, 10), 128, 1, False),  # nobody to share with
        ((16, 64, 64, 2), 64, 2, False),  # few weights, many joins
        ((32, 16, 16, 10), 100_000, 2, False),  # one panel a layer
        ((4, 32, 16, 4), 10_000, 4, False),
    ],
)
def test_layers_are_shared_by_panels_where_weights_are_what_counts(
    sizes: tuple[int, ...], rows: int, n_threads: int, expected: bool
) -> None:
    assert panels_pay(step_of(sizes, rows), n_threads) is expected


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [
        ((784, 100, 100, 10), 200, 1),  # many inputs, fewer sums
        ((784, 32, 10), 128, 1),
        ((32, 256, 256, 10), 256, 2),  # the second's weights are what counts
        ((64, 512, 64, 10), 128, 2),
        ((20, 100, 400, 10), 128, 0),  # sums would be more than inputs and weights
        ((784, 4), 1000, 0),  # held transposed
        ((16, 900), 1000, 0),  # one panel of inputs
        ((16, 64, 64, 2), 16, 2),
        ((16, 64, 64, 2), 8, 0),  # little to share
        ((784, 100, 100, 10), 7, 0),  # less than a strip
    ],
)
def test_halves_are_of_the_layer_that_saves(
    sizes: tuple[int, ...], rows: int, expected: int
) -> None:
    assert split_layer_of(step_of(sizes, rows)) == expected


def test_halves_are_left_out_or_shared_by_panels() -> None:
    sizes = (784, 512, 512, 10)
    network = Net(sizes, dtype="float32").network
    mixed = network._replace(compute_dtype="bfloat16")
    for each, split_layer in ((network, 2), (mixed, 0)):
        result = partition_of(each, 128, 2, train=True, sparse=False)
        assert result.split_layer == split_layer
    step = step_of((28, 300, 300, 300, 300, 300, 1), 100)
    assert split_layer_of(step) == 2
    assert panels_pay(step, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "rows"), [((8, 32, 32, 1), 32), ((16, 64, 64, 2), 8)]
)
def test_no_team_is_thought_of_on_steps_without_room(
    sizes: tuple[int, ...], rows: int
) -> None:
    result = partition_of(
        Net(sizes, dtype="float32").network, rows, 2, train=True, sparse=False
    )
    assert (result.n_threads, result.cost, result.spacing) == (1, None, CLOSE)
    twice = partition_of(
        Net(sizes, dtype="float32").network, 2 * rows, 2, train=True, sparse=False
    )
    assert twice.n_threads == 2
    assert twice.cost is not None
    assert twice.spacing != CLOSE


@for_every_layout
@given(layouts, widths, split_layers)
def test_small_tiles_cover_every_row_once(
    layout: Layout, lanes: int, split_layer: int
) -> None:
    plan, _ = plan_of(layout, lanes, split_layer=split_layer)
    tiles = plan.tiles
    assert (tiles.last > tiles.first).all()
    assert (tiles.last - tiles.first <= TILE_ROWS).all()
    assert ((tiles.n_panels >= 1) & (tiles.n_panels <= LARGEST_TILE[1])).all()
    # The gradient reads its inputs by panel, the transposition its weights by square.
    assert TILE_ROWS % lanes == 0
    assert (tiles["first"] % lanes == 0).all()
    covered = [
        np.zeros((each.packed_panels, each.packed_rows), int) for each in plan.layers
    ]
    biases = [
        np.zeros(1 if each.is_transposed else each.n_panels, int)
        for each in plan.layers
    ]
    for piece in plan.tiles:
        layer = plan.layers[piece.layer]
        panels = slice(piece.panel, piece.panel + piece.n_panels)
        assert panels.stop <= layer.packed_panels
        assert piece.last <= layer.packed_rows
        covered[piece.layer][panels, piece.first : piece.last] += 1
        # The last piece of a panel takes its biases,
        # of a transposed layer the last of all.
        if piece.last == layer.packed_rows and not layer.is_transposed:
            biases[piece.layer][panels] += 1
        elif piece.last == layer.packed_rows and panels.stop == layer.packed_panels:
            biases[piece.layer] += 1
    assert all((count == 1).all() for count in covered)
    assert all((count == 1).all() for count in biases)


@for_every_layout
@given(layouts, widths, st.integers(1, 2))
def test_a_tile_is_of_one_half(layout: Layout, lanes: int, split_layer: int) -> None:
    plan, _ = plan_of(layout, lanes, n_threads=2, split_layer=split_layer)
    net = plan.net[0]
    i = plan.net[0].split_layer - 1
    assert net.middle % lanes == 0
    if i < 0:
        assert net.middle == 0
        return
    assert 0 <= net.middle < plan.layers[i].n_in
    own = plan.tiles[(plan.tiles.layer == i) & (plan.tiles.first < plan.tiles.last)]
    assert ((own.last <= net.middle) | (own.first >= net.middle)).all()


@for_every_layout
@given(layouts, widths, st.integers(1, 3), split_layers)
def test_each_member_keeps_the_transposes_of_its_own_rows(
    layout: Layout, lanes: int, n_threads: int, split_layer: int
) -> None:
    plan, _ = plan_of(
        layout, lanes, n_threads=n_threads, split_layer=split_layer, by_panels=True
    )
    for i, layer in enumerate(plan.layers):
        shares = [
            share[share.layer == i] for share in plan.tiles.reshape(n_threads, -1)
        ]
        whole = i < max(plan.net[0].split_layer, 1) or layer.is_transposed
        groups = groups_of_panels(-(-layer.packed_rows // lanes))
        for thread, share in enumerate(shares):
            # Those of its part of the layer below, as a team shares it on the way back.
            low, high = (part * groups // n_threads for part in (thread, thread + 1))
            rows = np.array([0, layer.packed_rows] if whole else [low, high])
            unit = 1 if whole else LARGEST_TILE[1] * lanes
            own = share[share.first < share.last]
            assert (own.cached_first == rows[0] * unit).all()
            assert (own.cached_last == rows[1] * unit).all()


@for_every_layout
@given(layouts, widths, st.integers(1, 3), spacings)
def test_tiles_know_parameters(
    layout: Layout, lanes: int, n_threads: int, spacing: Spacing
) -> None:
    split_layer = min(spacing.split_layer, layout.n_layers)
    plan, buffers = plan_of(
        layout, lanes, n_threads=n_threads, split_layer=split_layer, spacing=spacing
    )
    for piece in plan.tiles[plan.tiles.first < plan.tiles.last]:
        layer = plan.layers[piece.layer]
        held = buffers.packed[piece.layer]
        place = layer.packed + held.place(piece.panel, piece.first) * lanes * SIZE
        assert plan.net[0].parameters + piece.offset == place


@for_every_layout
@given(layouts, widths, st.integers(2, 5), split_layers)
def test_threads_of_a_team_have_the_same_tiles_in_even_shares(
    layout: Layout, lanes: int, n_threads: int, split_layer: int
) -> None:
    alone = plan_of(layout, lanes, split_layer=split_layer)[0]
    shared = plan_of(layout, lanes, n_threads=n_threads, split_layer=split_layer)[0]
    tiles = shared.tiles[shared.tiles.first < shared.tiles.last]
    assert np.array_equal(np.sort(tiles, order="slot"), alone.tiles)
    assert (
        len(np.unique(shared.tiles.slot)) == len(shared.tiles) == shared.net[0].n_tiles
    )
    shares = shared.tiles.reshape(n_threads, -1)
    work = (shares.last - shares.first) * shares.n_panels
    largest = work.max()
    loads = work.sum(axis=1)
    assert loads.max() - loads.min() <= largest


LANES = 8
BYTES = 8
N_IN = 300
N_ROWS = 21
BATCH = 6


@pytest.fixture(scope="module")
def look() -> Block:
    n_words = STREAMS_BYTES // 8

    def copy_wanted(address: int, t: int, apply: int, split: int, target: int) -> None:
        wanted = stack(STREAMS_BYTES)
        net = record_at(address, NetRecord)
        words = row(wanted, n_words, np.int64)
        copied = row(target, n_words, np.int64)
        tile = records_at(net.tiles, net.n_tiles, Tile)[t]
        layer = records_at(net.layers, net.n_layers, Layer)[tile.layer]
        piece = (tile, layer, net.parameters + tile.offset)
        result = prefetch_for(net, t, piece, apply, split, wanted, LANES * BYTES, BYTES)
        for i in range(n_words):
            copied[i] = words[i] if result else 0

    return block(copy_wanted)


class Scene:
    def __init__(self, *, n_threads: int = 1, split_layer: int = 0) -> None:
        layout = make_layout((N_IN, 40, 3))
        self.buffers = make_workspace(layout, BATCH, 1, np.float64, LANES, train=True)
        blocks = Addresses([0, 0], [0, 0], n_moments=2)
        options = Partition(BATCH, n_threads=n_threads, split_layer=split_layer)
        self.plan = make_plan(layout, self.buffers, blocks, partition=options)
        self.net = self.plan.net[0]
        self.batch = self.plan.batch[0]
        self.x = np.zeros((N_ROWS, N_IN))
        self.order = np.random.default_rng(0).permutation(N_ROWS)
        self.batch.x = address(self.x)
        self.batch.n_rows = BATCH
        self.net.prefetches_rows = 1
        self.at(0)

    def at(self, first: int) -> None:
        self.batch.index = address(self.order, first)
        self.batch.order_stop = address(self.order) + self.order.nbytes

    def wanted(
        self, look: Block, *, apply: int = 0, split: int = 0
    ) -> list[tuple[int, int]]:
        """The pieces of memory of all tiles: first addresses, and numbers of lines."""
        results = []
        for t in range(self.net.n_tiles):
            words = np.zeros(STREAMS_BYTES // 8, np.int64)
            look(address(self.plan.net), t, apply, split, address(words))
            results += [
                (int(place), int(words[1])) for place in words[2 : 2 + words[0]]
            ]
        return results

    def places(self, rows: Any, first_feature: int = 0) -> list[int]:
        return [address(self.x, int(r) * N_IN + first_feature) for r in rows]


def lines_of(n_numbers: int) -> int:
    return -(-n_numbers * BYTES // LINE_BYTES)


@pytest.mark.parametrize("first", [0, BATCH, 2 * BATCH])
def test_all_rows_of_the_next_batch_are_asked_for_once(look: Block, first: int) -> None:
    scene = Scene()
    scene.at(first)
    result = scene.wanted(look)
    # The last batch of the order is shorter.
    following = scene.order[first + BATCH : first + 2 * BATCH]
    assert sorted(place for place, _ in result) == sorted(scene.places(following))
    assert {n_lines for _, n_lines in result} == {lines_of(N_IN)}


def test_each_of_two_asks_for_the_half_that_it_gathers(look: Block) -> None:
    scene = Scene(n_threads=2, split_layer=1)
    result = scene.wanted(look, split=1)
    rows = scene.order[BATCH : 2 * BATCH]
    middle = int(scene.net.middle)
    assert 0 < middle < N_IN
    expected = {(place, lines_of(middle)) for place in scene.places(rows)}
    expected |= {
        (place, lines_of(N_IN - middle)) for place in scene.places(rows, middle)
    }
    assert sorted(result) == sorted(expected)
    half = len(result) // 2
    assert {place for place, _ in result[:half]} == set(scene.places(rows))


@pytest.mark.parametrize("order_stop", [0, "this batch's end"])
def test_where_no_batch_follows_nothing_is_asked_for(
    look: Block, order_stop: Any
) -> None:
    scene = Scene()
    if order_stop == 0:
        scene.batch.order_stop = 0
    else:
        scene.batch.order_stop = address(scene.order, BATCH)
    assert scene.wanted(look) == []


def test_a_net_that_no_cache_holds_asks_for_its_parameters_and_state(
    look: Block,
) -> None:
    scene = Scene()
    net = scene.net
    state = [np.zeros_like(scene.buffers.parameters) for _ in range(2)]
    net.prefetches_state, net.m, net.v = 1, address(state[0]), address(state[1])
    result = scene.wanted(look, apply=1)
    seen = [
        np.zeros(array.nbytes // LINE_BYTES, int)
        for array in (scene.buffers.parameters, *state)
    ]
    for place, n_lines in result:
        for base, count in zip((net.parameters, net.m, net.v), seen, strict=True):
            line = (place - base) // LINE_BYTES
            if 0 <= line < len(count):
                count[line : line + n_lines] += 1
    weights = sum((p.last - p.first) * p.n_panels for p in scene.plan.tiles)
    assert all(count.max() == 1 and count.sum() == weights for count in seen)


@pytest.mark.parametrize(("width", "expected"), [(340, False), (360, True)])
def test_a_net_whose_state_leaves_level_2_asks_for_it(
    width: int, expected: bool
) -> None:
    # Parameters and two numbers of state each: from 4 MiB on.
    layout = make_layout((1_000, width))
    buffers = make_workspace(layout, BATCH, 1, np.float32, LANES, train=True)
    plan = make_plan(layout, buffers, Addresses([0], [0], n_moments=2))
    # With AVX2 never: it costs more than it saves.
    assert plan.net[0].prefetches_state == (expected and vector_bytes() != 32)


@pytest.mark.parametrize(
    ("shape", "batch", "expected"),
    [
        ((10_000, 784), 200, True),
        ((70, 784), 10, False),
        ((1_000_000, 8), 32, False),
        ((1_000_000, 8), 1, True),
        ((1_000, 8), 1, False),
    ],
)
def test_long_or_single_rows_in_no_cache_are_asked_for(
    shape: tuple[int, int], batch: int, expected: bool
) -> None:
    assert prefetches_rows_of(np.empty(shape, np.float32), batch) is expected


def test_a_fit_leaves_no_order_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    # A gradient that is asked for later has none, and would read past its own rows.
    made: list[Session] = []

    def kept(*arguments: Any, **options: Any) -> Session:
        made.append(Session(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(trainer, "Session", kept)
    trainer.TRAININGS.clear()
    x = np.random.default_rng(0).normal(size=(20, 7))
    MLP((7, 3, 1), seed=0).fit(x, x[:, 0], epochs=3, batch_size=6)
    assert made
    assert all(session.batch["order_stop"] == 0 for session in made)
