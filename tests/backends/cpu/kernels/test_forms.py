"""Forms of a step, with dropout, noise and clipping:
bits of the plain form, oracle's numbers.
"""

from functools import partial
from typing import Any

import naive
import numpy as np
import pytest
import scipy.sparse
from conditions import only_compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    FORMS,
    PENALTY_SETS,
    Net,
    distance,
    oracle_gradient,
    orders,
    scene,
    take_form,
    train,
)
from pairwise import all_pairs

from fastmlp import EMA, MLP, SGD, Adam, AdamW, Cosine, ScheduleFreeAdamW, Status
from fastmlp.backends.cpu import session, tuning
from fastmlp.backends.cpu.engine import Engine
from fastmlp.backends.cpu.kernels.forward_backward import EVALUATE, TRAIN
from fastmlp.backends.cpu.kernels.step import forward_backward_by_panels
from fastmlp.backends.cpu.plan import partition
from fastmlp.backends.cpu.plan.partition import microbatch_rows, rows_by_microbatches
from fastmlp.backends.cpu.plan.records import FEATURES, BlockAddresses, Layer, Watch
from fastmlp.backends.cpu.plan.records import Net as NetRecord
from fastmlp.backends.cpu.trainer import TRAININGS
from fastmlp.backends.cpu.tuning import LEAST_PACKED, STRIP_ROWS
from fastmlp.compiler import COMPILER, block_of
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.model import core_of
from fastmlp.network.spec import make_layout
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.training import loop
from fastmlp.training.options import FitOptions
from fastmlp.training.request import FitRequest

DTYPES = ["float32", "float64"]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_dtype
def test_a_loss_alone_computes_no_deltas(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = scene(
        monkeypatch, Net((17, 90, 33, 5), "relu", dtype=dtype), 45, by_panels=True
    )
    by_panels = block_of(forward_backward_by_panels, dtype)
    losses = at.session.plan.strip_losses[:6]
    at.gradient(lambda: by_panels(0, at.net, 2, TRAIN, 0))
    trained = losses.copy()
    at.session.workspace.deltas.fill(7)
    losses.fill(0)
    by_panels(0, at.net, 2, EVALUATE, 0)
    assert losses.tobytes() == trained.tobytes()
    assert (at.session.workspace.deltas == 7).all()


@only_compiled
@each_dtype
@pytest.mark.parametrize("split_layer", [0, 1, 2])
@pytest.mark.skipif(LEAST_PACKED[0] > 96, reason="packs no rows")
def test_packed_rows_same(
    split_layer: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net((130, 100, 98, 3), "relu", dtype=dtype)
    at = scene(monkeypatch, net, 133, split_layer=split_layer, by_panels=True)
    by_rows = at.session.blocks["forward_backward"]
    by_panels = forward_backward_by_panels
    blocks = at.session.plan.blocks[0]
    ways = (by_rows, block_of(by_panels, dtype))

    def bits() -> set[Any]:
        return {at.gradient(partial(way, 0, at.net, 3, TRAIN, 0)) for way in ways}

    assert blocks.packed_product
    packed = bits()
    blocks.packed_product = 0
    assert len(packed) == 1
    assert packed == bits()


TOLERANCE = {"float64": 1e-10, "float32": 2e-5}


@each_dtype
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize(
    ("sizes", "split_layer"),
    [
        ((40, 33), 1),
        ((70, 19, 3), 1),
        ((37, 12, 2), 1),
        ((5, 70, 40, 3), 2),
        ((3, 33, 17), 2),
        ((130, 100, 98, 3), 1),
        ((130, 100, 98, 3), 2),
    ],
)
@pytest.mark.parametrize("n_rows", [1, 7, 37 if INTERPRETED else 133])
def test_gradient_by_halves_is_that_of_the_oracle(
    n_rows: int,
    sizes: tuple[int, ...],
    split_layer: int,
    activation: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setattr(partition, "split_layer_of", lambda step: split_layer)
    net = Net(sizes, activation, penalties={"l2": 0.1}, dtype=dtype)
    parameters, data = net.draw(rng, n_rows, weighted=True)
    value, gradient = Engine(net.network, 1).loss_and_gradient(parameters, data)
    expected, slopes = oracle_gradient(net, parameters, data)
    assert gradient.dtype == net.dtype
    assert value == pytest.approx(expected, rel=TOLERANCE[dtype], abs=0)
    assert distance(gradient, slopes) <= TOLERANCE[dtype]


BATCH = 203
layouts = st.lists(st.integers(1, 60), min_size=2, max_size=4).map(
    lambda sizes: make_layout(tuple(sizes))
)
TOLERANCE_OF_LOTS = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microbatches of 56 rows of a batch of 203, though the work is little."""
    monkeypatch.setattr(tuning, "MICROBATCH_FLOPS", 0)


@pytest.mark.slow
@given(layouts, st.integers(1, 10**7))
@settings(derandomize=True, deadline=None)
def test_lots_are_whole_strips_and_four_or_a_multiple(layout: Any, n_rows: int) -> None:
    rows = microbatch_rows(layout, n_rows)
    if rows:
        assert 6 * layout.n_weights * n_rows >= tuning.MICROBATCH_FLOPS
        assert rows % STRIP_ROWS == 0
        n_lots = -(-n_rows // rows)
        assert n_lots <= max(4, -(-4 * n_rows // tuning.MIN_CHUNK_ROWS))
        assert rows * sum(layout.sizes) > 8 * layout.n_weights


@given(layouts, st.integers(1, 10**7), st.integers(1, 10**6))
@settings(derandomize=True, deadline=None)
def test_chunks_are_whole_lots_or_the_batch(
    layout: Any, n_rows: int, n_packed: int
) -> None:
    small = microbatch_rows(layout, n_rows)
    if small:
        rows = rows_by_microbatches(layout, n_rows, small, n_packed)
        assert rows == n_rows or rows % small == 0
        assert rows <= small or -(-rows // small) * n_packed <= tuning.CHUNK_NUMBERS


def test_a_large_batch_of_a_small_net_is_cut_and_no_other() -> None:
    assert microbatch_rows(make_layout((4, 32, 16, 4)), 10_000) == 1256
    assert microbatch_rows(make_layout((4, 32, 16, 4)), 1000) == 0  # 4 MFLOP
    assert microbatch_rows(make_layout((784, 512, 512, 10)), 10_000) == 0


@pytest.mark.parametrize(
    ("dtype", "optimizer", "batch_size", "n_at_once"),
    [
        (*case.values(),)
        for case in all_pairs(
            dtype=DTYPES,
            optimizer=["adam", "sgd"],
            batch_size=[BATCH, 180],
            n_at_once=[1, 3, 8],
        )
    ],
)
def test_training_by_lots_is_training_at_once_to_rounding(
    dtype: str,
    optimizer: str,
    batch_size: int,
    n_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
    rng: Any,
) -> None:
    net = Net((5, 20, 3), "tanh", penalties=PENALTY_SETS[-1], dtype=dtype)
    parameters, data = net.draw(rng, BATCH, weighted=True)
    order = orders(rng, 3, BATCH)
    rule = OPTIMIZERS[optimizer](0.01)
    whole = train(net, parameters, data, rule, order, batch_size)
    monkeypatch.setattr(tuning, "MICROBATCH_FLOPS", 0)
    small = microbatch_rows(make_layout(net.sizes), batch_size)
    per_row = 6 * make_layout(net.sizes).n_weights
    monkeypatch.setattr(tuning, "CHUNK_FLOPS", per_row * small * n_at_once)
    microbatches = train(net, parameters, data, rule, order, batch_size)
    n_chunks = [-(-n // (small * n_at_once)) for n in (batch_size, BATCH - batch_size)]
    assert microbatches.stopped == 3 * sum(n_chunks)
    near = 10 * TOLERANCE_OF_LOTS[dtype]
    for one, other in zip(microbatches[:3], whole[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=10 * near, atol=near)


@pytest.mark.usefixtures("always")
def test_rows_by_index_and_rows_of_weight_0(rng: Any) -> None:
    net = Net((5, 20, 3), "tanh", dtype="float64")
    parameters, data = net.draw(rng, BATCH, weighted=True)
    data.weight[150:] = 0
    rows = rng.permutation(BATCH)
    objective = Engine(net.network, 1).objective(data._replace(rows=rows))
    value, gradient = objective(parameters)
    expected_value, expected = oracle_gradient(net, parameters, data)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert distance(gradient, expected) < 1e-12


SIZES = (12, 20, 3)
# Settings of a net that use a feature.
USES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.2},
    "noise": {"input_noise": 0.1},
    "clipping by norm": {"optimizer": Adam(global_clipnorm=0.1)},
    "an average": {"optimizer": Adam(average=EMA(0.9))},
    "pairs": {"compute_dtype": ["bfloat16", "float32"], "dtype": "float32"},
}


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    ended: list[bool] = []
    rest = session.Session.rest

    def noted(ending: session.Session) -> None:
        ended.append(ending.plain)
        plan = ending.plan
        tables = (
            (plan.net, NetRecord),
            (plan.layers, Layer),
            (plan.blocks, BlockAddresses),
        )
        assert not (ending.plain and any(Watch(*table).sees() for table in tables))
        rest(ending)

    monkeypatch.setattr(session.Session, "rest", noted)
    return ended


def fitted(settings: dict[str, Any], fit: dict[str, Any]) -> bytes:
    X = np.random.default_rng(3).standard_normal((90, SIZES[0]))
    net = MLP(SIZES, **{"seed": 1, "n_threads": 1, **settings})
    net.fit(X, np.tanh(X[:, : SIZES[-1]]), **{"epochs": 2, "batch_size": 32, **fit})
    return bytes(net.parameters.tobytes() + net.predict(X).tobytes())


@pytest.mark.parametrize("seed", range(12))
def test_the_general_form(
    seed: int, forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    settings = {
        "activation": str(rng.choice(["relu", "tanh", "identity"])),
        "optimizer": [Adam(), SGD(0.01), SGD(0.01, momentum=0.9)][rng.integers(3)],
        "dtype": str(rng.choice(["float32", "float64"])),
        "l2": float(rng.choice([0, 0.01])),
        "n_threads": int(rng.integers(1, 3)),
    }
    fit = {"batch_size": int(rng.choice([1, 5, 8, 33, 90]))}
    plain = fitted(settings, fit)
    # A kept session looks again only where something has changed.
    monkeypatch.setattr(TRAININGS, "take", lambda key: None)
    monkeypatch.setattr(Watch, "sees", lambda self: True)
    assert fitted(settings, fit) == plain
    assert forms == [COMPILER == "translator", False]


@pytest.mark.parametrize("name", USES)
def test_a_feature_in_use_takes_the_general_form(name: str, forms: list[bool]) -> None:
    fitted(USES[name], {})
    assert forms == [False]


def test_a_kept_session_changes_form(
    forms: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"optimizer": Adam()}
    first = fitted(settings, {})
    monkeypatch.setattr(session, "prefetches_rows_of", lambda x, rows: True)
    assert fitted(settings, {}) == first
    fitted({"optimizer": Adam(global_clipnorm=0.1)}, {})
    monkeypatch.undo()
    assert fitted(settings, {}) == first
    assert forms[:3] == [COMPILER == "translator", False, False]


@pytest.mark.parametrize("kind", FEATURES)
def test_each_field_counts(kind: Any) -> None:
    table = np.zeros(3, kind.dtype)
    for name in set(kind.dtype.names) - set(FEATURES[kind]):
        table[name] = 1
    watch = Watch(table, kind)
    assert not watch.sees()
    for name in FEATURES[kind]:
        table[name][-1] = 1
        assert watch.sees()
        table[name][-1] = 0


# Layers that split-K cuts have more inputs than a vector of float64 has lanes.
DROPPED = (9, 9, 12, 2) if INTERPRETED else (21, 90, 35, 2)
N_ROWS = 20 if INTERPRETED else 200


@pytest.fixture(params=FORMS)
def batch_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    take_form(request.param, monkeypatch)
    if request.param == "single row":
        return 1
    if INTERPRETED:
        return 8
    return 77


def rows_of(dtype: str, n_rows: int = N_ROWS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, DROPPED[0])).astype(dtype)
    return X, rng.normal(size=(n_rows, DROPPED[-1])).astype(dtype)


def made(**settings: Any) -> MLP:
    return MLP(
        DROPPED, **{"optimizer": SGD(0.01), "seed": 1, "dtype": "float64", **settings}
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_a_fit_is_that_of_the_oracle(activation: str, batch_size: int) -> None:
    n_rows = N_ROWS if batch_size > 1 else 20
    X, y = rows_of("float64", n_rows)
    n_steps = 2 * -(-n_rows // batch_size)
    drawn: dict[str, Any] = {"dropout": [0.3, Cosine(0.5)], "input_dropout": 0.1}
    # A linear net on single rows with noise runs away.
    noise = 0.0 if activation == "identity" else 0.2
    net = made(activation=activation, input_noise=noise, **drawn)
    weights, biases = (
        [a.copy() for a in arrays] for arrays in (net.weights, net.biases)
    )
    history = net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=False)
    batches = [
        list(range(i, min(i + batch_size, n_rows)))
        for i in range(0, n_rows, batch_size)
    ]
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
    for result, wanted in zip(
        (*net.weights, *net.biases), layers[0] + layers[1], strict=True
    ):
        np.testing.assert_allclose(result, wanted, atol=1e-11)


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
    assert history.validation_loss[0] == pytest.approx(
        np.mean((plain.predict(X) - y) ** 2), 1e-5
    )


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
def test_rates_of_0_have_the_bits_of_a_net_without(
    optimizer: Any, batch_size: int
) -> None:
    """The numbers of dropout are behind those of all others in a step's row; a schedule
    that is at 0 keeps all units, and so does a rate that rounds to no threshold.
    """

    def nothing(steps: Any, total: int) -> Any:
        return np.zeros(len(steps))

    X, y = rows_of("float32")
    settings: dict[str, Any] = {
        "dtype": "float32",
        "activation": "tanh",
        "optimizer": optimizer,
    }
    nets = [
        made(dropout=rate, layer_rates=[0.5, 1.0, 1.0], **settings)
        for rate in (0.0, nothing, 1e-6)
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


CLIPS: list[Any] = [{"clipnorm": 0.3}, {"global_clipnorm": 0.3}]
each_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: next(iter(clip)))
ETA = 0.05


def spoiled(z: Any) -> Any:
    """Of zero, which padding has, NaN."""
    return z * (z / z), type(z)(1)


@pytest.mark.slow
@each_clip
def test_padding_does_not_count(clip: Any) -> None:
    X = np.random.default_rng(0).uniform(1, 2, (20, 3))
    nets = [
        MLP(
            (3, 5, 2),
            activation=rule,
            optimizer=SGD(ETA, **clip),
            dtype="float64",
            seed=0,
        )
        for rule in (spoiled, "identity")
    ]
    for net in nets:
        assert net.fit(X, X[:, :2], epochs=3).status is Status.COMPLETED
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-10)


@each_clip
@pytest.mark.filterwarnings("ignore:fit diverged")
def test_a_norm_that_is_not_finite_is_a_divergence(clip: Any) -> None:
    """Loss, gradient and the parameters of a plain step are finite,
    the sum of squares is not.
    """
    X = np.full((4, 2), 1e200)
    y = np.ones(4)
    for optimizer, status in ((SGD(ETA), "COMPLETED"), (SGD(ETA, **clip), "DIVERGED")):
        net = MLP((2, 1), loss="mae", optimizer=optimizer, dtype="float64", seed=0)
        before = net.parameters.tobytes()
        assert net.fit(X, y, epochs=1, batch_size=4).status is Status[status]
        assert (net.parameters.tobytes() == before) is (status == "DIVERGED")


@each_clip
def test_squares_that_float32_cannot_hold_are_summed(clip: Any) -> None:
    net = MLP((2, 1), loss="mae", optimizer=SGD(ETA, **clip), seed=0)
    before = net.parameters.copy()
    net.fit(np.full((4, 2), 1e30, "f4"), np.ones(4, "f4"), epochs=1, batch_size=4)
    limit = next(iter(clip.values()))
    change = np.linalg.norm(net.weights[0].ravel() - before[:2])
    assert change == pytest.approx(ETA * limit, rel=1e-4)


@each_clip
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_a_step_of_ones_own_is_clipped_as_in_a_fit(frozen: bool, clip: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    nets = [
        MLP((3, 5, 2), optimizer=Adam(ETA, **clip), l2=0.5, dtype="float64", seed=0)
        for _ in range(2)
    ]
    for net in nets:
        net.trainable[0] = not frozen
    for _ in range(5):
        nets[0].fit(X, X[:, :2], epochs=1, batch_size=30, shuffle=False)
        nets[1].apply_gradient(nets[1].loss_and_gradient(X, X[:, :2])[1])
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=1e-12)
