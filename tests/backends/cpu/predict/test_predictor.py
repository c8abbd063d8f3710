"""Predictions of few rows, of row blocks and of boosted trees:
the bits of any other call.
"""

import copy
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import pytest
from conditions import only_compiled
from fitting import in_threads, peak_of
from nets import network_of
from panelled import INTERPRETED
from ranked import on_ranks

from fastmlp import EMA, LBFGS, MLP, SGD, Adam, NetGroup, fit_many, jit
from fastmlp._process.locks import NetLock
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.predict import predictor
from fastmlp.backends.cpu.predict.predictor import Prediction, Predictor, Way, way_for
from fastmlp.backends.cpu.predict.row_blocks import VECTORS, RowBlocks
from fastmlp.backends.cpu.predict.small_batch import SmallBatch, TiledRows
from fastmlp.backends.cpu.predict.trees import TreeNodes, add_trees
from fastmlp.backends.cpu.tuning import GIL_ROWS, ONE_BY_ONE
from fastmlp.cluster import ThreadCommunicator
from fastmlp.compiler.target import lanes_of
from fastmlp.network.spec import Network
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS
from fastmlp.validation.arrays import FINITE_BLOCK

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = (5, 19, 6, 3)
# In plain Python 64 rows of every rule took minutes.
MOST = 6 if numba.config.DISABLE_JIT else GIL_ROWS
N_ROWS = MOST + 9
UNTOUCHED = 77.0


@pytest.fixture(autouse=True)
def fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "GIL_ROWS", MOST)


def some_rows(dtype: str) -> list[int]:
    lanes = lanes_of(np.dtype(dtype).type)
    few = [N_ROWS, 1, lanes, lanes + 1, VECTORS * lanes]
    return few if INTERPRETED else [*few, 7, 5 * VECTORS * lanes + 3]


def assert_same_bits(network: Network, rng: Any) -> None:
    dtype = network.dtype
    sizes = network.layout.sizes
    parameters = rng.normal(scale=0.7, size=network.layout.n_parameters).astype(dtype)
    runner = Engine(network, 1)
    blocks = RowBlocks(runner, network)
    tiles = TiledRows(runner, network)
    panels = Prediction(runner, network)
    for n_rows in some_rows(dtype.name):
        x = rng.normal(size=(n_rows, sizes[0])).astype(dtype)
        out, expected = np.full((2, n_rows + 1, sizes[-1]), UNTOUCHED, dtype)
        panels(parameters, x, expected[:-1])
        assert np.isfinite(expected).all()
        for way in (blocks, tiles):
            out.fill(UNTOUCHED)
            assert way(parameters, x, out[:-1])
            assert np.array_equal(out, expected)
            assert (out[n_rows] == UNTOUCHED).all()
        if n_rows == N_ROWS:
            assert Engine(network, 1).predict(parameters, x, out[:-1]) is None
            assert np.array_equal(out, expected)
            assert_few_have_the_bits(network, parameters, x, expected)


def assert_few_have_the_bits(
    network: Network, parameters: Any, x: Any, expected: Any
) -> None:
    way = way_for(ONE_BY_ONE + 1, network)
    quick = SmallBatch(network, parameters, way.quick, way.method, NetLock())
    for n in sorted({1, 2, 3, 5, quick.most}):
        for first in (0, 3, N_ROWS - n):
            rows = slice(first, first + n)
            out = np.empty((n, expected.shape[1]), network.dtype)
            result: Any = quick(x[rows], None)
            assert np.array_equal(result, expected[rows])
            assert quick(x[rows], out) is out
            assert np.array_equal(out, expected[rows])
            quick.write(x[rows], out)
            assert np.array_equal(out, expected[rows])
            first_call = Engine(network, 1).predict(parameters, x[rows], out)
            assert isinstance(first_call, SmallBatch)
            assert np.array_equal(out, expected[rows])


# Sums of more than 256 products come in blocks.
WIDE = [
    *[(1, 1), (1, 1, 1), (40, 1), (3, 70), (9, 33, 2)],
    *[(16, 64, 64, 2), (257, 3), (600, 5, 2), (3, 70, 17), (194, 512, 2)],
]
RULES = [
    *((SIZES, name, name, "identity") for name in ACTIVATIONS),
    *((SIZES, "relu", "identity", name) for name in LINKS),
    *(
        (sizes, "tanh", "identity", "identity")
        for sizes in (WIDE[:5] if INTERPRETED else WIDE)
    ),
    *(
        (sizes, "relu", "identity", "identity")
        for sizes in (WIDE[2:5] if INTERPRETED else WIDE)
    ),
]


@pytest.mark.few(12)
@each_dtype
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_every_way_has_the_same_bits(rules: Any, dtype: str, rng: Any) -> None:
    sizes, activation, output, link = rules
    assert_same_bits(network_of(sizes, activation, output, link, dtype), rng)


def has_quick_way(net: MLP) -> bool:
    predictor: Any = net._predictor
    return predictor is not None and predictor._small is not None


def net_and_rows(dtype: Any = "float32") -> tuple[MLP, Any]:
    """A net that has predicted few rows before, and three rows."""
    net = MLP((4, 6, 2), activation="tanh", dtype=dtype, seed=0)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(dtype)
    net.predict(x)
    assert has_quick_way(net)
    return net, x


def slowly(net: MLP, x: Any, out: Any = None) -> Any:
    other = copy.deepcopy(net)
    assert other._predictor is None
    return other.predict(x, out)


def test_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_and_rows()

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("the slow way")

    for slower in ("_checked", "_by_plain_blocks"):
        monkeypatch.setattr(Predictor, slower, fail)
    assert net.predict(x).shape == (3, 2)
    assert net.predict(x[:1]).shape == (1, 2)


# One row, in lanes, in tiles with and without the GIL, in blocks, by panels.
EACH_WAY = {
    "one by one": ((4, 6, 2), 1),
    "in lanes": ((4, 6, 2), 9),
    "few tiles": ((90, 500, 20), 3),
    "tiles": ((900, 600, 9), 7),
    "blocks": ((4, 6, 2), 1500),
    "many tiles": ((900, 600, 9), 60),
}
WRITTEN = [(*way, held) for way in EACH_WAY.values() for held in (True, False)]


@only_compiled
@pytest.mark.parametrize(("sizes", "n_rows", "held"), WRITTEN, ids=str)
def test_each_write_of_parameters_shows_in_the_next_predictions(
    sizes: tuple[int, ...],
    n_rows: int,
    held: bool,
    monkeypatch: pytest.MonkeyPatch,
    rng: Any,
) -> None:
    monkeypatch.setattr(predictor, "TILED_WEIGHTS", 50_000)
    net = MLP(sizes, seed=0, optimizer=SGD(1e-3))
    x = rng.normal(size=(n_rows, sizes[0])).astype(np.float32)
    y = rng.normal(size=(n_rows, sizes[-1])).astype(np.float32)
    other = MLP(sizes, seed=1, optimizer=SGD(1e-3))
    group = NetGroup([net])
    views: list[Any] = (
        [net.weights[0][1], net.biases[-1].reshape(1, -1).T] if held else []
    )
    group.train_on_batch(x, y)

    def learn() -> None:
        with jit.learner(net, batch_size=n_rows) as handle:
            shown = [net.predict(x) for _ in range(2)][1]
            jit.train_on_batch(handle, x, y)
            assert not np.array_equal(net.predict(x), shown)

    def set_weights() -> None:
        weights: Any = net.weights
        weights[0] = 0.01

    def fit_with(optimizer: Any, **options: Any) -> None:
        net.optimizer = optimizer
        net.fit(x, y, epochs=1, **options)

    def train_alone(communicator: ThreadCommunicator) -> None:
        net.fit(x, y, epochs=1, communicator=communicator)

    writes: list[Callable[[], Any]] = [
        *(partial(view.__iadd__, 0.002) for view in views),
        lambda: net.parameters.__iadd__(1e-4),
        lambda: net.weights[-1].__isub__(0.001),
        set_weights,
        lambda: np.asarray(net.biases[-1].data).fill(1.5),
        lambda: net.fit(x, y, epochs=1),
        lambda: net.train_on_batch(x, y),
        lambda: net.train_on_batch(x, y),
        lambda: net.train_on_gradient(x, y),
        lambda: group.train_on_batch(x, y),
        lambda: group.train_on_batch(x, y),
        lambda: fit_many([net, other], x, y, epochs=1),
        learn,
        lambda: on_ranks(1, train_alone),
        lambda: net.apply_gradient(np.ones(net.parameters.size)),
        lambda: fit_with(LBFGS()),
        lambda: fit_with(Adam(1e-3, average=EMA())),
        lambda: net.train_on_batch(x, y),
        lambda: net.fit(x, y, epochs=2, early_stopping=1, validation_data=(x, -y)),
    ]
    before = net.predict(x)
    for write in writes:
        write()
        after = net.predict(x)
        assert not np.array_equal(after, before)
        for same in (
            slowly(net, x),
            unpickled(net).predict(x),
            copy.copy(net).predict(x),
        ):
            assert np.array_equal(after, same)
        for _ in range(2):
            assert np.array_equal(after, net.predict(x))
        before = after
    if n_rows > 1 and sizes[1] >= 500 and not held:
        n_packed = net._state.lock.packed.n_packed
        assert np.array_equal(before, net.predict(x))
        assert net._state.lock.packed.n_packed == n_packed


@only_compiled
def test_parameters_of_a_step_are_predicted_whole(
    monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    monkeypatch.setattr(predictor, "TILED_WEIGHTS", 50_000)
    net = MLP((900, 1100, 9), seed=0)
    x = rng.normal(size=(3, 900)).astype(np.float32)
    write, target = TiledRows._write, net._state
    values = rng.normal(size=target.parameters.size).astype(np.float32)

    def meanwhile(self: Any, parameters: Any, x: Any, out: Any) -> bool:
        result = write(self, parameters, x, out)
        if parameters is target.parameters:
            target.assign(values)
        return result

    monkeypatch.setattr(TiledRows, "_write", meanwhile)
    assert np.array_equal(net.predict(x), slowly(net, x))
    monkeypatch.setattr(TiledRows, "_write", write)
    assert np.array_equal(net.predict(x), slowly(net, x))


def test_raw_outputs_leave_the_quick_way_and_every_call_has_an_array() -> None:
    net, x = net_and_rows()
    one = net.predict(x)
    other = net.predict(-x)
    assert not np.shares_memory(one, other)
    assert np.array_equal(one, slowly(net, x))
    net = MLP((4, 6, 3), loss="cross_entropy", seed=0)
    x = np.ones((2, 4), np.float32)
    probabilities = net.predict(x)
    raw = net.predict_raw(x)
    assert np.array_equal(net.predict(x), probabilities)
    assert np.array_equal(net.predict_raw(x), raw)
    assert not np.array_equal(raw, probabilities)


def read_only(array: Any) -> Any:
    array = array.copy()
    array.setflags(write=False)
    return array


def with_number(x: Any, number: float) -> Any:
    x = x.copy()
    x[-1, -1] = number
    return x


class Own(np.ndarray[Any, Any]):
    """An array of a class of its own."""


ROWS: dict[str, Any] = {
    "as they should be": lambda x: x,
    "none": lambda x: x[:0],
    "more than few": lambda x: np.concatenate([x] * 2),
    "one feature less": lambda x: np.ascontiguousarray(x[:, 1:]),
    "one feature more": lambda x: np.hstack([x, x[:, :1]]),
    "one dimension": lambda x: x[0],
    "float64": lambda x: x.astype(np.float64),
    "other bytes": lambda x: x.astype(x.dtype.newbyteorder()),
    "objects": lambda x: x.astype(object),
    "list": lambda x: x.tolist(),
    "by column": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1],
    "read-only": read_only,
    "subclass": lambda x: x.view(Own),
    "masked": np.ma.masked_array,
    "nan": lambda x: with_number(x, np.nan),
    "infinite": lambda x: with_number(x, np.inf),
    "huge": lambda x: with_number(x, 3e38),
    "minus zero": lambda x: with_number(x, -0.0),
    "denormal": lambda x: with_number(x, 1e-45),
}
OUTS: dict[str, Any] = {
    "none": lambda: None,
    "as it should be": lambda: np.zeros((3, 2), np.float32),
    "rows less": lambda: np.zeros((2, 2), np.float32),
    "columns more": lambda: np.zeros((3, 3), np.float32),
    "flat": lambda: np.zeros(6, np.float32),
    "three dimensions": lambda: np.zeros((3, 2, 1), np.float32),
    "float64": lambda: np.zeros((3, 2)),
    "by column": lambda: np.zeros((3, 2), np.float32, order="F"),
    "strided": lambda: np.zeros((3, 4), np.float32)[:, ::2],
    "read-only": lambda: read_only(np.zeros((3, 2), np.float32)),
    "subclass": lambda: np.zeros((3, 2), np.float32).view(Own),
    "other bytes": lambda: np.zeros((3, 2), np.dtype(np.float32).newbyteorder()),
    "list": lambda: [[0.0, 0.0]] * 3,
}


def outcome(predict: Any, x: Any, out: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            result = predict(x, out)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    same = out is None or result is out
    return type(result), result.dtype, result.shape, result.tobytes(), same


@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_any_kind_have_the_outcome_of_the_slow_way(rows: str) -> None:
    net, x = net_and_rows()
    given = ROWS[rows](x)
    expected = outcome(lambda x, out: slowly(net, x, out), given, None)
    assert has_quick_way(net)
    assert outcome(net.predict, given, None) == expected
    assert outcome(net.predict, given, None) == expected  # and of another call after it


@pytest.mark.parametrize(
    "rows", ["as they should be", "nan", "one feature less", "none"]
)
@pytest.mark.parametrize("place", OUTS)
def test_places_of_any_kind_have_the_outcome_of_the_slow_way(
    place: str, rows: str
) -> None:
    net, x = net_and_rows()
    given = ROWS[rows](x)
    expected = outcome(lambda x, out: slowly(net, x, out), given, OUTS[place]())
    assert outcome(net.predict, given, OUTS[place]()) == expected


def test_what_is_wrong_writes_nothing_and_not_finite_is_warned_of() -> None:
    net, x = net_and_rows()
    out = np.full((3, 2), 5, np.float32)
    with pytest.raises(ValueError, match=r"MLP\.predict"):
        net.predict(with_number(x, np.nan), out)
    assert (out == 5).all()
    net, x = large()
    net.biases[-1][1] = np.inf
    with pytest.warns(RuntimeWarning, match="not all predictions are finite"):
        assert np.isinf(net.predict(x)[:, 1]).all()


def unpickled(net: MLP) -> Any:
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, copy.copy, unpickled])
def test_a_copy_predicts_by_its_own_parameters(make_copy: Any) -> None:
    net, x = net_and_rows()
    before = net.predict(x)
    other = make_copy(net)
    assert np.array_equal(other.predict(x), before)
    shared = np.shares_memory(other.parameters, net.parameters)
    other.parameters[:] = 0
    for _ in range(2):
        assert not other.predict(x).any()
        assert np.array_equal(
            net.predict(x), np.zeros_like(before) if shared else before
        )


def test_a_copy_outlives_the_net_it_was_made_of() -> None:
    net, x = net_and_rows()
    before = net.predict(x)
    other = copy.deepcopy(net)
    quick = net._predictor
    assert quick is not None
    assert other._predictor is None  # addresses mean nothing in a copy
    del net
    assert np.array_equal(other.predict(x), before)
    assert np.array_equal(
        quick(x, None), before
    )  # it keeps all that it points to alive


@each_dtype
def test_two_threads_at_a_time(dtype: str) -> None:
    net, _ = net_and_rows(dtype)
    rng = np.random.default_rng(2)
    tables = [rng.normal(size=(n, 4)).astype(dtype) for n in (1, 4)]
    expected = [slowly(net, x) for x in tables]
    wrong: list[Any] = []

    def predict(i: int) -> None:
        for _ in range(20 if INTERPRETED else 3000):
            if not np.array_equal(net.predict(tables[i]), expected[i]):
                wrong.append(i)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(predict, 2)
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_two_threads_may_both_be_the_first() -> None:
    net, x = net_and_rows()
    expected = slowly(net, x)
    results: list[Any] = []
    for _ in range(20):
        net._predictor = None
        results += in_threads(lambda i: net.predict(x), 2)
    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result in results)


WAYS: list[tuple[tuple[int, ...], int, Way]] = [
    ((16, 64, 64, 2), 1, Way("one by one", 4)),
    ((16, 64, 64, 2), 5, Way("in lanes", 333)),
    ((16, 64, 64, 2), 334, Way("row blocks", 0)),
    ((784, 128, 10), 1, Way("one by one", 4)),
    ((784, 128, 10), 2, Way("row tiles", 17)),
    ((784, 512, 512, 10), 10_000, Way("row tiles", 2)),
    ((784, 256, 128, 10), 6, Way("row tiles", 7)),
    ((784, 512, 512, 10), 1, Way("row tiles", 2)),
    ((784, 512, 512, 10), 4, Way("row tiles", 2)),
    ((128, 1024, 1024, 10), 4, Way("row tiles", 1)),
]


@pytest.mark.parametrize(("sizes", "n_rows", "way"), WAYS)
def test_products_decide_the_way(
    sizes: tuple[int, ...], n_rows: int, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "GIL_ROWS", GIL_ROWS)
    monkeypatch.setattr(predictor, "TILED_WEIGHTS", 50_000)
    monkeypatch.setattr(predictor, "LED_WEIGHTS", 250_000)
    network = network_of(sizes, "relu", "identity", "identity", "float32")
    assert way_for(n_rows, network) == way


TEAMS_ROWS = [
    ((784, 512, 512, 10), 4, 7),
    ((128, 1024, 1024, 10), 4, 4),
    ((784, 128, 10), 2, 49),
    ((784, 3000, 3000, 10), 2, 1),
]


@pytest.mark.parametrize(("sizes", "n_rows", "most"), TEAMS_ROWS)
def test_calls_that_a_team_may_share_hold_the_gil_for_more_rows(
    sizes: tuple[int, ...], n_rows: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "GIL_ROWS", GIL_ROWS)
    monkeypatch.setattr(predictor, "TILED_WEIGHTS", 50_000)
    network = network_of(sizes, "relu", "identity", "identity", "float32")
    assert way_for(n_rows, network, n_threads=2) == Way("row tiles", most)


def test_the_rows_taken_are_bounded() -> None:
    network = network_of((10, 10, 10), "tanh", "identity", "identity", "float32")
    parameters = np.zeros(network.layout.n_parameters, np.float32)
    for most in (1, 3, MOST):
        quick = SmallBatch(network, parameters, most, "in lanes", NetLock())
        for n in range(1, MOST + 2):
            taken = quick(np.ones((n, 10), np.float32), None)
            assert (taken is not None) == (n <= most)


def test_few_rows_of_a_wide_net_reuse_one_small_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    class Counted(SmallBatch):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(1)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(predictor, "SmallBatch", Counted)
    net = MLP((600, 900, 2), seed=0)
    x = np.ones((4, 600), np.float32)
    expected = net.predict(x[:1])
    net.predict(x[:2])
    made.clear()
    for n in (1, 2) * 5:
        assert np.array_equal(net.predict(x[:n]), np.repeat(expected, n, axis=0))
    assert not made


@each_dtype
def test_bits_are_of_one_thread(
    dtype: str, rng: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "pays", lambda work, n_threads: n_threads > 1)
    network = network_of((16, 64, 64, 2), "tanh", "identity", "identity", dtype)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    x = rng.normal(size=(40 if INTERPRETED else 1234, 16)).astype(dtype)
    results = []
    for n_threads in (1, 2, 2, 3):
        runner = Engine(network, n_threads)
        # The pool has more threads than there are cores, if it is asked for them.
        runner.n_threads = n_threads
        out = np.empty((len(x), 2), dtype)
        blocks = RowBlocks(runner, network)
        for _ in range(1 if INTERPRETED else 20):
            out.fill(UNTOUCHED)
            assert blocks(parameters, x, out)
            results.append(out.copy())
    assert all(np.array_equal(result, results[0]) for result in results)


@each_dtype
def test_rows_are_cut_where_a_call_would_take_long(dtype: str, rng: Any) -> None:
    network = network_of((5, 8, 2), "relu", "identity", "identity", dtype)
    parameters = rng.normal(size=network.layout.n_parameters).astype(dtype)
    x = rng.normal(size=(100, 5)).astype(dtype)
    runner = Engine(network, 1)
    whole = RowBlocks(runner, network)
    cut = RowBlocks(runner, network)
    cut._most = 37
    expected, out = np.empty((2, 100, 2), dtype)
    assert whole(parameters, x, expected)
    assert cut(parameters, x, out)
    assert np.array_equal(out, expected)
    x[3, 1] = np.nan
    assert not cut(parameters, x, out)


def large(dtype: Any = "float32", **options: Any) -> tuple[MLP, Any]:
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
def test_plain_rows_are_predicted_without_a_copy_or_a_check_beforehand(
    dtype: str,
) -> None:
    net, x = large(dtype)
    expected = net.predict(x)
    out = np.empty_like(expected)
    assert net.predict(x, out) is out
    assert np.array_equal(out, expected)
    x.setflags(write=False)
    assert np.array_equal(net.predict(x), expected)
    net.parameters[:] = 0
    assert not net.predict(x).any()


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="plain Python allocates views as it goes")
@pytest.mark.parametrize(
    "sizes", [(3, 40, 2), (3, 900, 900, 2)], ids=["blocks", "in panels"]
)
@pytest.mark.parametrize("n_rows", [1, 20_000])
def test_a_plain_out_is_all_the_memory_they_take(
    n_rows: int, sizes: tuple[int, ...]
) -> None:
    net = MLP(sizes, seed=0)
    x = np.random.default_rng(1).normal(size=(n_rows, 3)).astype(np.float32)
    out = net.predict(x)
    net.predict(x, out)
    # Rows that go by panels are looked at by blocks before.
    assert peak_of(lambda: net.predict(x, out)) < 5_000 + FINITE_BLOCK
    assert out.nbytes > 2 * (5_000 + FINITE_BLOCK) or n_rows == 1


def test_rows_in_another_form_have_the_same_predictions() -> None:
    net, x = large()
    expected = net.predict(x)
    for given in (
        x.astype(np.float64),
        np.asfortranarray(x),
        x.tolist(),
        np.repeat(x, 2, 0)[::2],
    ):
        assert np.array_equal(net.predict(given), expected)


def test_an_out_of_another_order_is_refused() -> None:
    net, x = large()
    with pytest.raises(ValueError, match=r"MLP\.predict: out"):
        net.predict(x, np.empty((2, 1100), np.float32).T)


def test_an_out_of_another_dtype_is_refused() -> None:
    net, x = large()
    with pytest.raises(ValueError, match=r"MLP\.predict: out"):
        net.predict(x, np.empty((1100, 2)))


def test_rows_with_too_few_features_are_refused() -> None:
    net, x = large()
    with pytest.raises(ValueError, match="2 features"):
        net.predict(np.ascontiguousarray(x[:, :2]))


@pytest.mark.parametrize("fault", [np.nan, np.inf])
@pytest.mark.parametrize("r", [0, 1099])
def test_rows_that_are_not_finite_are_named(r: int, fault: float) -> None:
    net, x = large(activation="tanh")  # of an infinity 1
    x[r, 2] = fault
    with pytest.raises(ValueError, match=rf"got {fault} in row {r}, column 2"):
        net.predict(x)


def test_wide_nets_go_by_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "TILED_WEIGHTS", 1 << 62)
    network = network_of((700, 700, 1), "relu", "identity", "identity", "float32")
    assert way_for(100, network).method == "row blocks"
    wider = network._replace(dtype=np.dtype("float64"))
    assert way_for(100, wider).method == "packed panels"
    net, x = large()
    expected = net.predict(x)
    monkeypatch.setattr(predictor, "BLOCK_BYTES", 0)
    assert np.array_equal(net.predict(x), expected)


NAN = np.nan


def test_trees_are_added() -> None:
    """Two trees: a number, then levels 1,
    33 and 255 of the second column; and a leaf alone.
    """
    words = np.zeros(8, np.int64)
    words[0] = 1 << 1
    words[1] = 1 << 1
    words[7] = -(1 << 31)
    nodes = TreeNodes(
        roots=np.array([0, 5]),
        features=np.array([0, 1, -1, -1, -1, -1]),
        numbers=np.array([0.5, 0.0, 1.0, 2.0, 4.0, 8.0]),
        children=np.array([[1, 4, 4], [2, 3, 3], *[[0, 0, 0]] * 4]),
        places=np.array([-1, 0, -1, -1, -1, -1]),
        sets=words,
    )
    levels = [1, 33, 255, 0, 65, NAN, 300, -1, 1, 1]
    X = np.array([[0.5, 0, 0, 0, 0, 0, 0, 0, 1, NAN], levels]).T
    wide = np.zeros((20, 4))
    wide[::2, ::2] = X
    for given in (X, np.ascontiguousarray(X), wide[::2, ::2]):
        out = np.full((10, 2), 16.0, order="F")
        add_trees(given, out, nodes)
        assert out[:, 0].tolist() == [17, 17, 17, *[18] * 5, 20, 20]
        assert (out[:, 1] == 24).all()
    with pytest.raises(
        ValueError, match="out must have columns of float64, with 10 rows"
    ):
        add_trees(X, out[1:], nodes)
