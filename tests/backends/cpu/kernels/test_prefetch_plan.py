"""Prefetches of phase two: each line once, and only of memory that there is."""

from typing import Any

import numpy as np
import pytest
from panelled import block

from fastmlp import MLP
from fastmlp.backends.cpu.kernels.memory_traffic import prefetch_for, prefetches_rows_of
from fastmlp.backends.cpu.plan.partition import Partition
from fastmlp.backends.cpu.plan.plan import Addresses, make_plan
from fastmlp.backends.cpu.plan.records import Layer, Net, Tile, address
from fastmlp.backends.cpu.plan.workspace import make_workspace
from fastmlp.backends.cpu.session import Session
from fastmlp.backends.cpu.simd.microkernel import STREAMS_BYTES
from fastmlp.backends.cpu.trainers import trainer
from fastmlp.compiler import Block, record_at, records_at, row, stack
from fastmlp.compiler.target import LINE_BYTES, vector_bytes
from fastmlp.network.spec import make_layout

LANES, SIZE, N_IN, N_ROWS, BATCH = 8, 8, 300, 21, 6


@pytest.fixture(scope="module")
def look() -> Block:
    """The block that copies the streams that tile t prefetches, or zeros if there are none."""
    n_words = STREAMS_BYTES // 8

    def copy_wanted(address: int, t: int, apply: int, split: int, target: int) -> None:
        wanted, net = stack(STREAMS_BYTES), record_at(address, Net)
        words, copied = row(wanted, n_words, np.int64), row(target, n_words, np.int64)
        tile = records_at(net.tiles, net.n_tiles, Tile)[t]
        layer = records_at(net.layers, net.n_layers, Layer)[tile.layer]
        piece = (tile, layer, net.parameters + tile.offset)
        result = prefetch_for(net, t, piece, apply, split, wanted, LANES * SIZE, SIZE)
        for i in range(n_words):
            copied[i] = words[i] if result else 0

    return block(copy_wanted)


class Scene:
    """A plan in the midst of an epoch, and where its rows and their order are."""

    def __init__(self, *, n_threads: int = 1, split_layer: int = 0) -> None:
        layout = make_layout((N_IN, 40, 3))
        self.buffers = make_workspace(layout, BATCH, 1, np.float64, LANES, train=True)
        blocks = Addresses([0, 0], [0, 0], n_moments=2)
        options = Partition(BATCH, n_threads=n_threads, split_layer=split_layer)
        self.plan = make_plan(layout, self.buffers, blocks, partition=options)
        self.net, self.batch = self.plan.net[0], self.plan.batch[0]
        self.x = np.zeros((N_ROWS, N_IN))
        self.order = np.random.default_rng(0).permutation(N_ROWS)
        self.batch.x, self.batch.n_rows, self.net.prefetches_rows = address(self.x), BATCH, 1
        self.at(0)

    def at(self, first: int) -> None:
        """Have the rows from that number in the order on at work."""
        self.batch.index = address(self.order, first)
        self.batch.order_stop = address(self.order) + self.order.nbytes

    def wanted(self, look: Block, *, apply: int = 0, split: int = 0) -> list[tuple[int, int]]:
        """The pieces of memory of all tiles: first addresses, and numbers of lines."""
        results = []
        for t in range(self.net.n_tiles):
            words = np.zeros(STREAMS_BYTES // 8, np.int64)
            look(address(self.plan.net), t, apply, split, address(words))
            results += [(int(place), int(words[1])) for place in words[2 : 2 + words[0]]]
        return results

    def places(self, rows: Any, first_feature: int = 0) -> list[int]:
        """Where these rows of X begin, from a feature on."""
        return [address(self.x, int(r) * N_IN + first_feature) for r in rows]


def lines_of(n_numbers: int) -> int:
    return -(-n_numbers * SIZE // LINE_BYTES)


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
    result, rows = scene.wanted(look, split=1), scene.order[BATCH : 2 * BATCH]
    middle = int(scene.net.middle)
    assert 0 < middle < N_IN
    expected = {(place, lines_of(middle)) for place in scene.places(rows)}
    expected |= {(place, lines_of(N_IN - middle)) for place in scene.places(rows, middle)}
    assert sorted(result) == sorted(expected)
    half = len(result) // 2
    assert {place for place, _ in result[:half]} == set(scene.places(rows))


@pytest.mark.parametrize("order_stop", [0, "this batch's end"])
def test_where_no_batch_follows_nothing_is_asked_for(look: Block, order_stop: Any) -> None:
    scene = Scene()
    scene.batch.order_stop = 0 if order_stop == 0 else address(scene.order, BATCH)
    assert scene.wanted(look) == []


def test_a_net_that_no_cache_holds_asks_for_its_parameters_and_state(look: Block) -> None:
    scene = Scene()
    net = scene.net
    state = [np.zeros_like(scene.buffers.parameters) for _ in range(2)]
    net.prefetches_state, net.m, net.v = 1, address(state[0]), address(state[1])
    result = scene.wanted(look, apply=1)
    seen = [
        np.zeros(array.nbytes // LINE_BYTES, int) for array in (scene.buffers.parameters, *state)
    ]
    for place, n_lines in result:
        for base, count in zip((net.parameters, net.m, net.v), seen, strict=True):
            line = (place - base) // LINE_BYTES
            if 0 <= line < len(count):
                count[line : line + n_lines] += 1
    weights = sum((p.last - p.first) * p.n_panels for p in scene.plan.tiles)
    assert all(count.max() == 1 and count.sum() == weights for count in seen)


@pytest.mark.parametrize(("width", "expected"), [(340, False), (360, True)])
def test_a_net_whose_state_leaves_the_second_level_cache_asks_for_it(
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
def test_rows_are_asked_for_where_they_are_long_or_single_and_in_no_cache(
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
