"""Parameters in panels: nothing overlaps,
there and back bit for bit, and copies in step.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import PENALTY_SETS, Net
from pairwise import crossed
from panelled import INTERPRETED, to_panels

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan.packing import (
    CLOSE,
    Packed,
    Spacing,
    has_copy,
    holds_transposed,
    middle_of,
    numbers_packed,
    packed_layers,
    round_up,
)
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.session import Moments
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.network.spec import Layout, bias_views, make_layout, weight_views
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.activations import identity
from fastmlp.rules.optimizer_protocol import coefficients_of
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Custom

layouts = st.lists(st.integers(1, 300), min_size=2, max_size=5).map(
    lambda sizes: make_layout(tuple(sizes))
)
widths = st.sampled_from([2, 4, 8, 16])
spacings = st.builds(Spacing, st.sampled_from([0, 16, 32]), st.integers(0, 2))
for_every_layout = settings(derandomize=True, deadline=None, max_examples=100)


def places(layer: Packed) -> np.ndarray:
    """The row of each row of each panel, biases last,
    shape (panels, rows + 1) if held as W.
    """
    panels = range(layer.panels)
    rows = np.array(
        [[layer.place(p, row) for row in range(layer.rows)] for p in panels]
    )
    biases = [[p * layer.panel + layer.biases] for p in panels]
    if layer.is_transposed:
        return rows
    return np.append(rows, biases, axis=1)


@pytest.mark.slow
@for_every_layout
@given(layouts, widths, spacings)
def test_no_two_rows_lie_in_one_place(
    layout: Layout, lanes: int, spacing: Spacing
) -> None:
    layers = packed_layers(layout, lanes, 5, train=True, spacing=spacing)
    # And room for a square after them.
    assert (
        numbers_packed(layers, lanes) == (sum(it.size for it in layers) + lanes) * lanes
    )
    for layer in layers:
        where = [
            *places(layer).ravel(),
            *([layer.biases] if layer.is_transposed else []),
        ]
        assert len(set(where)) == len(where)
        assert 0 <= min(where) <= max(where) < layer.size


@pytest.mark.slow
@for_every_layout
@given(layouts, widths, st.integers(1, 40), st.integers(0, 2))
def test_panels_and_halves_have_so_many_rows_between_them(
    layout: Layout, lanes: int, apart: int, split_layer: int
) -> None:
    layers = packed_layers(
        layout, lanes, 5, train=True, spacing=Spacing(apart, split_layer)
    )
    for i, layer in enumerate(layers):
        assert layer.size - 1 - places(layer).max() >= apart
        if layer.is_transposed:
            continue
        rows = places(layer)
        assert (rows[1:, 0] - rows[:-1, -1] > apart).all()
        if i + 1 == split_layer:
            assert layer.middle == middle_of(layer.rows, lanes)
            assert (np.diff(rows[:, :-1]) == 1).sum() == layer.panels * (
                layer.rows - 1
            ) - (layer.panels if 0 < layer.middle < layer.rows else 0)
        if layer.copy_size:
            assert layer.copy_panel == layer.panels * lanes + apart


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
def test_a_layer_of_few_outputs_and_more_inputs_is_held_transposed(lanes: int) -> None:
    transposed = {
        n
        for n in range(1, 40)
        for n_in in (n + 1, 100)
        if holds_transposed(n_in, n, lanes)
    }
    assert transposed == set(range(1, {2: 2, 4: 4, 8: 5, 16: 10}[lanes] + 1))
    assert not any(
        holds_transposed(n_in, n, lanes)
        for n in range(1, 40)
        for n_in in range(1, n + 1)
    )


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
def test_layers_read_in_both_forms_have_a_copy(
    sizes: tuple[int, ...], copied: list[int]
) -> None:
    """All but a first one that is not transposed, and a last one that is."""
    layers = packed_layers(make_layout(sizes), 16, 5, train=True)
    assert [i for i, layer in enumerate(layers) if layer.copy_size] == copied


def test_one_row_and_a_forward_pass_need_few_copies() -> None:
    layers = packed_layers(make_layout((9, 3, 20, 12, 2)), 16, 1, train=True)
    assert [layer.copy_size > 0 for layer in layers] == [True, False, False, False]
    layers = packed_layers(
        make_layout((9, 3, 20, 2)), 16, 5, train=False, spacing=CLOSE
    )
    assert not any(layer.is_transposed or layer.copy_size for layer in layers)


@pytest.mark.parametrize("train", [False, True])
def test_a_first_layer_of_sparse_rows_lies_as_it_is_or_nowhere(train: bool) -> None:
    first, _ = packed_layers(make_layout((9, 3, 2)), 16, 5, train=train, sparse=True)
    assert not first.is_transposed
    assert first.rows == (9 if train else 0)


FORMS: list[Any] = [
    *(kind(0.03) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9),
    SGD(0.03, momentum=0.9, nesterov=True),
]
N_ROWS, BATCH = 20, 7
# The last layer transposed; the first; the only one; two of them; none.
SHAPES = [(70, 19, 5, 3), (70, 2, 7), (40, 1), (33, 20, 4, 2), (3, 9, 9)]
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
# Layers of few outputs, which may be transposed, as often as others.
sizes = st.integers(1, 40 if INTERPRETED else 140) | st.integers(1, 6)
small_layouts = st.lists(sizes, min_size=2, max_size=4).map(tuple)
for_small_layouts = settings(
    derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 40
)


def trainer_of(
    net: Net, optimizer: Any, rng: Any, rules: Any = None, batch_size: int = BATCH
) -> tuple[Trainer, Any, Moments]:
    parameters, data = net.draw(rng, N_ROWS)
    if rules is None:
        network = net.network
    else:
        network = net.network._replace(activations=rules)
    moments = Moments(network, rng.uniform(size=(2, parameters.size)).astype(net.dtype))
    trainer = Trainer(
        Engine(network, 1), parameters, moments, optimizer, data, batch_size
    )
    return trainer, parameters, moments


def take_steps(trainer: Trainer, optimizer: Any, rate: float = 0.01) -> None:
    order = np.arange(N_ROWS)[None]
    losses = np.zeros(1)
    rates = np.full(trainer.step_of(trainer.units_per_epoch), rate)
    coefficients = coefficients_of(optimizer, 1, rates)
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of each overflow
        trainer.run(order, coefficients, losses, 0, trainer.units_per_epoch)


def workspace_of(trainer: Trainer) -> Any:
    return trainer.session.workspace


def packed_by_hand(net: Net, flat: Any, lanes: int) -> Any:
    """Layer after layer, the panels of W with the biases as one row more.

    Of a transposed layer, the panels of W transposed, and after them the biases.
    """
    layout = make_layout(net.sizes)
    parts = []
    for w, b in zip(weight_views(layout, flat), bias_views(layout, flat), strict=True):
        transposed = holds_transposed(w.shape[0], w.shape[1], lanes)
        if transposed:
            matrices = [w.T, b[None]]
        else:
            matrices = [np.vstack((w, b))]
        parts += [to_panels(matrix, lanes).ravel() for matrix in matrices]
    return np.concatenate(parts)


def copies_by_hand(net: Net, flat: Any, lanes: int, rows: int) -> Any:
    """Panels of each W transposed, or of a transposed W,
    their rows rounded up to whole squares.

    A first layer that is not transposed sends no deltas down, and a transposed last
    layer is multiplied forward as it is held: they need none. Nor do, for one row,
    layers held as W.
    """
    parts = [flat[:0]]
    for i, w in enumerate(weight_views(make_layout(net.sizes), flat)):
        transposed = holds_transposed(w.shape[0], w.shape[1], lanes)
        if has_copy(i, len(net.sizes) - 1, rows, is_transposed=transposed):
            other = w if transposed else w.T
            parts.append(to_panels(other, lanes, round_up(len(other), lanes)).ravel())
    return np.concatenate(parts)


def places_of_numbers(trainer: Trainer, net: Net) -> tuple[Any, Any]:
    ones = np.ones(make_layout(net.sizes).n_parameters, net.dtype)
    workspace = workspace_of(trainer)
    lanes = workspace.lanes
    rows = workspace.chunk_rows
    return packed_by_hand(net, ones, lanes) != 0, copies_by_hand(
        net, ones, lanes, rows
    ) != 0


def compared(a: Any, b: Any, where: Any) -> tuple[Any, Any]:
    return a[where], b[where]


def assert_in_step(
    trainer: Trainer, net: Net, parameters: Any, *moments: Any, fresh: bool = False
) -> None:
    """The packed vectors are those of the flat ones, and the copies too.

    Padding is part of the comparison where no layer is transposed: it is still zero.
    The gradient of a transposed layer's padding is that of the padding of its inputs,
    which is 1/2 for a sigmoid: it may be anything, and no kernel reads it
    (see the test of NaNs in its place).
    """
    workspace = workspace_of(trainer)
    state = trainer.session.moments
    assert state is not None
    packed = (workspace.parameters, state.m, state.v)
    transposed = trainer.session.plan.layers.is_transposed.any()
    if transposed and not fresh:
        real = places_of_numbers(trainer, net)
    else:
        real = (slice(None),) * 2
    for vector, flat in zip(packed, (parameters, *moments), strict=False):
        expected = packed_by_hand(net, flat, workspace.lanes)
        assert np.array_equal(*compared(vector[: expected.size], expected, real[0]))
        assert not vector[expected.size :].any()
    expected = copies_by_hand(net, parameters, workspace.lanes, workspace.chunk_rows)
    assert np.array_equal(*compared(workspace.copies, expected, real[1]))


@each_dtype
@for_small_layouts
@given(small_layouts)
def test_parameters_lie_where_the_panels_say(
    dtype: str, sizes: tuple[int, ...]
) -> None:
    net = Net(sizes, dtype=dtype)
    trainer, parameters, moments = trainer_of(net, SGD(), np.random.default_rng(0))
    assert_in_step(trainer, net, parameters, *moments.flat(), fresh=True)


@each_dtype
@for_small_layouts
@given(small_layouts)
def test_unpacking_what_was_packed_gives_every_bit_back(
    dtype: str, sizes: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    net = Net(sizes, dtype=dtype)
    trainer, parameters, _ = trainer_of(net, SGD(), rng)
    bits = rng.bytes(parameters.nbytes)  # NaNs with all their bits among them
    flat = np.frombuffer(bits, dtype)
    back = np.empty_like(parameters)
    session = trainer.session
    packed = workspace_of(trainer).parameters
    where = address(session.plan.net)
    session.blocks["pack"](where, address(flat), address(packed))
    session.blocks["unpack"](where, address(back), address(packed))
    assert back.tobytes() == bits


@crossed(dtype=["float32", "float64"], sizes=SHAPES, optimizer=FORMS)
def test_panels_are_those_of_the_parameters_after_every_optimizer(
    dtype: str, sizes: tuple[int, ...], optimizer: Any, rng: Any
) -> None:
    net = Net(sizes, "sigmoid", penalties=PENALTY_SETS[-1], dtype=dtype)
    trainer, parameters, moments = trainer_of(net, optimizer, rng)
    before = parameters.copy()
    take_steps(trainer, optimizer)
    trainer.store()
    assert not np.array_equal(parameters, before)
    assert_in_step(trainer, net, parameters, *moments.flat())


@each_dtype
def test_copies_are_in_step_after_a_divergence(dtype: str, rng: Any) -> None:
    net = Net((3, 19, 5, 2), "identity", dtype=dtype)
    trainer, parameters, _ = trainer_of(net, SGD(), rng)
    before = parameters.copy()
    take_steps(trainer, SGD(), rate=1e30)
    assert trainer.diverged
    trainer.store()
    assert np.array_equal(parameters, before)
    assert_in_step(trainer, net, before)


@crossed(
    dtype=["float32", "float64"], sizes=SHAPES, optimizer=FORMS, batch_size=[BATCH, 1]
)
def test_padding_is_unread(
    dtype: str, sizes: tuple[int, ...], optimizer: Any, batch_size: int, rng: Any
) -> None:
    net = Net(sizes, "sigmoid", penalties=PENALTY_SETS[-1], dtype=dtype)
    state = rng.bit_generator.state
    results = []
    for fill in (0.0, np.nan):
        rng.bit_generator.state = state
        trainer, parameters, moments = trainer_of(net, optimizer, rng, None, batch_size)
        workspace = workspace_of(trainer)
        (packed, copies) = places_of_numbers(trainer, net)
        for vector in (workspace.parameters, moments.m, moments.v):
            vector[: packed.size][~packed] = fill
        workspace.copies[~copies] = fill
        take_steps(trainer, optimizer)
        assert not trainer.diverged
        trainer.store()
        results.append((parameters, *moments.flat()))
    for one, other in zip(*results, strict=True):
        assert one.tobytes() == other.tobytes()


def root(z: Any) -> Any:
    """A rule whose slope is not finite at 0, which only padding ever is."""
    size = np.sqrt(abs(z))
    return (size if z > 0 else -size), type(z)(0.5) / size


def unit_steps(w: Any, g: Any, m: Any, v: Any, rate: Any) -> Any:
    return w - rate * g / abs(g), m, v


@pytest.mark.slow
@pytest.mark.few(3)
@each_dtype
@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        (root, SGD()),
        (ACTIVATIONS["tanh"], Custom(unit_steps)),
        (root, Custom(unit_steps)),
    ],
    ids=["activation", "optimizer", "both"],
)
def test_a_rule_infinite_at_zero_can_train(
    dtype: str, rule: Any, optimizer: Any, rng: Any
) -> None:
    net = Net((3, 19, 5, 2), dtype=dtype)
    trainer, parameters, _ = trainer_of(net, optimizer, rng, (rule, rule, identity))
    before = parameters.copy()
    for _ in range(3):
        take_steps(trainer, optimizer, rate=0.001)
        assert not trainer.diverged
    trainer.store()
    assert np.isfinite(parameters).all()
    assert not (parameters == before).any()
