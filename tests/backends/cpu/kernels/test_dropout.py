"""Dropout and noise in every form of a step: the oracle's numbers, the same bits on any threads."""

from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from nets import FORMS, take_form

from fastmlp import EMA, MLP, SGD, Adam, AdamW, Cosine, ScheduleFreeAdamW
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainers import trainer
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.training import loop
from fastmlp.training.options import FitOptions
from fastmlp.training.request import FitRequest

SIZES = (5, 9, 12, 2) if INTERPRETED else (21, 90, 35, 2)
N_ROWS = 20 if INTERPRETED else 200


@pytest.fixture(params=FORMS)
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The batch size of a fit whose steps take a form, however little their work."""
    take_form(request.param, monkeypatch)
    return 1 if request.param == "single row" else 8 if INTERPRETED else 77


def rows_of(dtype: str, n_rows: int = N_ROWS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, SIZES[0])).astype(dtype)
    return X, rng.normal(size=(n_rows, SIZES[-1])).astype(dtype)


def made(**settings: Any) -> MLP:
    return MLP(SIZES, **{"optimizer": SGD(0.01), "seed": 1, "dtype": "float64", **settings})


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_a_fit_is_that_of_the_oracle(activation: str, batch_size: int) -> None:
    n_rows = N_ROWS if batch_size > 1 else 20
    X, y = rows_of("float64", n_rows)
    n_steps = 2 * -(-n_rows // batch_size)
    drawn: dict[str, Any] = {"dropout": [0.3, Cosine(0.5)], "input_dropout": 0.1}
    # A linear net on single rows with noise runs away.
    noise = 0.0 if activation == "identity" else 0.2
    net = made(activation=activation, input_noise=noise, **drawn)
    weights, biases = ([a.copy() for a in arrays] for arrays in (net.weights, net.biases))
    history = net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=False)
    batches = [list(range(i, min(i + batch_size, n_rows))) for i in range(0, n_rows, batch_size)]
    cosine = 0.25 * (1 + np.cos(np.pi * np.arange(n_steps) / n_steps))
    expected, *layers = naive.train(
        weights,
        biases,
        X,
        y,
        [batches, batches],
        optimizer="sgd",
        settings={"learning_rate": 0.01},
        activations=[activation] * 2,
        dropout={
            "key": net._state.key,
            "hidden": [0.3, cosine],
            "inputs": 0.1,
            "noise": noise,
        },
    )
    np.testing.assert_allclose(history.loss, expected, rtol=1e-10)
    for result, wanted in zip((*net.weights, *net.biases), layers[0] + layers[1], strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-11)


def test_chunks_of_any_size_drop_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a gradient run over chunks in another order; nothing else changes."""
    X, y = rows_of("float64")
    results = []
    for rows in (8, 24, N_ROWS):
        monkeypatch.setattr(partition, "chunk_rows", lambda layout, n, rows=rows, **_: min(rows, n))
        trainer.TRAININGS.clear()
        net = made(dropout=0.3, input_dropout=0.1, input_noise=0.2)
        net.fit(X, y, epochs=2, batch_size=N_ROWS // 2)
        results.append(net.parameters.copy())
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=0, atol=1e-12)


def test_nothing_is_dropped_but_in_fit() -> None:
    X, y = rows_of("float32")
    net = made(dropout=0.5, input_dropout=0.5, input_noise=3.0, dtype="float32")
    plain = made(dtype="float32")
    loss, gradient = plain.loss_and_gradient(X, y)
    result = net.loss_and_gradient(X, y)
    assert result[0] == loss
    assert np.array_equal(result[1], gradient)
    for each in (net, plain):
        each.apply_gradient(gradient)
    assert net.parameters.tobytes() == plain.parameters.tobytes()
    assert net.predict(X).tobytes() == plain.predict(X).tobytes()
    history = net.fit(X, y, epochs=1, batch_size=N_ROWS, validation_data=(X, y))
    plain.parameters[:] = net.parameters
    assert history.validation_loss[0] == pytest.approx(np.mean((plain.predict(X) - y) ** 2), 1e-5)


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.01),
        Adam(0.01, average=EMA(0.9)),
        AdamW(0.01, decay_biases=False, global_clipnorm=0.5),
        ScheduleFreeAdamW(0.01),
    ],
    ids=repr,
)
def test_rates_of_0_have_the_bits_of_a_net_without(optimizer: Any, batch_size: int) -> None:
    """The numbers of dropout are behind those of all others in a step's row; a schedule that is at
    0 keeps all units, and so does a rate that rounds to no threshold."""

    def nothing(steps: Any, total: int) -> Any:
        return np.zeros(len(steps))

    X, y = rows_of("float32")
    settings: dict[str, Any] = {"dtype": "float32", "activation": "tanh", "optimizer": optimizer}
    nets = [
        made(dropout=rate, layer_rates=[0.5, 1.0, 1.0], **settings) for rate in (0.0, nothing, 1e-6)
    ]
    for net in nets:
        net.fit(X, y, epochs=2, batch_size=batch_size)
    assert len({net.parameters.tobytes() for net in nets}) == 1


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_hidden_layers_are_dropped_on_sparse_rows(activation: str) -> None:
    X, y = rows_of("float64")
    X[np.abs(X) < 0.5] = 0
    results = []
    for rows in (X, scipy.sparse.csr_array(X)):
        net = made(dropout=0.3, activation=activation)
        engine, state = core_of(net)
        data = engine.trusted(rows, y, None)
        loop.fit(engine, state, FitRequest(data, FitOptions(2, 16)))
        results.append(net.parameters.copy())
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [{"input_dropout": 0.1}, {"input_noise": 0.1}])
def test_inputs_of_sparse_rows_cannot_be_dropped(given: dict[str, float]) -> None:
    X, y = rows_of("float64")
    engine, state = core_of(made(**given))
    data = engine.trusted(scipy.sparse.csr_array(X), y, None)
    with pytest.raises(ValueError, match=r"need dense rows, and X is sparse or expanded: pass"):
        loop.fit(engine, state, FitRequest(data, FitOptions(1, 16)))
