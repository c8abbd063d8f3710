"""Parameters in panels: there and back bit for bit, padding, and the transposes in step."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import PENALTY_SETS, Net
from panelled import INTERPRETED, to_panels

from fastmlp.activations import RULES as ACTIVATIONS
from fastmlp.activations import identity
from fastmlp.backends.cpu.engine import Engine, Trainer
from fastmlp.backends.cpu.plan import address
from fastmlp.layout import bias_views, make_layout, weight_views
from fastmlp.optimizers import OPTIMIZERS, SGD, Custom

FORMS: list[Any] = [
    *(kind(0.03) for kind in OPTIMIZERS.values()),
    SGD(0.03, momentum=0.9),
    SGD(0.03, momentum=0.9, nesterov=True),
]
N_ROWS, BATCH = 20, 7
N_STEPS = -(-N_ROWS // BATCH)

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
each_form = pytest.mark.parametrize("optimizer", FORMS, ids=lambda o: o.rule.__name__)
layouts = st.lists(st.integers(1, 40 if INTERPRETED else 140), min_size=2, max_size=4).map(tuple)
for_every_layout = settings(derandomize=True, deadline=None, max_examples=5 if INTERPRETED else 40)


def trainer_of(net: Net, optimizer: Any, rng: Any, rules: Any = None) -> tuple[Trainer, Any, Any]:
    """A trainer that has taken no step, its parameters and its moments."""
    parameters, data = net.draw(rng, N_ROWS)
    moments = rng.uniform(size=(2, parameters.size)).astype(net.dtype)
    network = net.network if rules is None else net.network._replace(activations=rules)
    trainer = Engine(network, 1).trainer(parameters, moments, optimizer, data, BATCH)
    return trainer, parameters, moments


def take_steps(trainer: Trainer, optimizer: Any, rate: float = 0.01) -> None:
    order, losses = np.arange(N_ROWS)[None], np.zeros(1)
    coefficients = optimizer.coefficients(1, np.full(N_STEPS, rate))
    with np.errstate(all="ignore"):  # uncompiled, NumPy warns of each overflow
        trainer.run(order, coefficients, losses, 0, trainer.units_per_epoch)


def workspace_of(trainer: Trainer) -> Any:
    return trainer._session.workspace


def packed_by_hand(net: Net, flat: Any, lanes: int) -> Any:
    """Layer after layer, the panels of W with the biases as one row more."""
    layout = make_layout(net.sizes)
    pairs = zip(weight_views(layout, flat), bias_views(layout, flat), strict=True)
    return np.concatenate([to_panels(np.vstack(pair), lanes).ravel() for pair in pairs])


def transposed_by_hand(net: Net, flat: Any, lanes: int) -> Any:
    """Panels of each W transposed but the first, their rows rounded up to whole squares."""
    matrices = weight_views(make_layout(net.sizes), flat)[1:]
    heights = [-(-w.shape[1] // lanes) * lanes for w in matrices]
    parts = [to_panels(w.T, lanes, h).ravel() for w, h in zip(matrices, heights, strict=True)]
    return np.concatenate([flat[:0], *parts])


@each_dtype
@for_every_layout
@given(layouts)
def test_parameters_lie_where_the_panels_say(dtype: str, sizes: tuple[int, ...]) -> None:
    net = Net(sizes, dtype=dtype)
    trainer, parameters, moments = trainer_of(net, SGD(), np.random.default_rng(0))
    workspace = workspace_of(trainer)
    for packed, flat in zip(
        (workspace.parameters, workspace.m, workspace.v), (parameters, *moments), strict=True
    ):
        expected = packed_by_hand(net, flat, workspace.lanes)
        assert np.array_equal(packed[: expected.size], expected)
        assert not packed[expected.size :].any()
    expected = transposed_by_hand(net, parameters, workspace.lanes)
    assert np.array_equal(workspace.transposed, expected)


@each_dtype
@for_every_layout
@given(layouts)
def test_unpacking_what_was_packed_gives_every_bit_back(dtype: str, sizes: tuple[int, ...]) -> None:
    rng, net = np.random.default_rng(0), Net(sizes, dtype=dtype)
    trainer, parameters, _ = trainer_of(net, SGD(), rng)
    bits = rng.bytes(parameters.nbytes)  # NaNs with all their bits among them
    flat, back = np.frombuffer(bits, dtype), np.empty_like(parameters)
    session, packed = trainer._session, workspace_of(trainer).parameters
    where = address(session.plan.net)
    session.block("pack")(where, address(flat), address(packed))
    session.block("unpack")(where, address(back), address(packed))
    assert back.tobytes() == bits


@each_dtype
@each_form
def test_panels_are_those_of_the_parameters_after_every_optimizer(
    dtype: str, optimizer: Any, rng: Any
) -> None:
    net = Net((70, 19, 5, 3), "sigmoid", penalties=PENALTY_SETS[-1], dtype=dtype)
    trainer, parameters, moments = trainer_of(net, optimizer, rng)
    before = parameters.copy()
    take_steps(trainer, optimizer)
    trainer.store()
    assert not np.array_equal(parameters, before)
    workspace = workspace_of(trainer)
    expected = packed_by_hand(net, parameters, workspace.lanes)
    # Padding is part of the comparison: it is still zero.
    assert np.array_equal(workspace.parameters[: expected.size], expected)
    for packed, flat in zip((workspace.m, workspace.v), moments, strict=True):
        assert np.array_equal(packed[: expected.size], packed_by_hand(net, flat, workspace.lanes))
    expected = transposed_by_hand(net, parameters, workspace.lanes)
    assert np.array_equal(workspace.transposed, expected)


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
    workspace = workspace_of(trainer)
    expected = packed_by_hand(net, parameters, workspace.lanes)
    assert np.array_equal(workspace.parameters[: expected.size], expected)


@each_dtype
def test_transposes_are_in_step_after_a_divergence(dtype: str, rng: Any) -> None:
    net = Net((3, 19, 5, 2), "identity", dtype=dtype)
    trainer, parameters, _ = trainer_of(net, SGD(), rng)
    before = parameters.copy()
    take_steps(trainer, SGD(), rate=1e30)
    assert trainer.diverged
    trainer.store()
    assert np.array_equal(parameters, before)
    workspace = workspace_of(trainer)
    expected = transposed_by_hand(net, before, workspace.lanes)
    assert np.array_equal(workspace.transposed, expected)


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
