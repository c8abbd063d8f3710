"""Dropout, noise and clipping by norm in every form of a step: the oracle's numbers."""

from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from nets import FORMS, PENALTY_SETS, Net, Run, distance, orders, take_form, train
from scipy.sparse import csr_matrix

from fastmlp import EMA, MLP, SGD, Adam, AdamW, Cosine, ScheduleFreeAdamW, Status
from fastmlp.backends.cpu import trainer
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.plan import partition, plan
from fastmlp.backends.protocol import Data
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.rules.optimizer_protocol import Optimizer, coefficients_of
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
        dropout={"key": net._state.key, "hidden": [0.3, cosine], "inputs": 0.1, "noise": noise},
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


CLIPS: list[Any] = [{"clipnorm": 0.3}, {"global_clipnorm": 0.3}]
each_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: next(iter(clip)))
NORM_SIZES, NORM_BATCH = ((17, 18, 10, 3), 19) if INTERPRETED else ((17, 80, 20, 5), 35)
NORM_ROWS = 2 * NORM_BATCH
RATE = 0.05


def by_hand(
    net: Net, parameters: Any, data: Data, batches: list[Any], name: str, limit: float
) -> Any:
    parameters, layout = parameters.astype(np.float64), net.network.layout
    engine = Engine(net.network, 1)
    starts = [*layout.weights, *layout.biases]
    seen: list[float] = []
    assert isinstance(data.x, np.ndarray)
    for rows in batches:
        part = Data(data.x[rows], data.y[rows], data.weight[rows])
        slopes = engine.loss_and_gradient(parameters, part)[1].astype(np.float64)
        variables = np.split(slopes, starts[1:]) if name == "clipnorm" else [slopes]
        norms = [float(np.linalg.norm(variable)) for variable in variables]
        seen += norms
        pairs = zip(variables, norms, strict=True)
        parameters -= RATE * np.concatenate(
            [variable * min(1, limit / norm) for variable, norm in pairs]
        )
    return parameters, seen


@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("form", [*FORMS, "non-temporal"])
def test_every_form_of_a_step_clips_as_the_formulas_do_on_any_threads(
    form: str, name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(NORM_SIZES, penalties=PENALTY_SETS[-1])
    parameters, data = net.draw(rng, NORM_ROWS, weighted=True)
    order = orders(rng, 1 if INTERPRETED else 2, NORM_ROWS)
    batch_size = 1 if form == "single row" else NORM_BATCH
    batches = [
        rows
        for epoch in order
        for rows in np.split(epoch, range(batch_size, NORM_ROWS, batch_size))
    ]
    free, norms = by_hand(net, parameters, data, batches, name, np.inf)
    limit = float(np.median(norms))
    expected, norms = by_hand(net, parameters, data, batches, name, limit)
    assert min(norms) < limit < max(norms)
    assert distance(free, expected) > 1e-3
    take_form(form, monkeypatch)
    if form == "non-temporal":
        monkeypatch.setattr(plan, "NON_TEMPORAL_BYTES", 0)
    clip: dict[str, Any] = {name: limit}
    runs: list[Run] = []
    # Uncompiled no team gathers.
    for n_threads in (1, 2) if INTERPRETED else (1, 2, 4):
        arguments = (net, parameters, data, SGD(RATE, **clip), order, batch_size)
        runs.append(train(*arguments, n_threads=n_threads))
        assert runs[-1].parameters.tobytes() == runs[0].parameters.tobytes()
        assert runs[-1].losses.tobytes() == runs[0].losses.tobytes()
    assert distance(runs[0].parameters, expected) <= 1e-12


@each_clip
def test_sparse_rows_are_clipped_as_dense_ones(clip: Any, rng: np.random.Generator) -> None:
    net = Net(NORM_SIZES, penalties={"l2": 0.3})
    parameters, dense = net.draw(rng, 70)
    dense.x[rng.uniform(size=dense.x.shape) < 0.8] = 0
    engine, order, ends = Engine(net.network, 1), orders(rng, 2, 70), []
    optimizer: Optimizer = Adam(RATE, **clip)
    for data in (dense, dense._replace(x=engine.features(csr_matrix(dense.x)))):
        here, sparse = parameters.copy(), data is not dense
        trainer = engine.trainer(here, engine.moments(sparse=sparse), optimizer, data, 35)
        coefficients = coefficients_of(optimizer, 1, np.full(4, RATE))
        trainer.run(order, coefficients, np.zeros(2), 0, trainer.units_per_epoch * 2)
        trainer.store()
        ends.append(here)
    assert distance(ends[1], ends[0]) <= 1e-12


def spoiled(z: Any) -> Any:
    """Of zero, which padding has, NaN."""
    return z * (z / z), type(z)(1)


@pytest.mark.slow
@each_clip
def test_padding_does_not_count(clip: Any) -> None:
    X = np.random.default_rng(0).uniform(1, 2, (20, 3))
    nets = [
        MLP((3, 5, 2), activation=rule, optimizer=SGD(RATE, **clip), dtype="float64", seed=0)
        for rule in (spoiled, "identity")
    ]
    for net in nets:
        assert net.fit(X, X[:, :2], epochs=3).status is Status.COMPLETED
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-10)


@each_clip
@pytest.mark.filterwarnings("ignore:fit diverged")
def test_a_norm_that_is_not_finite_is_a_divergence(clip: Any) -> None:
    """Loss, gradient and the parameters of a plain step are finite, the sum of squares is not."""
    X, y = np.full((4, 2), 1e200), np.ones(4)
    for optimizer, status in ((SGD(RATE), "COMPLETED"), (SGD(RATE, **clip), "DIVERGED")):
        net = MLP((2, 1), loss="mae", optimizer=optimizer, dtype="float64", seed=0)
        before = net.parameters.tobytes()
        assert net.fit(X, y, epochs=1, batch_size=4).status is Status[status]
        assert (net.parameters.tobytes() == before) is (status == "DIVERGED")


@each_clip
def test_squares_that_float32_cannot_hold_are_summed(clip: Any) -> None:
    net = MLP((2, 1), loss="mae", optimizer=SGD(RATE, **clip), seed=0)
    before = net.parameters.copy()
    net.fit(np.full((4, 2), 1e30, "f4"), np.ones(4, "f4"), epochs=1, batch_size=4)
    limit = next(iter(clip.values()))
    change = np.linalg.norm(net.weights[0].ravel() - before[:2])
    assert change == pytest.approx(RATE * limit, rel=1e-4)


@each_clip
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_a_step_of_ones_own_is_clipped_as_in_a_fit(frozen: bool, clip: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    nets = [
        MLP((3, 5, 2), optimizer=Adam(RATE, **clip), l2=0.5, dtype="float64", seed=0)
        for _ in range(2)
    ]
    for net in nets:
        net.trainable[0] = not frozen
    for _ in range(5):
        nets[0].fit(X, X[:, :2], epochs=1, batch_size=30, shuffle=False)
        nets[1].apply_gradient(nets[1].loss_and_gradient(X, X[:, :2])[1])
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-12)
