"""Sparse and expanded rows of the first layer; a network's rules as blocks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from conditions import only_compiled
from fitting import Cut, cut_after
from nets import Net
from pairwise import all_pairs

from fastmlp import MLP, Adam, Expanded, fit_many
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels import elementwise, rule_blocks
from fastmlp.backends.cpu.kernels.first_layer import SparseRows
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.records import BLOCK, LINEAR, RELU
from fastmlp.backends.cpu.trainer import Trainer
from fastmlp.backends.protocol import Data
from fastmlp.compiler import block_of
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.network.spec import Network
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.losses import LINKS
from fastmlp.rules.optimizers import OPTIMIZERS, SGD
from fastmlp.rules.updates import N_MOMENTS, PENALTIES
from fastmlp.training import loop
from fastmlp.training.options import FitOptions
from fastmlp.training.request import FitRequest

N_ROWS = 12 if INTERPRETED else 61
# Hidden layers and their activation.
NETS: dict[str, tuple[tuple[int, ...], str]] = {
    "relu": ((20,), "relu"),
    "tanh": ((20,), "tanh"),
    "identity": ((5, 4), "identity"),
    "few units": ((3,), "relu"),
    "many units": ((150,), "tanh"),
    "no hidden layer": ((), "relu"),
}
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
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def sparse_rows(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    width = 40
    dense = rng.normal(size=(N_ROWS, width)) * (rng.uniform(size=(N_ROWS, width)) < 0.1)
    dense[3], dense[:, 7], dense[5] = 0, 0, rng.normal(size=width)
    return scipy.sparse.csr_array(dense.astype(dtype))


def results_on(
    rows: Any, net: str, dtype: str, batch_size: int, n_threads: int = 1
) -> list[Any]:
    hidden, activation = NETS[net]
    rules: dict[str, Any] = {"activation": activation, "dtype": dtype}
    model = MLP((rows.shape[1], *hidden, 3), l2=0.1, seed=2, **rules)
    core: Any = core_of(model)
    engine, state = core
    engine.n_threads = n_threads
    rng = np.random.default_rng(1)
    data = engine.trusted(rows, rng.normal(size=(N_ROWS, 3)), rng.uniform(size=N_ROWS))
    out = np.empty((N_ROWS, 3), dtype)
    engine.predict(model.parameters, data.x, out)
    first = (
        engine.loss(model.parameters, data),
        *engine.loss_and_gradient(model.parameters, data),
    )
    fit = FitRequest(data, FitOptions(2, batch_size))
    loop.fit(engine, state, fit)
    return [out, *first, model.parameters, np.array(fit.history.loss)]


def assert_alike(ours: list[Any], others: list[Any], dtype: str) -> None:
    for mine, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(
            mine, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@pytest.mark.few(12)
@pytest.mark.parametrize(
    ("kind", "net", "batch_size", "dtype"),
    [
        (*case.values(),)
        for case in all_pairs(
            kind=["sparse", *KINDS][: 5 if INTERPRETED else None],
            net=[*NETS],
            batch_size=[1, 10, 100],
            dtype=DTYPES,
        )
    ],
)
def test_results_are_those_of_dense_rows_in_any_chunks_and_on_any_threads(
    kind: str, net: str, batch_size: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "sparse":
        rows = sparse_rows(dtype)
    else:
        rows = rows_of(kind, dtype)
    results = results_on(rows, net, dtype, batch_size)
    assert_alike(results, results_on(rows.toarray(), net, dtype, batch_size), dtype)
    on_two = results_on(rows, net, dtype, batch_size, n_threads=2)
    assert all(
        np.array_equal(one, two) for one, two in zip(results, on_two, strict=True)
    )
    monkeypatch.setattr(partition, "chunk_rows", lambda *arguments, **options: 4)
    assert_alike(results_on(rows, net, dtype, batch_size), results, dtype)


def test_columns_in_any_order_and_twice() -> None:
    dense = np.zeros((2, 5))
    dense[0, [1, 4]] = [3.0, 2.0]
    dense[1, 0] = 1.0
    x = SparseRows(
        np.array([2.0, 1.5, 1.5, 1.0]), np.array([4, 1, 1, 0]), np.array([0, 3, 4]), 5
    )
    network = Net((5, 2)).network
    parameters = np.random.default_rng(0).normal(size=network.layout.n_parameters)
    out, expected = np.empty((2, 2)), np.empty((2, 2))
    engine = Engine(network, 1)
    engine.predict(parameters, x, out)
    engine.predict(parameters, dense, expected)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert x.most_numbers(1) == 3
    assert x.most_numbers(9) == 4


def test_buffers_are_narrower_than_rows() -> None:
    n_features = 50_000
    x = SparseRows(
        np.ones(3), np.array([5, 9, 49_999]), np.array([0, 1, 1, 3]), n_features
    )
    network = Net((n_features, 2)).network
    flat = np.zeros(network.layout.n_parameters)
    data = Data(x, np.zeros((3, 2)), np.empty(0))
    engine = Engine(network, 1)
    trainer = Trainer(engine, flat, engine.moments(sparse=True), Adam(), data, 3)
    assert trainer.session.workspace.inputs.size == 0
    assert trainer.units_per_epoch == 1
    rows = Expanded(np.zeros((3, 2)), plain=1, levels=[50_000])
    net = Net((rows.shape[1], 2))
    engine = Engine(net.network, 1)
    data = Data(rows, np.zeros((3, 2)), np.empty(0))
    parameters = np.zeros(net.network.layout.n_parameters)
    trainer = Trainer(engine, parameters, engine.moments(sparse=True), Adam(), data, 3)
    workspace = trainer.session.workspace
    assert workspace.inputs.size == workspace.panel_rows * workspace.lanes


def rows_of(kind: str, dtype: str = "float64", n_rows: int = N_ROWS) -> Expanded:
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
    inputs = []
    for values in rows.values.tolist():
        row = values[: rows.plain]
        rest = values[rows.plain :]
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
def test_a_fit_with_validation_is_that_on_the_inputs(kind: str) -> None:
    rows = rows_of(kind)
    results = list[list[Any]]()
    for x in (rows, rows.toarray()):
        net = net_for(rows)
        history = net.fit(x, targets(), epochs=3, batch_size=10, validation_split=0.2)
        results.append(
            [net.parameters, net.predict(x), history.loss, history.validation_loss]
        )
    assert_alike(results[0], results[1], "float64")


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
    rows = rows_of("all")
    results = []
    for x in (rows, rows.toarray()):
        net = net_for(rows, (37, 5), **rules)
        net.fit(x, targets(), epochs=3, batch_size=10)
        results.append(net.parameters)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-10, atol=1e-12)


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
    rows = rows_of("all", "float32")
    y = targets()
    alone, together = ([net_for(rows, (n,)) for n in (5, 20, 33)] for _ in range(2))
    for net in alone:
        net.fit(rows, y, epochs=3, batch_size=8)
    fit_many(together, rows, y, epochs=3, batch_size=8)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.parameters, other.parameters)


def test_a_fit_is_resumed(tmp_path: Path) -> None:
    rows = rows_of("all", "float32")
    y = targets()
    file = tmp_path / "fit"
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


def test_no_level_is_no_input_and_noise_is_refused() -> None:
    net = MLP((3, 2), seed=0)
    rows = Expanded([[-1.0], [1.0]], levels=[3])
    assert np.array_equal(
        net.predict(rows), [net.biases[0], net.biases[0] + net.weights[0][1]]
    )
    rows = rows_of("all")
    each: list[dict[str, Any]] = [{"input_dropout": 0.1}, {"input_noise": 0.1}]
    for rules in each:
        with pytest.raises(
            ValueError, match=r"X is sparse or expanded: pass X\.toarray"
        ):
            net_for(rows, **rules).fit(rows, targets())


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
    rows = [
        Expanded(np.ones((3, 1)), pieces=[4]),
        Expanded(np.ones((3, 1)), levels=[4]),
    ]
    net = net_for(rows[0])
    expected = [net.predict(each.toarray()) for each in rows]
    for _ in range(2):
        for each, outputs in zip(rows, expected, strict=True):
            np.testing.assert_allclose(net.predict(each), outputs, rtol=1e-12)


HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parents[1], HERE.parents[2], HERE.parents[3])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def network_of(*names: str, dtype: str = "float64", **fields: Any) -> Network:
    net = Net((3, *[5] * len(names)), dtype=dtype).network
    chosen = tuple(ACTIVATIONS[name] for name in names)
    return net._replace(activations=chosen, **fields)


def test_forms_of_rules() -> None:
    both = rule_blocks.activations(network_of("identity", "relu", "relu", "identity"))
    assert both == ([0] * 4, [LINEAR, RELU, RELU, LINEAR])
    network = network_of("relu", "identity")._replace(
        activations=(relu, ACTIVATIONS["identity"])
    )
    addresses, forms = rule_blocks.activations(network)
    assert forms == [BLOCK, LINEAR]
    assert (
        addresses[0] == block_of(elementwise.activation_loop, "float64", relu).address
    )
    network = network_of("tanh", "sigmoid", link=LINKS["softmax"])
    raw = network.without_output()
    assert raw.activations == (ACTIVATIONS["tanh"], ACTIVATIONS["identity"])
    assert raw.link is LINKS["identity"]
    assert network.link is LINKS["softmax"]


@each_dtype
@pytest.mark.parametrize("name", ["silu", "tanh", "gelu"])
def test_blocks_without_slopes_write_values_alone(
    name: str, dtype: str, rng: Any
) -> None:
    loop = elementwise.activation_loop
    rule = ACTIVATIONS[name]
    alone = block_of(loop, dtype, rule, slopes=False)
    both = block_of(loop, dtype, rule)
    addresses, _ = rule_blocks.activations(
        network_of(name, "relu", dtype=dtype), slopes=False
    )
    assert addresses[0] == alone.address != both.address
    z = rng.normal(scale=20, size=77).astype(dtype)
    values, expected, slopes = (np.full(77, 7, dtype) for _ in range(3))
    alone(z.ctypes.data, values.ctypes.data, slopes.ctypes.data, 77)
    assert (slopes == 7).all()
    both(z.ctypes.data, expected.ctypes.data, slopes.ctypes.data, 77)
    np.testing.assert_array_equal(values, expected)


def relu(z: Any) -> Any:
    return (z if z > 0 else type(z)(0)), type(z)(1)


FORMS: list[Any] = [
    *(kind() for kind in OPTIMIZERS.values()),
    SGD(momentum=0.9),
    SGD(momentum=0.9, nesterov=True),
]


def test_updates_take_state_and_one_penalty_of_ours() -> None:
    for optimizer in FORMS:
        constants = optimizer.coefficients(3, np.full(1, 0.1))[0]
        _, m, v = optimizer.rule(1.0, 2.0, 0.5, 0.25, *constants)
        if v != 0.25:
            moved = 2
        elif m != 0.5:
            moved = 1
        else:
            moved = 0
        assert N_MOMENTS.get(optimizer.rule, 2) == moved
    l1, l2 = ((PENALTIES[name], 0.1) for name in ("l1", "l2"))
    adam = OPTIMIZERS["adam"]()
    results = set[int]()
    for penalty in (l1, l2):
        network = network_of("identity", penalties=(penalty,))
        results.add(rule_blocks.penalised_optimizer(network, adam))
        assert rule_blocks.penalised_optimizer(network, SGD(momentum=0.5)) == 0
    assert len(results - {0}) == 2

    def own(w: Any) -> Any:
        return w * w, w + w

    both = tuple((rule, 0.1) for rule in PENALTIES.values())
    for chosen in ((), both, ((own, 0.1),)):
        network = network_of("identity", penalties=chosen)
        assert rule_blocks.penalised_optimizer(network, OPTIMIZERS["adam"]()) == 0


# A rule in a script has no source, which the translator would read.
PENALISED = """
from test_first_layer import network_of
from fastmlp.backends.cpu.kernels import rule_blocks
from fastmlp.compiler import COMPILER
from fastmlp.rules.optimizers import (Adam, Custom)
from fastmlp.rules.updates import PENALTIES as RULES

def own(w, g, m, v, rate):
    return w - rate * g, m, v

network = network_of("identity", penalties=((RULES["l2"], 0.1),))
optimizer = Adam() if COMPILER == "numba" else Custom(own)
print("block" if rule_blocks.penalised_optimizer(network, optimizer) else "no block")
"""


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["", "numba"])
@only_compiled
def test_numba_compiles_a_penalty_before_any_other(
    compiler: str, python: Callable[..., str]
) -> None:
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *map(str, FOLDERS)])
    assert python(PENALISED, FASTMLP_COMPILER=compiler, PYTHONPATH=path) == "block\n"
