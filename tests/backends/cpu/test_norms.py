"""Norms and residual blocks: the oracle's numbers,
the same bits on any threads, their extremes.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from conditions import needs_a_team, needs_threads
from nets import take_form
from pairwise import crossed

import fastmlp
from fastmlp import (
    MLP,
    SGD,
    Adam,
    AdamW,
    NetGroup,
    Residual,
    ScheduleFreeAdamW,
    jit,
)
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.protocol import Data
from fastmlp.model import core_of

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
NETS: dict[str, tuple[Any, Any]] = {
    "layer": ((5, 19, 3), "layer"),
    "rms": ((5, 19, 7, 3), "rms"),
    "one unit": ((5, 4, 1, 3), "layer"),
    "some": ((5, 17, 6, 3), ["rms", None]),
    "block": ((5, Residual(6), 3), None),
    "blocks": ((5, Residual(9, inner=4), Residual(9, inner=5), 3), "layer"),
    "block after a layer": ((5, 9, Residual(9, inner=4), 3), "layer"),
    "block after a plain layer": ((5, 9, Residual(9, inner=4), 3), None),
    "norm of a plain layer's values": (
        (5, 9, Residual(9, inner=4), 3),
        [None, "rms"],
    ),
    "widths": ((5, Residual(4), Residual(18, inner=3), 6, 3), ["layer", "rms", None]),
    "wide": ((5, 19, 3), None),
    "wide, whole panels": ((5, 32, 3), None),
    "wide, a norm": ((5, 6, 7, 3), "layer"),
    "wide, blocks": ((5, Residual(9, inner=4), Residual(9, inner=5), 3), "rms"),
}
SKIPS = {"wide", "wide, whole panels", "wide, a norm", "wide, blocks"}
ACTIVATIONS = ("relu", "tanh", "silu", "identity")


def net_of(name: str, rng: np.random.Generator, **settings: Any) -> MLP:
    """A net whose biases, gains and shifts are not those of a start."""
    sizes, norm = NETS[name]
    written = {"norm": norm, "skip": "input" if name in SKIPS else None}
    net = MLP(sizes, **{**written, "n_threads": 1, "seed": 0, **settings})
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    return net


def arrays_of(net: MLP) -> tuple[Any, Any]:
    vectors = [*net.biases, *net.gains, *net.shifts]
    return (
        [w.astype(float) for w in net.weights],
        [b.astype(float) for b in vectors],
    )


def words_of(net: MLP) -> dict[str, Any]:
    """The net in the oracle's words."""
    network = net._network
    return {
        "activations": [rule.__name__ for rule in network.activations],
        "norms": [
            (norm.kind, norm.layer, norm.after, norm.epsilon)
            for norm in network.layout.norms
        ],
        "skips": network.layout.skips,
    }


def rows_of(rng: np.random.Generator, n: int, dtype: str = "float64") -> Any:
    return rng.normal(size=(n, 5)).astype(dtype), rng.normal(size=(n, 3)).astype(dtype)


@pytest.mark.slow
@pytest.mark.few(16)
@crossed(
    name=[*NETS], activation=[*ACTIVATIONS], dtype=[*TOLERANCE], n_rows=[1, 7, 40, 140]
)
def test_predictions_and_gradient_are_the_oracles(
    name: str, activation: str, dtype: Any, n_rows: int, rng: np.random.Generator
) -> None:
    net = net_of(name, rng, activation=activation, dtype=dtype, l2=0.3)
    x, y = rows_of(rng, n_rows, dtype)
    model = {**words_of(net), "l2": 0.3}
    expected = naive.predict(*arrays_of(net), x, **model)
    tolerance = TOLERANCE[dtype] * max(1, float(abs(expected).max()))
    np.testing.assert_allclose(net.predict(x), expected, rtol=0, atol=tolerance)
    value, gradient = net.loss_and_gradient(x, y)
    wanted, *slopes = naive.gradient(*arrays_of(net), x, y, **model)
    flat = naive.flatten(*slopes)
    assert value == pytest.approx(wanted, rel=100 * TOLERANCE[dtype])
    scale = 100 * TOLERANCE[dtype] * max(1, float(abs(flat).max()))
    np.testing.assert_allclose(gradient, flat, rtol=0, atol=scale)


OPTIMIZERS: list[Any] = [
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
    AdamW(0.01, weight_decay=0.1, decay_biases=False),
    SGD(0.05, momentum=0.9, clipnorm=0.2),
    Adam(0.01, global_clipnorm=0.3),
    ScheduleFreeAdamW(0.01),
]


@pytest.mark.slow
@pytest.mark.few(6)
@crossed(name=[*NETS], optimizer=OPTIMIZERS, dropout=[0.0, 0.25], batch_size=[1, 8, 13])
def test_steps_are_the_oracles(
    name: str,
    optimizer: Any,
    dropout: float,
    batch_size: int,
    rng: np.random.Generator,
) -> None:
    net = net_of(
        name,
        rng,
        optimizer=optimizer,
        dropout=dropout,
        dtype="float64",
        layer_rates={"weights": 1.0, "biases": 0.5},
    )
    x, y = rows_of(rng, 13)
    settings = {k: getattr(optimizer, k) for k in optimizer.__dataclass_fields__}
    draws = None
    if net._network.dropout is not None:
        hidden = net._network.dropout.hidden
        key = net._state.kept_key()
        draws = {"key": key, "inputs": 0, "noise": 0, "hidden": hidden}
    names = {"Adam": "adam", "AdamW": "adamw", "SGD": "momentum"}
    kind = names.get(type(optimizer).__name__, "schedule_free_adamw")
    order = np.arange(13)
    batches = [order[i : i + batch_size] for i in range(0, 13, batch_size)]
    _, *after = naive.train(
        *arrays_of(net),
        x,
        y,
        [batches] * 2,
        optimizer=kind,
        settings=settings,
        factors=[(1.0, 0.5)] * len(net.weights),
        dropout=draws,
        **words_of(net),
    )
    net.fit(x, y, epochs=2, batch_size=batch_size, shuffle=False)
    np.testing.assert_allclose(
        net.parameters, naive.flatten(*after), rtol=0, atol=1e-11
    )


def test_frozen_layers_keep_gains_and_shifts(rng: np.random.Generator) -> None:
    net = net_of("rms", rng)
    net.trainable = [True, False, True]
    kept = net.gains[1].copy()
    trained = net.gains[0].copy()
    net.fit(*rows_of(rng, 20), epochs=2)
    assert np.array_equal(net.gains[1], kept)
    assert not np.array_equal(net.gains[0], trained)


@needs_threads
@needs_a_team
@pytest.mark.parametrize("form", ["rows", "chunks", "microbatches", "panels"])
@pytest.mark.parametrize("name", ["rms", "widths", "wide, a norm"])
def test_threads_do_not_change_the_bits(
    name: str, form: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_form(form, monkeypatch)
    x, y = rows_of(rng, 130, "float32")
    seen = set()
    for n_threads in (1, 2, 4):
        TRAININGS.clear()
        net = net_of(name, np.random.default_rng(0), n_threads=n_threads, dropout=0.2)
        net.fit(x, y, epochs=2, batch_size=70)
        _, gradient = net.loss_and_gradient(x, y)
        results = (net.parameters, gradient, net.predict(x))
        seen.add(b"".join(array.tobytes() for array in results))
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["rms", "blocks", "wide", "wide, blocks"])
def test_a_row_has_the_same_bits_alone(name: str, rng: np.random.Generator) -> None:
    net = net_of(name, rng)
    (x, _) = rows_of(rng, 30, "float32")
    alone = np.concatenate([net.predict(row[None]) for row in x])
    assert np.array_equal(net.predict(x), alone)


def test_sparse_rows_have_the_gradient_of_dense_rows(rng: np.random.Generator) -> None:
    """Models of tables and estimators have such rows; kernels know no other nets."""
    x, y = rows_of(rng, 30)
    x[rng.random(x.shape) < 0.5] = 0
    net = net_of("some", rng, dtype="float64")
    engine: Any = core_of(net).engine
    none = np.empty(0)
    results = list[Any]()
    for rows in (x, scipy.sparse.csr_array(x)):
        data = Data(engine.features(rows), y, none)
        out = np.empty((30, 3))
        value, gradient = engine.loss_and_gradient(net.parameters, data)
        engine.predict(net.parameters, data.x, out)
        results.append([value, *gradient, *out.ravel()])
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [*TOLERANCE])
def test_gradients_by_inputs_are_the_oracles(
    norm: Any, dtype: Any, rng: np.random.Generator
) -> None:
    net = net_of("layer", rng, norm=norm, dtype=dtype, activation="tanh")
    x, slopes = rows_of(rng, 9, dtype)
    by_inputs = net.vjp(x, slopes)[1]
    model = words_of(net)
    derivatives = naive.jacobian(*arrays_of(net), x, **model)
    expected = np.einsum("rj,rji->ri", slopes, derivatives)
    np.testing.assert_allclose(by_inputs, expected, atol=100 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [*TOLERANCE])
@pytest.mark.parametrize("n_outputs", [1, 3, 40])
@pytest.mark.parametrize("n_rows", [1, 9, 70])
def test_a_skip_adds_to_gradients_by_inputs(
    dtype: Any, n_outputs: int, n_rows: int, rng: np.random.Generator
) -> None:
    net = MLP((5, 19, n_outputs), skip="input", activation="tanh", dtype=dtype, seed=0)
    x = rng.normal(size=(n_rows, 5)).astype(dtype)
    slopes = rng.normal(size=(n_rows, n_outputs)).astype(dtype)
    derivatives = naive.jacobian(*arrays_of(net), x, **words_of(net))
    expected = np.einsum("rj,rji->ri", slopes, derivatives)
    by_inputs = net.vjp(x, slopes)[1]
    np.testing.assert_allclose(by_inputs, expected, atol=100 * TOLERANCE[dtype])
    jacobian = fastmlp.jacobian(net, x)
    np.testing.assert_allclose(jacobian, derivatives, atol=100 * TOLERANCE[dtype])


def test_the_gradient_of_a_loss_passes_a_skip(rng: np.random.Generator) -> None:
    net = net_of("wide", rng, dtype="float64", output_activation="tanh")
    x, y = rows_of(rng, 7)

    def losses(x: Any) -> Any:
        return ((net.predict(x) - y) ** 2).mean(axis=1)

    found = fastmlp.gradient(net, x, y=y)
    for k, step in enumerate(1e-6 * np.eye(5)):
        expected = (losses(x + step) - losses(x - step)) / 2e-6
        np.testing.assert_allclose(found[:, k], expected, atol=1e-7)


def test_alike_units_give_shifts(rng: np.random.Generator) -> None:
    net = net_of("layer", rng)
    net.weights[0][:] = 0
    net.biases[0][:] = 2.5
    x, y = rows_of(rng, 8)
    expected = np.maximum(net.shifts[0], 0) @ net.weights[1] + net.biases[1]
    np.testing.assert_allclose(net.predict(x), np.tile(expected, (8, 1)), rtol=1e-5)
    assert np.isfinite(net.loss_and_gradient(x, y)[1]).all()


def test_numbers_far_from_zero_keep_their_digits(rng: np.random.Generator) -> None:
    """Units of a row 1 apart at 1e5, beside which float32 has 0.008."""
    net = net_of("layer", rng)
    net.biases[0][:] += 1e5
    x, y = rows_of(rng, 8, "float32")
    expected = naive.predict(*arrays_of(net), x, **words_of(net))
    assert abs(net.predict(x) - expected).max() < 0.05
    assert np.isfinite(net.fit(x, y, epochs=3).loss).all()


@pytest.mark.parametrize("dtype", [*TOLERANCE])
def test_a_norm_of_one_unit_is_its_shift(dtype: Any, rng: np.random.Generator) -> None:
    net = net_of("one unit", rng, dtype=dtype, activation="identity")
    x, _ = rows_of(rng, 4, dtype)
    expected = net.shifts[1] @ net.weights[2] + net.biases[2]
    np.testing.assert_allclose(net.predict(x), np.tile(expected, (4, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_compiled_code_has_the_bits_of_a_row(
    name: str, rng: np.random.Generator
) -> None:
    net = net_of(name, rng, activation="silu")
    (x, _) = rows_of(rng, 3, "float32")
    handle = jit.compiled(net)
    out = np.empty(3, np.float32)
    for row, expected in zip(x, net.predict(x), strict=True):
        jit.predict(handle, row, out)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("name", ["blocks", "wide, blocks"])
def test_a_compiled_learner_has_the_bits_of_steps(
    name: str, rng: np.random.Generator
) -> None:
    nets = [net_of(name, np.random.default_rng(0)) for _ in range(2)]
    x, y = rows_of(rng, 6, "float32")
    by_net = np.empty(nets[0].parameters.size)
    by_inputs = np.empty(x.shape)
    with jit.learner(nets[0], batch_size=6) as handle:
        loss = jit.train_on_batch(handle, x, y)
        jit.vjp(handle, x, y, by_net, by_inputs)
    assert loss == nets[1].train_on_batch(x, y)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    gradient, inputs = nets[1].vjp(x, y)
    assert np.array_equal(by_net.astype(np.float32), gradient)
    assert np.array_equal(by_inputs.astype(np.float32), inputs)


@pytest.mark.parametrize("name", ["blocks", "wide"])
def test_groups_have_the_bits_of_their_nets(
    name: str, rng: np.random.Generator
) -> None:
    alone = [net_of(name, rng, seed=i) for i in range(2)]
    (x, y) = rows_of(rng, 9)
    x = x.astype(np.float32)
    y = y.astype(np.float32)
    group = NetGroup([deepcopy(net) for net in alone])
    losses = [net.train_on_batch(x, y) for net in alone]
    assert np.array_equal(group.train_on_batch(x, y), losses)
    for rows in (x, np.tile(x, (400, 1))):
        expected = np.stack([net.predict(rows) for net in alone])
        assert np.array_equal(group.predict(rows), expected)


@pytest.mark.parametrize("name", ["layer", "blocks", "widths", "wide"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_jacobians_are_the_oracles(
    name: str, loss: Any, rng: np.random.Generator
) -> None:
    net = net_of(name, rng, loss=loss, dtype="float64", activation="tanh")
    x, _ = rows_of(rng, 6)
    expected = naive.jacobian(*arrays_of(net), x, **words_of(net), loss=loss)
    np.testing.assert_allclose(fastmlp.jacobian(net, x), expected, atol=1e-12)


@pytest.mark.parametrize("skip", ["input", None])
def test_a_net_comes_back_from_a_file(
    skip: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    settings: Any = {"dropout": [0.1, 0.2, 0.3], "norm_epsilon": 1e-3, "skip": skip}
    net = net_of("widths", rng, **settings)
    x, y = rows_of(rng, 20, "float32")
    net.fit(x, y, epochs=2)
    net.save(tmp_path / "net", include_training_state=True)
    other = MLP.load(tmp_path / "net")
    assert repr(other) == repr(net)
    assert other.layer_sizes == net.layer_sizes
    for each in (net, other):
        each.fit(x, y, epochs=2)
    assert np.array_equal(net.parameters, other.parameters)
    assert np.array_equal(net.predict(x), other.predict(x))


@pytest.mark.parametrize(
    ("settings", "version"),
    [({}, 2), ({"norm": "layer"}, 3), ({"skip": "input"}, 3)],
)
def test_files_of_nets_with_norms_have_a_format_of_their_own(
    settings: Any, version: int, tmp_path: Path
) -> None:
    MLP((2, 3, 1), **settings).save(tmp_path / "net")
    raw = (tmp_path / "net").read_bytes()
    assert f'format_version\\":{version}'.encode() in raw


def test_an_estimator_fits_nets_like_this_one(rng: np.random.Generator) -> None:
    net = net_of("widths", rng, dropout=[0.1, 0.2, 0.3], skip="input")
    model = net.as_estimator(epochs=2, random_state=0).fit(*rows_of(rng, 20))
    assert model.net_.layer_sizes == net.layer_sizes
    assert (model.net_.norm, model.net_.skip) == (net.norm, "input")
    assert model.net_._network.dropout == net._network.dropout


def test_the_summary_has_the_stages() -> None:
    settings: Any = {"norm": "layer", "dropout": 0.5, "skip": "input"}
    net = MLP((2, 4, Residual(4, inner=3), 1), **settings)
    rows = [line.split("  ") for line in net.summary().splitlines()[1:-1]]
    shown = [[cell.strip() for cell in row if cell.strip()][3] for row in rows]
    assert shown == [
        "dropout, layer norm, relu, layer norm",
        "relu, dropout",
        "+ layer 1, layer norm",
        "of the inputs too",
    ]
    assert net.layer_sizes == (2, 4, Residual(4, inner=3), 1)
    assert net.norm == "layer"
    assert [len(views) for views in (net.weights, net.gains, net.shifts)] == [4, 3, 3]


SIZES = (1, 3, 8, 17, 33)
LOSSES: dict[Any, int] = {"mse": 3, "cross_entropy": 4, "huber": 1}


def drawn_net(rng: np.random.Generator, n_threads: int) -> MLP:
    """Widths, blocks, norms, a skip, activations, dropout, loss and dtype are drawn."""
    loss: Any = str(rng.choice([*LOSSES]))
    hidden: list[Any] = []
    for width in rng.choice(SIZES, rng.integers(1, 4)).tolist():
        block = Residual(width, inner=int(rng.choice(SIZES)))
        hidden.append(block if rng.random() < 0.5 else width)
    norms: Any = rng.choice(["layer", "rms", ""], len(hidden)).tolist()
    skip: Any = "input" if rng.random() < 0.5 else None
    dtype: Any = str(rng.choice(["float32", "float64"]))
    net = MLP(
        (int(rng.choice(SIZES)), *hidden, LOSSES[loss]),
        norm=[norm or None for norm in norms],
        skip=skip,
        loss=loss,
        dtype=dtype,
        activation=rng.choice(ACTIVATIONS, len(hidden)).tolist(),
        n_threads=n_threads,
        dropout=float(rng.choice([0, 0.3])),
        optimizer="adamw",
        seed=0,
    )
    net.parameters[:] += rng.normal(size=net.parameters.size) / 4
    return net


@pytest.mark.slow
@pytest.mark.few(6)
@pytest.mark.parametrize("seed", range(40))
def test_drawn_nets_are_the_oracles_on_any_threads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nets = [drawn_net(np.random.default_rng(seed), n) for n in (1, 2)]
    net = nets[0]
    layout = nets[0]._network.layout
    loss = nets[0]._loss_name
    n_rows = int(rng.integers(1, 150))
    n_out = layout.sizes[-1]
    x = rng.normal(size=(n_rows, layout.sizes[0])).astype(net.dtype)
    y: Any = rng.normal(size=(n_rows, n_out))
    if loss == "cross_entropy":
        y = np.eye(n_out)[rng.integers(0, n_out, n_rows)]
    model = {**words_of(net), "loss": loss}
    wanted, *slopes = naive.gradient(*arrays_of(net), x, y, **model)
    value, gradient = net.loss_and_gradient(x, y)
    tolerance = 3000 * TOLERANCE[net.dtype.name]
    assert value == pytest.approx(wanted, rel=tolerance)
    flat = naive.flatten(*slopes)
    scale = tolerance * max(1, float(abs(flat).max()))
    np.testing.assert_allclose(gradient, flat, rtol=0, atol=scale)
    batches = rng.integers(1, n_rows + 1, 3)
    for each in nets:
        for batch in batches:
            each.train_on_batch(x[:batch], y[:batch])
        each.fit(x, y, epochs=1, batch_size=int(batches[0]))
    assert np.array_equal(nets[0].parameters, nets[1].parameters)
    alone = np.concatenate([net.predict(row[None]) for row in x])
    assert np.array_equal(nets[1].predict(x), alone)
