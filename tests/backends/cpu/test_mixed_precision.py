"""Mixed precision in training and predictions:
NumPy with rounded operands, the same bits.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import naive
import numpy as np
import pytest
from conditions import count_as_wide, needs_a_team, needs_threads
from nets import distance, train
from panelled import operand

from fastmlp import MLP, SGD, Adam, fit_many
from fastmlp.backends.cpu import dispatch, session
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.cpu.tuning import ROW_BLOCK
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network import spec
from fastmlp.validation.expanded import Expanded

N_ROWS, WIDE = (9, 4) if INTERPRETED else (150, 33)
SHAPES = (
    [(5, 6, 3)]
    if INTERPRETED
    else [(70, 66, 3), (33, 64, 65, 97), (130, 32, 128, 128, 1)]
)
# No wide layer has few outputs for its inputs: such a one would be held transposed.
SHARED = (5, 6, 7, 3) if INTERPRETED else (65, 170, 90, 40)


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(WIDE, monkeypatch)
    if INTERPRETED:
        monkeypatch.setattr(spec, "FEWEST_OUTPUTS", WIDE)


def draw(sizes: Any, n_rows: int = N_ROWS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, sizes[0]))
    y = rng.normal(size=(n_rows, sizes[-1]))
    return x.astype(np.float32), y.astype(np.float32)


def make(sizes: Any, **settings: Any) -> MLP:
    return MLP(
        sizes, **{"compute_dtype": "bfloat16", "seed": 3, "n_threads": 1, **settings}
    )


def naive_gradient(net: MLP, x: Any, y: Any, **model: Any) -> Any:
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model["rounded"] = operand(net.layer_sizes, WIDE, net.compute_dtype)
    value, weights, biases = naive.gradient(
        w, b, x.astype(float), y.astype(float), **model
    )
    return value, naive.flatten(weights, biases)


def check_step(
    sizes: Any,
    n_rows: int,
    activation: str,
    batch: int,
    setting: Any = "bfloat16",
    **settings: Any,
) -> None:
    options: dict[str, Any] = {
        "activation": activation,
        "compute_dtype": setting,
        **settings,
    }
    net = make(sizes, optimizer=SGD(1.0), **options)
    (x, y) = draw(sizes)
    x = x[:n_rows]
    y = y[:n_rows]
    before = net.parameters.copy()
    activations = [activation] * (len(sizes) - 2)
    value, expected = naive_gradient(net, x, y, activations=activations, **settings)
    history = net.fit(x, y, epochs=1, batch_size=batch)
    assert history.loss[0] == pytest.approx(value, rel=3e-5)
    error = np.abs(before - net.parameters - expected)
    size = np.abs(expected).max()
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


def test_penalties_and_a_last_row_round_their_operands() -> None:
    check_step(SHAPES[0], N_ROWS, "relu", N_ROWS, l2=0.3, l1=0.1)
    sizes = SHAPES[0]
    rule = ["relu"]
    net = make(sizes, optimizer=SGD(1.0))
    (x, y) = draw(sizes, 5)
    first = make(sizes, optimizer=SGD(1.0))
    first.fit(x[:4], y[:4], epochs=1, batch_size=4, shuffle=False)
    _, expected = naive_gradient(first, x[4:], y[4:], activations=rule)
    net.fit(x, y, epochs=1, batch_size=4, shuffle=False)
    error = np.abs(first.parameters - net.parameters - expected)
    assert error.max() <= 2e-3 * np.abs(expected).max()


def test_a_batch_in_chunks_is_that_of_rounded_operands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = 1 if INTERPRETED else 37

    def chunks(*given: Any, **options: Any) -> Any:
        return partition.Partition(max(rows, 2))

    monkeypatch.setattr(session, "partition_of", chunks)
    check_step(SHAPES[0], N_ROWS, "tanh", N_ROWS)


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": Adam(0.01, global_clipnorm=0.1)}], ids=repr
)
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
    order = np.arange(N_ROWS)[None]
    sizes = SHARED
    results = []
    for compute_dtype in ("bfloat16", None):
        net = make(sizes, compute_dtype=compute_dtype, initializer="he_uniform")
        engine = Engine(net._network, 1)
        data = engine.trusted(sparse.csr_matrix(x), y, None)
        arrays: Any = SimpleNamespace(network=net._network)
        results.append(
            train(arrays, net.parameters, data, SGD(1.0), order, N_ROWS).parameters
        )
    start = make(sizes, initializer="he_uniform").parameters
    mixed, plain = ((start - after)[: sizes[0] * sizes[1]] for after in results)
    # Its deltas come through the products of the layers above.
    assert 0 < distance(mixed, plain) < 0.02


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def phase(name: str, *which: Any, **options: Any) -> Any:
        names.append(name)
        return rule_blocks.phase(name, *which, **options)

    monkeypatch.setattr(session, "phase", phase)
    TRAININGS.clear()  # else a session of another test may serve
    return names


def test_only_asked_for_anything_is_compiled(made: list[str]) -> None:
    x, y = draw(SHARED)
    make(SHARED, compute_dtype=None).fit(x, y, epochs=1)
    make((3, 2, 1)).fit(x[:, :3], y[:, 0], epochs=1)
    assert made
    assert not rule_blocks.PAIRED.keys() & set(made)
    make(SHARED).fit(x, y, epochs=1)
    assert {*rule_blocks.TRAIN_PAIRED} <= set(made)


def test_single_rows_gradients_and_narrow_layers_are_of_float32() -> None:
    x, y = draw(SHARED, 4)
    nets = [make(SHARED, compute_dtype=given) for given in ("bfloat16", None)]
    for net in nets:
        net.fit(x, y, epochs=1, batch_size=1)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    x, y = draw(SHARED)
    nets = [make(SHARED, compute_dtype=given) for given in ("bfloat16", None)]
    mixed, plain = (np.hstack(net.loss_and_gradient(x, y)) for net in nets)
    assert np.array_equal(mixed, plain)
    assert np.array_equal(nets[0].predict(x), nets[1].predict(x))
    sizes = (3, 3, 2) if INTERPRETED else (20, 32, 32, 3)
    net, x = predicting(sizes), draw_rows(sizes)
    assert net.predict(x, **MIXED).tobytes() == net.predict(x).tobytes()


N_PREDICTED = 9 if INTERPRETED else 2 * ROW_BLOCK + 43
PREDICTED = (6, 5, 4, 3) if INTERPRETED else (65, 170, 33, 40)
PREDICTED_SHAPES = (
    [PREDICTED]
    if INTERPRETED
    else [PREDICTED, (70, 66, 3), (33, 64, 65, 97), (130, 32, 128, 1)]
)
MIXED: dict[str, Any] = {"compute_dtype": "bfloat16"}


def predicting(sizes: Any = PREDICTED, **settings: Any) -> MLP:
    net = MLP(sizes, **{"seed": 3, "n_threads": 1, **settings})
    for arrays in net.biases:
        arrays[:] = np.random.default_rng(1).normal(size=arrays.shape)
    return net


def draw_rows(sizes: Any = PREDICTED, n_rows: int = N_PREDICTED) -> Any:
    return np.random.default_rng(0).normal(size=(n_rows, sizes[0])).astype(np.float32)


def expected_of(net: MLP, x: Any, activation: str = "relu", **model: Any) -> Any:
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model["activations"] = [activation] * (len(w) - 1)
    model["rounded"] = operand(net.layer_sizes, WIDE)
    return naive.predict(w, b, x.astype(float), **model)


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("sizes", PREDICTED_SHAPES, ids=str)
def test_predictions_are_those_of_rounded_operands(sizes: Any, activation: str) -> None:
    net = predicting(sizes, activation=activation)
    x = draw_rows(sizes)
    for n_rows in (N_PREDICTED, 2, 1):
        expected = expected_of(net, x[:n_rows], activation)
        error = np.abs(net.predict(x[:n_rows], **MIXED) - expected)
        # A number that is summed in another order may be rounded to its other
        # neighbour.
        assert error.max() <= 2e-3 * np.abs(expected).max()
        assert np.median(error) <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("pattern", ["010", "101"])
def test_layers_that_are_told(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "FEWEST_OUTPUTS", 1)
    dtypes = tuple("bfloat16" if each == "1" else "float32" for each in pattern)
    net = predicting()
    x = draw_rows()
    options = dict[str, Any](compute_dtype=dtypes)
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model = {
        "activations": ["relu", "relu"],
        "rounded": operand(PREDICTED, WIDE, dtypes),
    }
    expected = naive.predict(w, b, x.astype(float), **model)
    error = np.abs(net.predict(x, **options) - expected)
    assert error.max() <= 2e-3 * np.abs(expected).max()
    assert np.median(error) <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson"])
def test_links_and_raw_outputs(loss: str) -> None:
    net = predicting(loss=loss)
    x = draw_rows()
    links = net.predict(x, **MIXED)
    np.testing.assert_allclose(
        links, expected_of(net, x, loss=loss), rtol=0.02, atol=2e-3
    )
    raw = net.predict_raw(x, **MIXED)
    assert not np.array_equal(raw, net.predict_raw(x))
    np.testing.assert_allclose(links, naive.LINKS[naive.LINK_OF[loss]](raw), rtol=1e-5)


@pytest.mark.few(24)
def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    net, x = predicting(), draw_rows()
    whole = net.predict(x, **MIXED)
    for rows in (
        slice(0, 1),
        slice(3, 8),
        slice(1, N_PREDICTED),
        slice(N_PREDICTED - 1, N_PREDICTED),
    ):
        assert net.predict(x[rows], **MIXED).tobytes() == whole[rows].tobytes()
    pieces = list(net.predict_batches(x, batch_rows=7, **MIXED))
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@needs_threads
@needs_a_team
def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    x = draw_rows(n_rows=7 * ROW_BLOCK + 5)
    results = []
    for n_threads in (1, 2):
        for activation in ("relu", "tanh"):
            results.append(
                predicting(n_threads=n_threads, activation=activation).predict(
                    x, **MIXED
                )
            )
    assert results[0].tobytes() == results[2].tobytes()
    assert results[1].tobytes() == results[3].tobytes()


def test_parameters_are_live() -> None:
    net, x = predicting(), draw_rows()
    before = net.predict(x, **MIXED)
    net.weights[1][:] *= 2
    after = net.predict(x, **MIXED)
    assert not np.array_equal(before, after)
    assert after.tobytes() == make_like(net).predict(x, **MIXED).tobytes()


def make_like(net: MLP) -> MLP:
    other = predicting()
    other.parameters[:] = net.parameters
    return other


def test_out_and_rows_that_are_to_be_converted() -> None:
    net, x = predicting(), draw_rows()
    expected = net.predict(x, **MIXED)
    out = np.empty((N_PREDICTED, PREDICTED[-1]), np.float32)
    assert net.predict(x, out, **MIXED) is out
    assert out.tobytes() == expected.tobytes()
    for rows in (x.astype(float), np.asfortranarray(x), x[::-1][::-1], x.tolist()):
        assert net.predict(rows, **MIXED).tobytes() == expected.tobytes()
    over = x.ravel()[: out.size].reshape(out.shape)
    assert net.predict(x, over, **MIXED).tobytes() == expected.tobytes()


def test_numbers_that_are_not_finite_are_errors_or_divergences() -> None:
    net, x = predicting(), draw_rows()
    x[5, 3] = np.nan
    with pytest.raises(ValueError, match="nan in row 5, column 3"):
        net.predict(x, **MIXED)
    x, y = draw(SHARED)
    net = make(SHARED, activation="identity", optimizer=SGD(1e6))
    before = net.parameters.copy()
    with pytest.warns(RuntimeWarning):
        history = net.fit(x, y, epochs=9)
    assert history.status.name == "DIVERGED"
    assert np.isfinite(net.parameters).all()
    assert net.parameters.shape == before.shape


def of_both(x: Any) -> Iterator[Any]:
    engine = Engine(predicting()._network, 1)
    net = predicting()
    for given in (None, "bfloat16"):
        out = np.empty((x.shape[0], PREDICTED[-1]), np.float32)
        predictor: Any = engine.predictor(net.parameters, compute_dtype=given)
        predictor.write(engine.features(x), out)
        yield out


def test_sparse_and_expanded_rows_have_a_first_layer_in_float32() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x = draw_rows()
    x[np.abs(x) < 1] = 0
    w, b = (
        [p.astype(float) for p in arrays]
        for arrays in (predicting().weights, predicting().biases)
    )
    n_plain = PREDICTED[0] - 5
    values = np.hstack([x[:, : n_plain + 1], np.arange(N_PREDICTED)[:, None] % 2])
    for rows in (
        sparse.csr_matrix(x),
        Expanded(values, plain=n_plain, pieces=[3], levels=[2]),
    ):
        plain, mixed = of_both(rows)
        hidden = np.maximum(rows.toarray().astype(float) @ w[0] + b[0], 0)
        model = {"activations": ["relu"], "rounded": operand(PREDICTED[1:], WIDE)}
        expected = naive.predict(w[1:], b[1:], hidden, **model)
        error = np.abs(mixed - expected)
        assert np.median(error) <= 2e-5 * np.abs(expected).max()
        assert np.abs(mixed - plain).max() > error.max()


def test_predictions_do_not_depend_on_what_a_net_was_trained_in() -> None:
    x = draw_rows()
    nets = [predicting(compute_dtype=given) for given in ("bfloat16", None)]
    for arguments in ({}, MIXED):
        first, second = (net.predict(x, **arguments) for net in nets)
        assert first.tobytes() == second.tobytes()


def test_for_predictions_too_nothing_is_compiled_unasked(made: list[str]) -> None:
    net = predicting(compute_dtype="bfloat16")
    x = draw_rows()
    net._on_device().evaluation(
        net._on_device().data(x, x[:, : PREDICTED[-1]], None, "test")
    )
    list(of_both(x[:3]))[:1]
    made.clear()
    next(of_both(x))
    assert not rule_blocks.PAIRED.keys() & {*made}
    net.predict(x, **MIXED)
    assert {*made} & rule_blocks.PAIRED.keys() == {*rule_blocks.FORWARD_PAIRED}
