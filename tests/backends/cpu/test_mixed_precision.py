"""Training in mixed precision: against NumPy with rounded operands, and the same bits always."""

from types import SimpleNamespace
from typing import Any

import naive
import numpy as np
import pytest
from conditions import count_as_wide
from nets import distance, train
from panelled import operand

from fastmlp import MLP, SGD, Adam, fit_many
from fastmlp.backends.cpu import session
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainers.trainer import TRAININGS
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network import spec

N_ROWS, WIDE = (9, 4) if INTERPRETED else (150, 33)
SHAPES = [(5, 6, 3)] if INTERPRETED else [(70, 66, 3), (33, 64, 65, 97), (130, 32, 128, 128, 1)]
# No wide layer has few outputs for its inputs: such a one would be held transposed.
SHARED = (5, 6, 7, 3) if INTERPRETED else (65, 170, 90, 40)


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(WIDE, monkeypatch)
    if INTERPRETED:
        monkeypatch.setattr(spec, "FEWEST_OUTPUTS", WIDE)


def draw(sizes: Any, n_rows: int = N_ROWS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n_rows, sizes[0])), rng.normal(size=(n_rows, sizes[-1]))
    return x.astype(np.float32), y.astype(np.float32)


def make(sizes: Any, **settings: Any) -> MLP:
    return MLP(sizes, **{"compute_dtype": "bfloat16", "seed": 3, "n_threads": 1, **settings})


def naive_gradient(net: MLP, x: Any, y: Any, **model: Any) -> Any:
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model["rounded"] = operand(net.layer_sizes, WIDE, net.compute_dtype)
    value, weights, biases = naive.gradient(w, b, x.astype(float), y.astype(float), **model)
    return value, naive.flatten(weights, biases)


def check_step(
    sizes: Any, n_rows: int, activation: str, batch: int, setting: Any = "bfloat16", **settings: Any
) -> None:
    options: dict[str, Any] = {"activation": activation, "compute_dtype": setting, **settings}
    net, (x, y) = make(sizes, optimizer=SGD(1.0), **options), draw(sizes)
    x, y = x[:n_rows], y[:n_rows]
    before = net.parameters.copy()
    activations = [activation] * (len(sizes) - 2)
    value, expected = naive_gradient(net, x, y, activations=activations, **settings)
    history = net.fit(x, y, epochs=1, batch_size=batch)
    assert history.loss[0] == pytest.approx(value, rel=3e-5)
    error, size = np.abs(before - net.parameters - expected), np.abs(expected).max()
    # A number that is summed in another order may be rounded to its other neighbour.
    assert error.max() <= 2e-3 * size
    assert np.median(error) <= 2e-5 * size


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_a_step_is_that_of_rounded_operands(sizes: Any, activation: str) -> None:
    for n_rows in (N_ROWS, N_ROWS - 1, 2):
        check_step(sizes, n_rows, activation, n_rows)


@pytest.mark.parametrize("pattern", ["110", "010", "100"])
def test_a_step_of_told_layers_is_that_of_rounded_operands(pattern: str) -> None:
    names = ["bfloat16" if each == "1" else "float32" for each in pattern]
    check_step((3, 19, 18, 2), N_ROWS, "tanh", N_ROWS, names)


def test_a_step_with_penalties_is_that_of_rounded_operands() -> None:
    check_step(SHAPES[0], N_ROWS, "relu", N_ROWS, l2=0.3, l1=0.1)


def test_a_batch_in_chunks_is_that_of_rounded_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1 if INTERPRETED else 37

    def chunks(*given: Any, **options: Any) -> Any:
        return partition.Partition(max(rows, 2))

    monkeypatch.setattr(session, "partition_of", chunks)
    check_step(SHAPES[0], N_ROWS, "tanh", N_ROWS)


def test_a_last_batch_of_one_row_is_that_of_rounded_operands() -> None:
    sizes, rule = SHAPES[0], ["relu"]
    net, (x, y) = make(sizes, optimizer=SGD(1.0)), draw(sizes, 5)
    first = make(sizes, optimizer=SGD(1.0))
    first.fit(x[:4], y[:4], epochs=1, batch_size=4, shuffle=False)
    _, expected = naive_gradient(first, x[4:], y[4:], activations=rule)
    net.fit(x, y, epochs=1, batch_size=4, shuffle=False)
    error = np.abs(first.parameters - net.parameters - expected)
    assert error.max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("settings", [{}, {"optimizer": Adam(0.01, global_clipnorm=0.1)}], ids=repr)
def test_bits_do_not_depend_on_company(settings: Any) -> None:
    x, y = draw(SHARED)
    nets = [make(SHARED, **settings, seed=seed) for seed in range(3)]
    fit_many(nets, x, y, epochs=2, batch_size=50)
    for seed, net in enumerate(nets):
        alone = make(SHARED, **settings, seed=seed)
        alone.fit(x, y, epochs=2, batch_size=50)
        assert alone.parameters.tobytes() == net.parameters.tobytes()


def test_sparse_rows_train_a_first_layer_in_float32() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x, y = draw(SHARED)
    x[np.abs(x) < 1] = 0
    order, sizes, results = np.arange(N_ROWS)[None], SHARED, []
    for compute_dtype in ("bfloat16", None):
        net = make(sizes, compute_dtype=compute_dtype)
        engine = Engine(net._network, 1)
        data = engine.trusted(sparse.csr_matrix(x), y, None)
        arrays: Any = SimpleNamespace(network=net._network)
        results.append(train(arrays, net.parameters, data, SGD(1.0), order, N_ROWS).parameters)
    start = make(sizes).parameters
    mixed, plain = ((start - after)[: sizes[0] * sizes[1]] for after in results)
    # Its deltas come through the products of the layers above.
    assert 0 < distance(mixed, plain) < 0.02


def test_only_asked_for_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def phase(name: str, *which: Any, **options: Any) -> Any:
        made.append(name)
        return rule_blocks.phase(name, *which, **options)

    monkeypatch.setattr(session, "phase", phase)
    TRAININGS.clear()  # else a session of another test may serve
    x, y = draw(SHARED)
    make(SHARED, compute_dtype=None).fit(x, y, epochs=1)
    make((3, 2, 1)).fit(x[:, :3], y[:, 0], epochs=1)
    assert made
    assert not rule_blocks.PAIRED.keys() & set(made)
    make(SHARED).fit(x, y, epochs=1)
    assert {*rule_blocks.TRAIN_PAIRED} <= set(made)


def test_single_rows_train_in_float32() -> None:
    x, y = draw(SHARED, 4)
    nets = [make(SHARED, compute_dtype=given) for given in ("bfloat16", None)]
    for net in nets:
        net.fit(x, y, epochs=1, batch_size=1)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()


def test_predictions_and_gradients_are_of_float32() -> None:
    x, y = draw(SHARED)
    nets = [make(SHARED, compute_dtype=given) for given in ("bfloat16", None)]
    mixed, plain = (np.hstack(net.loss_and_gradient(x, y)) for net in nets)
    assert np.array_equal(mixed, plain)
    assert np.array_equal(nets[0].predict(x), nets[1].predict(x))


def test_divergence_is_noticed() -> None:
    x, y = draw(SHARED)
    net = make(SHARED, activation="identity", optimizer=SGD(1e6))
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning):
        history = net.fit(x, y, epochs=9)
    assert history.status.name == "DIVERGED"
    assert np.isfinite(net.parameters).all()
    assert net.parameters.shape == before.shape
