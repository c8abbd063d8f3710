"""Sparse rows have the bits of dense ones; expanded rows the numbers that they stand for."""

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from fitting import Cut, cut_after
from nets import Net, split

from fastmlp import MLP, Adam, fit_many
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.csr import SparseRows
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network.spec import Network, make_layout
from fastmlp.rules.activations import RULES, identity
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.penalties import l2
from fastmlp.tabular import Expanded

N_ROWS = 12 if INTERPRETED else 61
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
NETS = {
    "relu": ((40, 20, 3), "relu"),
    "tanh": ((40, 20, 3), "tanh"),
    "identity": ((40, 5, 4, 3), "identity"),
    "few units": ((40, 3, 3), "relu"),
    "many units": ((40, 150, 3), "tanh"),
    "no hidden layer": ((40, 3), "relu"),
}


def matrix_of(dtype: Any, width: int = 40) -> Any:
    """A matrix with an empty row, an empty column and a full row."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(N_ROWS, width)) * (rng.uniform(size=(N_ROWS, width)) < 0.1)
    dense[3], dense[:, 7], dense[5] = 0, 0, rng.normal(size=width)
    return dense.astype(dtype)


def sparse_of(dense: Any) -> SparseRows:
    rows = scipy.sparse.csr_array(dense)
    return SparseRows(rows.data, rows.indices, rows.indptr, dense.shape[1])


def network_for(sizes: tuple[int, ...], activation: str, dtype: Any) -> Network:
    rules = (*[RULES[activation]] * (len(sizes) - 2), identity)
    link, penalties = LINKS["identity"], ((l2, 0.1),)
    return Network(make_layout(sizes), rules, LOSSES["mse"], link, penalties, np.dtype(dtype))


def train(network: Network, x: Any, parameters: Any, n_threads: int = 1) -> Any:
    """Parameters after two epochs in orders of their own."""
    rng = np.random.default_rng(1)
    flat = parameters.copy()
    y = rng.normal(size=(N_ROWS, network.layout.sizes[-1])).astype(flat.dtype)
    data = Data(x, y, rng.uniform(size=N_ROWS).astype(flat.dtype))
    engine = Engine(network, n_threads)
    moments = engine.moments(sparse=isinstance(x, SparseRows))
    trainer = engine.trainer(flat, moments, Adam(0.01), data, 10)
    order = np.array([rng.permutation(N_ROWS) for _ in range(2)])
    units = 2 * trainer.units_per_epoch
    steps = trainer.step_of(units)
    coefficients = Adam(0.01).coefficients(1, np.full(steps, 0.01))
    losses = np.zeros(2)
    trainer.run(order, coefficients, losses, 0, units)
    trainer.store()
    return np.concatenate([flat, losses.astype(flat.dtype)])


@each_dtype
@pytest.mark.parametrize("net", NETS)
def test_training_has_the_bits_of_dense_rows(net: str, dtype: Any) -> None:
    network, dense = network_for(*NETS[net], dtype), matrix_of(dtype)
    rng = np.random.default_rng(2)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    expected = train(network, dense, parameters)
    result = train(network, sparse_of(dense), parameters)
    np.testing.assert_allclose(result, expected, rtol=1e-4 if dtype == np.float32 else 1e-11)


@each_dtype
def test_chunks_and_threads_do_not_matter(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = network_for(*NETS["tanh"], dtype), sparse_of(matrix_of(dtype))
    parameters = np.random.default_rng(2).normal(size=network.layout.n_parameters).astype(dtype)
    expected = train(network, x, parameters)
    assert np.array_equal(train(network, x, parameters, n_threads=2), expected)
    monkeypatch.setattr(partition, "chunk_rows", lambda *arguments, **options: 4)
    chunked = train(network, x, parameters)
    np.testing.assert_allclose(chunked, expected, rtol=1e-4 if dtype == np.float32 else 1e-11)


@each_dtype
@pytest.mark.parametrize("net", NETS)
def test_predictions_losses_and_gradients(net: str, dtype: Any) -> None:
    network, dense = network_for(*NETS[net], dtype), matrix_of(dtype)
    rng = np.random.default_rng(3)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    n_outputs = network.layout.sizes[-1]
    y, weight = rng.normal(size=(N_ROWS, n_outputs)).astype(dtype), np.empty(0, dtype)
    results, engine = [], Engine(network, 1)
    for x in (dense, sparse_of(dense)):
        out = np.empty((N_ROWS, n_outputs), dtype)
        engine.predict(parameters, x, out)
        data = Data(x, y, weight)
        loss, gradient = engine.loss_and_gradient(parameters, data)
        results.append([out, engine.loss(parameters, data), loss, gradient])
    for mine, other in zip(*results, strict=True):
        tolerance = 1e-4 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def test_columns_in_any_order_and_twice() -> None:
    dense = np.zeros((2, 5))
    dense[0, [1, 4]], dense[1, 0] = [3.0, 2.0], 1.0
    x = SparseRows(np.array([2.0, 1.5, 1.5, 1.0]), np.array([4, 1, 1, 0]), np.array([0, 3, 4]), 5)
    network = network_for((5, 2), "relu", np.float64)
    parameters = np.random.default_rng(0).normal(size=network.layout.n_parameters)
    out, expected = np.empty((2, 2)), np.empty((2, 2))
    engine = Engine(network, 1)
    engine.predict(parameters, x, out)
    engine.predict(parameters, dense, expected)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert x.most_numbers(1) == 3
    assert x.most_numbers(9) == 4


def test_no_buffer_is_as_large_as_the_dense_rows() -> None:
    n_features = 50_000
    x = SparseRows(np.ones(3), np.array([5, 9, 49_999]), np.array([0, 1, 1, 3]), n_features)
    network = network_for((n_features, 2), "relu", np.float64)
    flat = np.zeros(network.layout.n_parameters)
    data = Data(x, np.zeros((3, 2)), np.empty(0))
    engine = Engine(network, 1)
    trainer = Trainer(engine, flat, engine.moments(sparse=True), Adam(), data, 3)
    assert trainer.session.workspace.inputs.size == 0
    assert trainer.units_per_epoch == 1


DTYPES = ["float64"] if INTERPRETED else ["float32", "float64"]
HIDDEN = (20,) if INTERPRETED else (37, 5)
each_precision = pytest.mark.parametrize("dtype", DTYPES)
# Plain numbers, pieces, levels.
KINDS: dict[str, tuple[int, list[int], list[int]]] = {
    "all": (3, [5, 1, 2], [4, 1, 2]),
    "pieces": (0, [16, 16, 16, 16, 16], []),
    "levels": (0, [], [3, 7]),
    "plain": (4, [], []),
    "cut by tiles": (5, [100, 9, 40], [90, 2, 70]),
    "many sums": (1, [100, 92, 1, 120], []),
}
each_kind = pytest.mark.parametrize("kind", [*KINDS][: 4 if INTERPRETED else None])
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def rows_of(kind: str, dtype: str = "float64", n_rows: int = N_ROWS) -> Expanded:
    """Rows with numbers at the ends of pieces, and beyond those of their columns."""
    (plain, pieces, levels), rng = KINDS[kind], np.random.default_rng(0)
    columns = [rng.normal(size=n_rows) for _ in range(plain)]
    for n in pieces:
        column = rng.uniform(-1, n + 1, n_rows)
        column[::3] = np.round(column[::3])
        columns.append(column)
    columns += [rng.integers(-1, n, n_rows).astype(float) for n in levels]
    values = np.array(columns, dtype).T
    return Expanded(values, plain=plain, pieces=pieces, levels=levels)


def inputs_of(rows: Expanded) -> Any:
    """The inputs that the rows stand for, number by number."""
    inputs = []
    for values in rows.values.tolist():
        row, rest = values[: rows.plain], values[rows.plain :]
        for x, n in zip(rest, [*rows.pieces, *[0] * len(rows.levels)], strict=True):
            row += [min(max(x - t, 0.0), 1.0) for t in range(n)]
        for x, n in zip(rest[len(rows.pieces) :], rows.levels, strict=True):
            row += [1.0 if x == level else 0.0 for level in range(n)]
        inputs.append(row)
    return np.array(inputs)


def targets(n_outputs: int = 2) -> Any:
    return np.random.default_rng(5).normal(size=(N_ROWS, n_outputs))


def net_for(rows: Expanded, hidden: tuple[int, ...] = HIDDEN, **rules: Any) -> MLP:
    return MLP((rows.shape[1], *hidden, 2), seed=3, dtype=rows.dtype, **rules)


@each_kind
def test_rows_stand_for_their_inputs(kind: str) -> None:
    rows = rows_of(kind)
    assert rows.shape == (N_ROWS, rows.toarray().shape[1])
    np.testing.assert_allclose(rows.toarray(), inputs_of(rows), rtol=0, atol=1e-15)


@each_kind
@pytest.mark.parametrize("sizes", [(), (3,), (20, 4)], ids=str)
def test_gradients_are_those_of_complex_steps(kind: str, sizes: tuple[int, ...]) -> None:
    rows = rows_of(kind, n_rows=7)
    net = Net((rows.shape[1], *sizes, 2), penalties={"l2": 0.3})
    rng = np.random.default_rng(1)
    parameters, data = net.draw(rng, 7, weighted=True)
    value, gradient = Engine(net.network, 1).loss_and_gradient(parameters, data._replace(x=rows))
    where = (*split(net, parameters), inputs_of(rows), data.y)
    kinds = {**net.oracle, "sample_weight": data.weight}
    np.testing.assert_allclose(value, naive.objective(*where, **kinds), rtol=1e-12)
    expected = naive.flatten(*naive.gradient(*where, **kinds)[1:])
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-13)
    if gradient.size < 500:
        steps = naive.complex_step_gradient(*where, **kinds)
        np.testing.assert_allclose(gradient, naive.flatten(*steps), rtol=1e-10, atol=1e-13)


@each_precision
@each_kind
@pytest.mark.parametrize("batch_size", [1, 10, 100])
def test_a_fit_is_that_on_the_inputs(kind: str, dtype: str, batch_size: int) -> None:
    rows, results = rows_of(kind, dtype), []
    for x in (rows, rows.toarray()):
        net = net_for(rows)
        history = net.fit(x, targets(), epochs=3, batch_size=batch_size, validation_split=0.2)
        results.append([net.parameters, net.predict(x), history.loss, history.validation_loss])
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    "rules",
    [
        {"activation": "tanh", "dropout": 0.3},
        {"activation": "identity", "l1": 0.1},
        {"optimizer": Adam(0.01, global_clipnorm=0.1)},
        {"layer_rates": [0.0, 1.0, 0.5]},
    ],
    ids=str,
)
def test_other_rules_go_along(rules: dict[str, Any]) -> None:
    rows, results = rows_of("all"), []
    for x in (rows, rows.toarray()):
        net = net_for(rows, (37, 5), **rules)
        net.fit(x, targets(), epochs=3, batch_size=10)
        results.append(net.parameters)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-10, atol=1e-12)


@each_precision
@each_kind
def test_chunks_and_threads_do_not_matter_to_expanded_rows(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(kind, dtype)

    def trained(n_threads: int) -> Any:
        net = net_for(rows, n_threads=n_threads)
        net.fit(rows, targets(), epochs=2, batch_size=30)
        return np.concatenate([net.parameters, net.predict(rows).ravel()])

    expected = trained(1)
    assert np.array_equal(trained(2), expected)
    monkeypatch.setattr(partition, "chunk_rows", lambda *arguments, **options: 8)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(trained(1), expected, rtol=tolerance, atol=tolerance)


@each_precision
@each_kind
def test_a_row_is_predicted_alone_as_among_others(kind: str, dtype: str) -> None:
    rows = rows_of(kind, dtype)
    net = net_for(rows)
    whole = net.predict(rows)
    np.testing.assert_allclose(whole, net.predict(rows.toarray()), rtol=1e-4, atol=1e-5)
    for i in (0, 5, N_ROWS - 1):
        assert np.array_equal(net.predict(rows[i : i + 1]), whole[i : i + 1])
    assert np.array_equal(net.predict(rows[[3, 1]]), whole[[3, 1]])
    out = np.empty_like(whole)
    assert net.predict(rows, out=out) is out
    assert np.array_equal(out, whole)


def test_fit_many_has_the_bits_of_fit() -> None:
    rows, y = rows_of("all", "float32"), targets()
    alone, together = ([net_for(rows, (n,)) for n in (5, 20, 33)] for _ in range(2))
    for net in alone:
        net.fit(rows, y, epochs=3, batch_size=8)
    fit_many(together, rows, y, epochs=3, batch_size=8)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.parameters, other.parameters)


def test_some_rows_train_and_others_validate() -> None:
    rows, y = rows_of("all"), targets()
    train, held_out = np.arange(40) % N_ROWS, np.arange(40, 61) % N_ROWS
    one, other = net_for(rows), net_for(rows)
    [history] = fit_many([one], rows, y, rows=train, validation_rows=held_out, epochs=3)
    given = (rows[held_out], y[held_out])
    expected = other.fit(rows[train], y[train], epochs=3, validation_data=given, metrics="mae")
    assert np.array_equal(one.parameters, other.parameters)
    assert history.validation_loss == expected.validation_loss
    error = np.abs(other.predict(given[0]) - given[1]).mean()
    assert expected.metrics["mae"][-1] == pytest.approx(error, rel=1e-12)


def test_a_fit_is_resumed(tmp_path: Path) -> None:
    rows, y, file = rows_of("all", "float32"), targets(), tmp_path / "fit"
    whole, cut, resumed = (net_for(rows) for _ in range(3))
    whole.fit(rows, y, epochs=4, batch_size=10)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 10, "checkpoint": file}
    with pytest.raises(Cut):
        cut.fit(rows, y, **settings, checkpoint_every=1, callbacks=cut_after(2))
    resumed.fit(rows, y, **settings, resume=True)
    assert not np.array_equal(cut.parameters, whole.parameters)
    assert np.array_equal(resumed.parameters, whole.parameters)
    whole.save(tmp_path / "net.safetensors")
    loaded = MLP.load(tmp_path / "net.safetensors")
    assert np.array_equal(loaded.predict(rows), whole.predict(rows))


def test_no_level_is_no_input() -> None:
    net = MLP((3, 2), seed=0)
    rows = Expanded([[-1.0], [1.0]], levels=[3])
    assert np.array_equal(net.predict(rows), [net.biases[0], net.biases[0] + net.weights[0][1]])


def test_numbers_that_change_later_stay_within_the_weights() -> None:
    rows = Expanded(np.zeros((4, 2)), pieces=[3], levels=[2])
    net = net_for(rows)
    last = net.predict(np.array([[1, 1, 1, 0, 1]]))[0]
    rows.values[:] = [[-1e30, -7], [1e30, 1e30], [np.nan, np.nan], [-np.inf, np.inf]]
    result = net.predict(rows)
    np.testing.assert_allclose(result[1], last, rtol=1e-12)
    nothing = net.predict(np.zeros((1, 5)))[0]
    np.testing.assert_allclose(result[[0, 2]], [nothing, nothing], rtol=1e-12)
    assert np.isfinite(result).all()


def test_an_engine_keeps_buffers_for_rows_of_a_kind() -> None:
    rows = [Expanded(np.ones((3, 1)), pieces=[4]), Expanded(np.ones((3, 1)), levels=[4])]
    net = net_for(rows[0])
    expected = [net.predict(each.toarray()) for each in rows]
    for _ in range(2):
        for each, outputs in zip(rows, expected, strict=True):
            np.testing.assert_allclose(net.predict(each), outputs, rtol=1e-12)


def test_noise_at_the_inputs_is_refused() -> None:
    rows = rows_of("all")
    each: list[dict[str, Any]] = [{"input_dropout": 0.1}, {"input_noise": 0.1}]
    for rules in each:
        with pytest.raises(ValueError, match=r"X is sparse or expanded: pass X\.toarray"):
            net_for(rows, **rules).fit(rows, targets())


def test_no_buffer_is_as_wide_as_the_inputs() -> None:
    rows = Expanded(np.zeros((3, 2)), plain=1, levels=[50_000])
    net = Net((rows.shape[1], 2))
    engine = Engine(net.network, 1)
    data = Data(rows, np.zeros((3, 2)), np.empty(0))
    parameters = np.zeros(net.network.layout.n_parameters)
    trainer = Trainer(engine, parameters, engine.moments(sparse=True), Adam(), data, 3)
    workspace = trainer.session.workspace
    assert workspace.inputs.size == workspace.panel_rows * workspace.lanes
