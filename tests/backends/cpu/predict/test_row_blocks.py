"""Predictions of many rows by row blocks: the bits of panels, whatever the threads."""

from typing import Any

import numpy as np
import pytest
from nets import network_of
from panelled import INTERPRETED
from peak_memory import peak_of

from fastmlp import MLP
from fastmlp.backends.cpu.dispatch import cost_model, dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.evaluation import Prediction
from fastmlp.backends.cpu.predict import predictor
from fastmlp.backends.cpu.predict.predictor import Predictor, plain_out, way_for
from fastmlp.backends.cpu.predict.row_blocks import VECTORS, RowBlocks
from fastmlp.backends.cpu.threads import limits
from fastmlp.compiler.target import lanes_of
from fastmlp.model import core_of
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.links import LINKS
from fastmlp.validation.arrays import FINITE_BLOCK

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = (5, 19, 6, 3)
WIDE = [(1, 1), (40, 1), (9, 33, 2), (16, 64, 64, 2), (257, 3), (3, 70, 17)]
UNTOUCHED = 77.0


def some_rows(dtype: str) -> list[int]:
    lanes = lanes_of(np.dtype(dtype).type)
    block = VECTORS * lanes
    return (
        [1, lanes, lanes + 1, block]
        if INTERPRETED
        else [1, 7, lanes, lanes + 1, block, 5 * block + 3]
    )


def assert_same_bits(network: Any, rng: Any) -> None:
    sizes, dtype, scale = network.layout.sizes, network.dtype, 0.7
    parameters = rng.normal(scale=scale, size=network.layout.n_parameters).astype(dtype)
    runner = Engine(network, 1)
    blocks, panels = RowBlocks(runner, network), Prediction(runner, network)
    for n in some_rows(dtype.name):
        x = rng.normal(size=(n, sizes[0])).astype(dtype)
        out, expected = (
            np.full((n + 1, sizes[-1]), UNTOUCHED, dtype),
            np.empty((n, sizes[-1]), dtype),
        )
        panels(parameters, x, expected)
        assert blocks(parameters, x, out[:n])
        assert np.array_equal(out[:n], expected)
        assert (out[n] == UNTOUCHED).all()


@each_dtype
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bits_are_those_of_panels_with_every_activation(
    activation: str, dtype: str, rng: Any
) -> None:
    assert_same_bits(network_of(SIZES, activation, activation, "identity", dtype), rng)


@each_dtype
@pytest.mark.parametrize("link", LINKS)
def test_bits_are_those_of_panels_with_every_link(link: str, dtype: str, rng: Any) -> None:
    assert_same_bits(network_of(SIZES, "relu", "identity", link, dtype), rng)


@each_dtype
@pytest.mark.parametrize("sizes", WIDE[:3] if INTERPRETED else WIDE, ids=str)
def test_bits_are_those_of_panels_at_every_size(
    sizes: tuple[int, ...], dtype: str, rng: Any
) -> None:
    assert_same_bits(network_of(sizes, "relu", "identity", "identity", dtype), rng)


@each_dtype
@pytest.mark.parametrize("long", [False, True], ids=["pool", "region"])
def test_bits_do_not_depend_on_the_threads(
    long: bool, dtype: str, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_model, "pays", lambda work, n_threads: n_threads > 1)
    monkeypatch.setattr(dispatch, "REGION_SECONDS", 0 if long else 1 << 60)
    network = network_of((16, 64, 64, 2), "tanh", "identity", "identity", dtype)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    x = rng.normal(size=(40 if INTERPRETED else 1234, 16)).astype(dtype)
    results = []
    for n_threads in (1, 2, 2, 3):
        runner = Engine(network, n_threads)
        # The pool has more threads than there are cores, if it is asked for them.
        runner.n_threads = min(n_threads, limits.thread_limit()) if long else n_threads
        out, blocks = np.empty((len(x), 2), dtype), RowBlocks(runner, network)
        for _ in range(1 if INTERPRETED else 20):
            out.fill(UNTOUCHED)
            assert blocks(parameters, x, out)
            results.append(out.copy())
    assert all(np.array_equal(result, results[0]) for result in results)


BY_NUMBA = """
import numpy as np
from nets import network_of
from fastmlp.backends.cpu.dispatch import cost_model
from fastmlp.backends.cpu.dispatch.dispatch import Autotuner
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.predict.row_blocks import RowBlocks
from fastmlp.backends.cpu.threads import limits
from fastmlp.compiler import COMPILER

assert COMPILER == "numba"
cost_model.pays = lambda work, n_threads: n_threads > 1
Autotuner.wants_team = lambda self: True
network = network_of((16, 64, 64, 2), "relu", "identity", "identity", "float32")
rng = np.random.default_rng(0)
parameters = rng.normal(size=network.layout.n_parameters).astype(np.float32)
x = rng.normal(size=(1234, 16)).astype(np.float32)
one, several = np.empty((2, 1234, 2), np.float32)
assert RowBlocks(Engine(network, 1), network)(parameters, x, one)
runner = Engine(network, 2)
blocks = RowBlocks(runner, network)
for _ in range(3):
    several.fill(7)
    assert blocks(parameters, x, several)
    assert np.array_equal(one, several)
safe = limits.parallel_is_safe() and runner.n_threads == 2
print(int(blocks.job["team"]) == safe, int(blocks.job["n_parts"]) == 1 + safe)
"""


@pytest.mark.skipif(INTERPRETED, reason="there is nothing to compile")
def test_bits_are_those_of_numbas_own_threads(python: Any) -> None:
    told = python(BY_NUMBA, FASTMLP_COMPILER="numba", NUMBA_NUM_THREADS="2")
    assert told.split() == ["True", "True"]


@each_dtype
def test_rows_are_cut_where_a_call_would_take_long(dtype: str, rng: Any) -> None:
    network = network_of((5, 8, 2), "relu", "identity", "identity", dtype)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    x = rng.normal(size=(100, 5)).astype(dtype)
    runner = Engine(network, 1)
    whole, cut = RowBlocks(runner, network), RowBlocks(runner, network)
    cut._most = 37
    expected, out = np.empty((2, 100, 2), dtype)
    assert whole(parameters, x, expected)
    assert cut(parameters, x, out)
    assert np.array_equal(out, expected)
    x[3, 1] = np.nan
    assert not cut(parameters, x, out)


def large(dtype: Any = "float32", **options: Any) -> tuple[MLP, Any]:
    """A net, and more rows than few."""
    net = MLP((3, 40, 2), dtype=dtype, seed=0, **options)
    x = np.random.default_rng(1).normal(size=(1100, 3)).astype(dtype)
    return net, x


@pytest.fixture
def no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("the slow way")

    monkeypatch.setattr(Predictor, "_checked", fail)


@pytest.mark.usefixtures("no_other_way")
@each_dtype
def test_plain_rows_are_predicted_without_a_copy_or_a_check_beforehand(dtype: str) -> None:
    net, x = large(dtype)
    expected = net.predict(x)
    out = np.empty_like(expected)
    assert net.predict(x, out) is out
    assert np.array_equal(out, expected)
    x.setflags(write=False)
    assert np.array_equal(net.predict(x), expected)
    net.parameters[:] = 0
    assert not net.predict(x).any()


@pytest.mark.skipif(INTERPRETED, reason="plain Python allocates views as it goes")
@pytest.mark.parametrize("sizes", [(3, 40, 2), (3, 900, 900, 2)], ids=["blocks", "in panels"])
@pytest.mark.parametrize("n_rows", [1, 20_000])
def test_a_plain_out_the_predictions_is_all_the_memory_they_take(
    n_rows: int, sizes: tuple[int, ...]
) -> None:
    net = MLP(sizes, seed=0)
    x = np.random.default_rng(1).normal(size=(n_rows, 3)).astype(np.float32)
    out = net.predict(x)
    net.predict(x, out)
    # Rows that go by panels are looked at by blocks before.
    assert peak_of(lambda: net.predict(x, out)) < 5_000 + FINITE_BLOCK
    assert out.nbytes > 2 * (5_000 + FINITE_BLOCK) or n_rows == 1


def test_what_is_not_plain_has_its_own_words_or_the_same_predictions() -> None:
    net, x = large()
    expected = net.predict(x)
    for given in (x.astype(np.float64), np.asfortranarray(x), x.tolist(), np.repeat(x, 2, 0)[::2]):
        assert np.array_equal(net.predict(given), expected)
    for out in (np.empty((2, 1100), np.float32).T, np.empty((1100, 2))):
        with pytest.raises((TypeError, ValueError), match=r"MLP\.predict: out"):
            net.predict(x, out)
    with pytest.raises(ValueError, match="2 features"):
        net.predict(np.ascontiguousarray(x[:, :2]))


def test_predictions_in_the_place_of_the_rows() -> None:
    net, rng = MLP((2, 40, 2), seed=0), np.random.default_rng(2)
    x = rng.normal(size=(1500, 2)).astype(np.float32)
    expected = net.predict(x)
    assert plain_out(x, x, core_of(net).engine.network) is None
    assert net.predict(x, x) is x
    assert np.array_equal(x, expected)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("r", [0, 1099])
def test_rows_that_are_not_finite_are_named(r: int, fault: float) -> None:
    net, x = large()
    x[r, 2] = fault
    with pytest.raises(ValueError, match=rf"got {fault} in row {r}, column 2"):
        net.predict(x)


def test_predictions_that_are_not_finite_are_warned_of() -> None:
    net, x = large()
    net.biases[-1][1] = np.inf
    with pytest.warns(RuntimeWarning, match="not all predictions are finite"):
        assert np.isinf(net.predict(x)[:, 1]).all()


def test_wide_nets_go_by_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of((700, 700, 1), "relu", "identity", "identity", "float32")
    assert way_for(100, network).method == "row blocks"
    wider = network._replace(dtype=np.dtype("float64"))
    assert way_for(100, wider).method == "packed panels"
    net, x = large()
    expected = net.predict(x)
    monkeypatch.setattr(predictor, "BLOCK_BYTES", 0)
    assert np.array_equal(net.predict(x), expected)
