"""Sparse rows: the bits of dense ones, whatever the net, the chunks and the threads."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.first_layer.csr import SparseRows
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainers.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network.spec import Network, make_layout
from fastmlp.rules.activations import RULES, identity
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import Adam
from fastmlp.rules.penalties import l2

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


def network_of(sizes: tuple[int, ...], activation: str, dtype: Any) -> Network:
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
    network, dense = network_of(*NETS[net], dtype), matrix_of(dtype)
    rng = np.random.default_rng(2)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    expected = train(network, dense, parameters)
    found = train(network, sparse_of(dense), parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == np.float32 else 1e-11)


@each_dtype
def test_chunks_and_threads_do_not_matter(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = network_of(*NETS["tanh"], dtype), sparse_of(matrix_of(dtype))
    parameters = np.random.default_rng(2).normal(size=network.layout.n_parameters).astype(dtype)
    expected = train(network, x, parameters)
    assert np.array_equal(train(network, x, parameters, n_threads=2), expected)
    monkeypatch.setattr(partition, "chunk_rows", lambda *arguments, **options: 4)
    chunked = train(network, x, parameters)
    np.testing.assert_allclose(chunked, expected, rtol=1e-4 if dtype == np.float32 else 1e-11)


@each_dtype
@pytest.mark.parametrize("net", NETS)
def test_predictions_losses_and_gradients(net: str, dtype: Any) -> None:
    network, dense = network_of(*NETS[net], dtype), matrix_of(dtype)
    rng = np.random.default_rng(3)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    n_outputs = network.layout.sizes[-1]
    y, weight = rng.normal(size=(N_ROWS, n_outputs)).astype(dtype), np.empty(0, dtype)
    found, engine = [], Engine(network, 1)
    for x in (dense, sparse_of(dense)):
        out = np.empty((N_ROWS, n_outputs), dtype)
        engine.predict(parameters, x, out)
        data = Data(x, y, weight)
        loss, gradient = engine.loss_and_gradient(parameters, data)
        found.append([out, engine.loss(parameters, data), loss, gradient])
    for mine, other in zip(*found, strict=True):
        tolerance = 1e-4 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def test_columns_in_any_order_and_twice() -> None:
    dense = np.zeros((2, 5))
    dense[0, [1, 4]], dense[1, 0] = [3.0, 2.0], 1.0
    x = SparseRows(np.array([2.0, 1.5, 1.5, 1.0]), np.array([4, 1, 1, 0]), np.array([0, 3, 4]), 5)
    network = network_of((5, 2), "relu", np.float64)
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
    network = network_of((n_features, 2), "relu", np.float64)
    flat = np.zeros(network.layout.n_parameters)
    data = Data(x, np.zeros((3, 2)), np.empty(0))
    engine = Engine(network, 1)
    trainer = Trainer(engine, flat, engine.moments(sparse=True), Adam(), data, 3)
    assert trainer.session.workspace.inputs.size == 0
    assert trainer.units_per_epoch == 1
