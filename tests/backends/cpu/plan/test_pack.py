"""Parameters in panels: there and back bit for bit, padding, and the copies in step."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import PENALTY_SETS, Net
from pairwise import all_pairs
from panelled import INTERPRETED, to_panels

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan.optimizer_state import Moments
from fastmlp.backends.cpu.plan.packing import has_copy, holds_transposed, round_up
from fastmlp.backends.cpu.plan.records import address
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.network.spec import bias_views, make_layout, weight_views
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.activations import identity
from fastmlp.rules.optimizers import OPTIMIZERS, SGD, Custom, coefficients_of

FORMS: list[Any] = [
    *(kind(0.03) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9),
    SGD(0.03, momentum=0.9, nesterov=True),
]
N_ROWS, BATCH = 20, 7
# The last layer transposed; the first; the only one; two of them; none.
SHAPES = [(70, 19, 5, 3), (70, 2, 7), (40, 1), (33, 20, 4, 2), (3, 9, 9)]
N_STEPS = -(-N_ROWS // BATCH)

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_two_of_them = pytest.mark.parametrize(
    ("dtype", "sizes", "optimizer"),
    [
        (*case.values(),)
        for case in all_pairs(dtype=["float32", "float64"], sizes=SHAPES, optimizer=FORMS)
    ],
)
# Layers of few outputs, which may be transposed, as often as others.
sizes = st.integers(1, 40 if INTERPRETED else 140) | st.integers(1, 6)
small_layouts = st.lists(sizes, min_size=2, max_size=4).map(tuple)
for_every_layout = settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 40)


def trainer_of(
    net: Net, optimizer: Any, rng: Any, rules: Any = None
) -> tuple[Trainer, Any, Moments]:
    """A trainer that has taken no step, its parameters and its moments."""
    parameters, data = net.draw(rng, N_ROWS)
    network = net.network if rules is None else net.network._replace(activations=rules)
    moments = Moments(network, rng.uniform(size=(2, parameters.size)).astype(net.dtype))
    trainer = Trainer(Engine(network, 1), parameters, moments, optimizer, data, BATCH)
    return trainer, parameters, moments


def take_steps(trainer: Trainer, optimizer: Any, rate: float = 0.01) -> None:
    order, losses = np.arange(N_ROWS)[None], np.zeros(1)
    coefficients = coefficients_of(optimizer, 1, np.full(N_STEPS, rate))
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of each overflow
        trainer.run(order, coefficients, losses, 0, trainer.units_per_epoch)


def workspace_of(trainer: Trainer) -> Any:
    return trainer.session.workspace


def packed_by_hand(net: Net, flat: Any, lanes: int) -> Any:
    """Layer after layer, the panels of W with the biases as one row more.

    Of a transposed layer, the panels of W transposed, and after them the biases.
    """
    layout, parts = make_layout(net.sizes), []
    for w, b in zip(weight_views(layout, flat), bias_views(layout, flat), strict=True):
        transposed = holds_transposed(w.shape[0], w.shape[1], lanes)
        matrices = [w.T, b[None]] if transposed else [np.vstack((w, b))]
        parts += [to_panels(matrix, lanes).ravel() for matrix in matrices]
    return np.concatenate(parts)


def copies_by_hand(net: Net, flat: Any, lanes: int, rows: int) -> Any:
    """Panels of each W transposed, or of a transposed W, their rows rounded up to whole squares.

    A first layer that is not transposed sends no deltas down, and a transposed last layer is
    multiplied forward as it is held: they need none. Nor do, for one row, layers held as W.
    """
    parts = [flat[:0]]
    for i, w in enumerate(weight_views(make_layout(net.sizes), flat)):
        transposed = holds_transposed(w.shape[0], w.shape[1], lanes)
        if has_copy(i, len(net.sizes) - 1, rows, is_transposed=transposed):
            other = w if transposed else w.T
            parts.append(to_panels(other, lanes, round_up(len(other), lanes)).ravel())
    return np.concatenate(parts)


def places_of_numbers(trainer: Trainer, net: Net) -> tuple[Any, Any]:
    """Where the packed parameters, and the copies, hold numbers and no padding."""
    ones = np.ones(make_layout(net.sizes).n_parameters, net.dtype)
    workspace = workspace_of(trainer)
    lanes, rows = workspace.lanes, workspace.chunk_rows
    return packed_by_hand(net, ones, lanes) != 0, copies_by_hand(net, ones, lanes, rows) != 0


def compared(a: Any, b: Any, where: Any) -> tuple[Any, Any]:
    return a[where], b[where]


def assert_in_step(
    trainer: Trainer, net: Net, parameters: Any, *moments: Any, fresh: bool = False
) -> None:
    """The packed vectors are those of the flat ones, and the copies too.

    Padding is part of the comparison where no layer is transposed: it is still zero. The gradient
    of a transposed layer's padding is that of the padding of its inputs, which is 1/2 for a
    sigmoid: it may be anything, and no kernel reads it (see the test of NaNs in its place).
    """
    workspace, state = workspace_of(trainer), trainer.session.moments
    assert state is not None
    packed = (workspace.parameters, state.m, state.v)
    transposed = trainer.session.plan.layers.is_transposed.any()
    real = places_of_numbers(trainer, net) if transposed and not fresh else (slice(None),) * 2
    for vector, flat in zip(packed, (parameters, *moments), strict=False):
        expected = packed_by_hand(net, flat, workspace.lanes)
        assert np.array_equal(*compared(vector[: expected.size], expected, real[0]))
        assert not vector[expected.size :].any()
    expected = copies_by_hand(net, parameters, workspace.lanes, workspace.chunk_rows)
    assert np.array_equal(*compared(workspace.copies, expected, real[1]))


@each_dtype
@for_every_layout
@given(small_layouts)
def test_parameters_lie_where_the_panels_say(dtype: str, sizes: tuple[int, ...]) -> None:
    net = Net(sizes, dtype=dtype)
    trainer, parameters, moments = trainer_of(net, SGD(), np.random.default_rng(0))
    assert_in_step(trainer, net, parameters, *moments.flat(), fresh=True)


@each_dtype
@for_every_layout
@given(small_layouts)
def test_unpacking_what_was_packed_gives_every_bit_back(dtype: str, sizes: tuple[int, ...]) -> None:
    rng, net = np.random.default_rng(0), Net(sizes, dtype=dtype)
    trainer, parameters, _ = trainer_of(net, SGD(), rng)
    bits = rng.bytes(parameters.nbytes)  # NaNs with all their bits among them
    flat, back = np.frombuffer(bits, dtype), np.empty_like(parameters)
    session, packed = trainer.session, workspace_of(trainer).parameters
    where = address(session.plan.net)
    session.blocks["pack"](where, address(flat), address(packed))
    session.blocks["unpack"](where, address(back), address(packed))
    assert back.tobytes() == bits


@each_two_of_them
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
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_padding_is_zero_after_steps_with_every_activation(
    dtype: str, activation: str, rng: Any
) -> None:
    net = Net((5, 19, 3, 2), activation, output_activation=activation, dtype=dtype)
    adam = OPTIMIZERS["adam"]()
    trainer, parameters, _ = trainer_of(net, adam, rng)
    take_steps(trainer, adam)
    trainer.store()
    assert_in_step(trainer, net, parameters)


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


@each_dtype
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_transposed_layers_train_as_others(
    dtype: str, sizes: tuple[int, ...], rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, adam = Net(sizes, "tanh", penalties=PENALTY_SETS[-1], dtype=dtype), OPTIMIZERS["adam"]()
    state = rng.bit_generator.state
    results = []
    for most in (4, 0):
        monkeypatch.setattr(
            "fastmlp.backends.cpu.plan.packing.few_outputs", lambda lanes, n=most: min(n, lanes)
        )
        rng.bit_generator.state = state
        trainer, parameters, moments = trainer_of(net, adam, rng)
        transposed = [bool(layer.is_transposed) for layer in trainer.session.plan.layers]
        lanes = workspace_of(trainer).lanes
        few = [b <= min(most, lanes) and a > b for a, b in pairwise(sizes)]
        assert transposed == few
        take_steps(trainer, adam)
        trainer.store()
        results.append((parameters, *moments.flat()))
    # Biases, which are summed elsewhere, may differ.
    tolerance = {"float32": 2e-5, "float64": 1e-12}[dtype]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@each_two_of_them
def test_nothing_reads_what_is_in_the_padding(
    dtype: str, sizes: tuple[int, ...], optimizer: Any, rng: Any
) -> None:
    net = Net(sizes, "sigmoid", penalties=PENALTY_SETS[-1], dtype=dtype)
    state = rng.bit_generator.state
    results = []
    for fill in (0.0, np.nan):
        rng.bit_generator.state = state
        trainer, parameters, moments = trainer_of(net, optimizer, rng)
        workspace, (packed, copies) = workspace_of(trainer), places_of_numbers(trainer, net)
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
    """A rule that is 0 / 0 where there is no gradient."""
    return w - rate * g / abs(g), m, v


@each_dtype
@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [(root, SGD()), (ACTIVATIONS["tanh"], Custom(unit_steps)), (root, Custom(unit_steps))],
    ids=["activation", "optimizer", "both"],
)
def test_a_rule_that_is_not_finite_at_zero_is_no_divergence(
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
