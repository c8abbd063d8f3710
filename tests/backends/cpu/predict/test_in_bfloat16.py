"""Predictions in bfloat16: against NumPy with rounded operands, and the same bits always."""

from collections.abc import Iterator
from typing import Any

import naive
import numpy as np
import pytest
from conditions import count_as_wide, needs_a_team, needs_threads
from fitting import in_threads
from panelled import operand

from fastmlp import MLP
from fastmlp.backends.cpu import dispatch, session
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.backends.cpu.tuning import ROW_BLOCK
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.network import spec
from fastmlp.validation.expanded import Expanded

N_ROWS, WIDE = (9, 4) if INTERPRETED else (2 * ROW_BLOCK + 43, 33)
SIZES = (6, 5, 4, 3) if INTERPRETED else (65, 170, 33, 40)
SHAPES = [SIZES] if INTERPRETED else [SIZES, (70, 66, 3), (33, 64, 65, 97), (130, 32, 128, 1)]
MIXED: dict[str, Any] = {"compute_dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(WIDE, monkeypatch)


def make(sizes: Any = SIZES, **settings: Any) -> MLP:
    net = MLP(sizes, **{"seed": 3, "n_threads": 1, **settings})
    for arrays in net.biases:
        arrays[:] = np.random.default_rng(1).normal(size=arrays.shape)
    return net


def draw(sizes: Any = SIZES, n_rows: int = N_ROWS) -> Any:
    return np.random.default_rng(0).normal(size=(n_rows, sizes[0])).astype(np.float32)


def expected_of(net: MLP, x: Any, activation: str = "relu", **model: Any) -> Any:
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model["activations"] = [activation] * (len(w) - 1)
    model["rounded"] = operand(net.layer_sizes, WIDE)
    return naive.predict(w, b, x.astype(float), **model)


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_predictions_are_those_of_rounded_operands(sizes: Any, activation: str) -> None:
    net, x = make(sizes, activation=activation), draw(sizes)
    for n_rows in (N_ROWS, 2, 1):
        expected = expected_of(net, x[:n_rows], activation)
        error = np.abs(net.predict(x[:n_rows], **MIXED) - expected)
        # A number that is summed in another order may be rounded to its other neighbour.
        assert error.max() <= 2e-3 * np.abs(expected).max()
        assert np.median(error) <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("pattern", ["010", "101"])
def test_layers_that_are_told(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "FEWEST_OUTPUTS", 1)
    dtypes = tuple("bfloat16" if each == "1" else "float32" for each in pattern)
    net, x, options = make(), draw(), dict[str, Any](compute_dtype=dtypes)
    w, b = ([p.astype(float) for p in arrays] for arrays in (net.weights, net.biases))
    model = {"activations": ["relu", "relu"], "rounded": operand(SIZES, WIDE, dtypes)}
    expected = naive.predict(w, b, x.astype(float), **model)
    error = np.abs(net.predict(x, **options) - expected)
    assert error.max() <= 2e-3 * np.abs(expected).max()
    assert np.median(error) <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "poisson"])
def test_links_and_raw_outputs(loss: str) -> None:
    net, x = make(loss=loss), draw()
    links = net.predict(x, **MIXED)
    np.testing.assert_allclose(links, expected_of(net, x, loss=loss), rtol=0.02, atol=2e-3)
    raw = net.predict_raw(x, **MIXED)
    assert not np.array_equal(raw, net.predict_raw(x))
    np.testing.assert_allclose(links, naive.LINKS[naive.LINK_OF[loss]](raw), rtol=1e-5)


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    net, x = make(), draw()
    whole = net.predict(x, **MIXED)
    for rows in (slice(0, 1), slice(3, 8), slice(1, N_ROWS), slice(N_ROWS - 1, N_ROWS)):
        assert net.predict(x[rows], **MIXED).tobytes() == whole[rows].tobytes()
    pieces = list(net.predict_batches(x, batch_rows=7, **MIXED))
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@needs_threads
@needs_a_team
def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    x, results = draw(n_rows=7 * ROW_BLOCK + 5), []
    for n_threads in (1, 2):
        for activation in ("relu", "tanh"):
            results.append(make(n_threads=n_threads, activation=activation).predict(x, **MIXED))
    assert results[0].tobytes() == results[2].tobytes()
    assert results[1].tobytes() == results[3].tobytes()


def test_bits_do_not_depend_on_calls_at_the_same_time() -> None:
    net, x = make(), draw()
    expected, results = net.predict(x, **MIXED), dict[int, Any]()

    def predict(i: int) -> None:
        results[i] = net.predict(x, **(MIXED if i % 2 else {}))

    in_threads(predict, 6)
    plain = net.predict(x)
    for i, arrays in results.items():
        assert arrays.tobytes() == (expected if i % 2 else plain).tobytes()


def test_parameters_are_live() -> None:
    net, x = make(), draw()
    before = net.predict(x, **MIXED)
    net.weights[1][:] *= 2
    after = net.predict(x, **MIXED)
    assert not np.array_equal(before, after)
    assert after.tobytes() == make_like(net).predict(x, **MIXED).tobytes()


def make_like(net: MLP) -> MLP:
    other = make()
    other.parameters[:] = net.parameters
    return other


def test_out_and_rows_that_are_to_be_converted() -> None:
    net, x = make(), draw()
    expected, out = net.predict(x, **MIXED), np.empty((N_ROWS, SIZES[-1]), np.float32)
    assert net.predict(x, out, **MIXED) is out
    assert out.tobytes() == expected.tobytes()
    for rows in (x.astype(float), np.asfortranarray(x), x[::-1][::-1], x.tolist()):
        assert net.predict(rows, **MIXED).tobytes() == expected.tobytes()
    over = x.ravel()[: out.size].reshape(out.shape)
    assert net.predict(x, over, **MIXED).tobytes() == expected.tobytes()


def test_numbers_that_are_not_finite_are_errors() -> None:
    net, x = make(), draw()
    x[5, 3] = np.nan
    with pytest.raises(ValueError, match="nan in row 5, column 3"):
        net.predict(x, **MIXED)


def of_both(x: Any) -> Iterator[Any]:
    """Predictions of rows that are no plain array, in float32 and in bfloat16."""
    engine, net = Engine(make()._network, 1), make()
    for given in (None, "bfloat16"):
        out = np.empty((x.shape[0], SIZES[-1]), np.float32)
        predictor: Any = engine.predictor(net.parameters, compute_dtype=given)
        predictor.write(engine.features(x), out)
        yield out


def test_sparse_and_expanded_rows_have_a_first_layer_in_float32() -> None:
    sparse, x = pytest.importorskip("scipy.sparse"), draw()
    x[np.abs(x) < 1] = 0
    w, b = ([p.astype(float) for p in arrays] for arrays in (make().weights, make().biases))
    n_plain = SIZES[0] - 5
    values = np.hstack([x[:, : n_plain + 1], np.arange(N_ROWS)[:, None] % 2])
    for rows in (sparse.csr_matrix(x), Expanded(values, plain=n_plain, pieces=[3], levels=[2])):
        plain, mixed = of_both(rows)
        hidden = np.maximum(rows.toarray().astype(float) @ w[0] + b[0], 0)
        model = {"activations": ["relu"], "rounded": operand(SIZES[1:], WIDE)}
        expected = naive.predict(w[1:], b[1:], hidden, **model)
        error = np.abs(mixed - expected)
        assert np.median(error) <= 2e-5 * np.abs(expected).max()
        assert np.abs(mixed - plain).max() > error.max()


def test_predictions_without_wide_layers_are_those_of_float32() -> None:
    sizes = (3, 3, 2) if INTERPRETED else (20, 32, 32, 3)
    net, x = make(sizes), draw(sizes)
    assert net.predict(x, **MIXED).tobytes() == net.predict(x).tobytes()


def test_predictions_do_not_depend_on_what_a_net_was_trained_in() -> None:
    x = draw()
    nets = [make(compute_dtype=given) for given in ("bfloat16", None)]
    for arguments in ({}, MIXED):
        first, second = (net.predict(x, **arguments) for net in nets)
        assert first.tobytes() == second.tobytes()


def test_only_asked_for_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def phase(name: str, *which: Any, **options: Any) -> Any:
        made.append(name)
        return rule_blocks.phase(name, *which, **options)

    monkeypatch.setattr(session, "phase", phase)
    net, x = make(compute_dtype="bfloat16"), draw()
    net._on_device().evaluation(net._on_device().data(x, x[:, : SIZES[-1]], None, "test"))
    list(of_both(x[:3]))[:1]
    made.clear()
    next(of_both(x))
    assert not rule_blocks.PAIRED.keys() & {*made}
    net.predict(x, **MIXED)
    assert {*made} & rule_blocks.PAIRED.keys() == {*rule_blocks.FORWARD_PAIRED}
