"""Heads: slices of the outputs, each with a loss:
objectives, steps, fits and every door.
"""

import copy
import pickle
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pandas as pd
import pytest

from fastmlp import (
    LBFGS,
    MLP,
    SGD,
    Adam,
    Blocks,
    EarlyStopping,
    Loss,
    NetGroup,
    Quantile,
    Report,
    fit_many,
    jit,
)

RNG = np.random.default_rng(7)
N, N_IN = 60, 5
X = RNG.normal(size=(N, N_IN))
LABELS = RNG.integers(0, 3, N)
FLAGS = (RNG.random(N) < 0.5).astype(float)
VALUES = RNG.normal(size=(N, 2))
COUNTS = RNG.poisson(2.0, N).astype(float)
# A head of each link, of rules by number and by row, with one target and several.
LOSS: Any = {
    "action": ("cross_entropy", 3),
    "flag": ("binary_cross_entropy", 1),
    "value": ("mse", 2),
    "spread": ("gaussian_nll", 2),
    "count": ("poisson", 1),
}
WEIGHTS = {"action": 0.5, "flag": 1.0, "value": 2.0, "spread": 0.25, "count": 0.125}
Y: Any = {
    "action": LABELS,
    "flag": FLAGS,
    "value": VALUES,
    "spread": VALUES[:, 0],
    "count": COUNTS,
}
SLICES = {"action": (0, 3), "flag": (3, 4), "value": (4, 6), "spread": (6, 8)}
SLICES["count"] = (8, 9)
IGNORE: Any = {"missing_targets": "ignore"}


def make(loss: Any = LOSS, weights: Any = WEIGHTS, **settings: Any) -> MLP:
    of_net: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    return MLP((N_IN, 8, 6, 9), loss=loss, loss_weights=weights, **(of_net | settings))


def two(**settings: Any) -> MLP:
    """A class and a number."""
    of_net: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    of_net["loss"] = [("cross_entropy", 3), ("mse", 1)]
    return MLP((N_IN, 8, 4), **(of_net | settings))


BOTH: Any = (LABELS, VALUES[:, 0])


def objective(net: MLP, parameters: Any, y: Any, ws: Any, l2: float) -> Any:
    weights, biases = naive.unflatten(parameters, net.weights, net.biases)
    return naive.objective_of_heads(
        weights,
        biases,
        X,
        [y[name] for name in LOSS],
        activations=["tanh", "tanh"],
        heads=[*LOSS.values()],
        shares=[*WEIGHTS.values()],
        ws=[ws.get(name) for name in LOSS],
        l2=l2,
    )


def complex_gradient(net: MLP, y: Any, ws: Any, l2: float) -> Any:
    slopes = np.empty(net.parameters.size)
    for i in range(slopes.size):
        moved = net.parameters.astype(complex)
        moved[i] += 1e-30j
        slopes[i] = objective(net, moved, y, ws, l2).imag / 1e-30
    return slopes


def gaps_of(y: Any) -> tuple[Any, Any]:
    """Targets with gaps by head, of a value alone too,
    and the weights that these are.
    """
    with_gaps = {name: np.asarray(each, float).copy() for name, each in y.items()}
    ws = {name: np.ones(each.shape) for name, each in with_gaps.items()}
    for k, (name, each) in enumerate(with_gaps.items()):
        unknown = (np.arange(N) + k) % 4 == 0
        if each.ndim == 2:
            unknown = np.stack([unknown, np.arange(N) % 5 == 1], axis=1)
        each[unknown] = np.nan
        ws[name][unknown] = 0.0
    # One row knows nothing.
    for name, each in with_gaps.items():
        each[11] = np.nan
        ws[name][11] = 0.0
    return with_gaps, ws


W = {name: RNG.uniform(0.2, 2.0, N) for name in LOSS}
W["value"] = RNG.uniform(0.2, 2.0, (N, 2))
GAPS, KNOWN = gaps_of(Y)
CASES: dict[str, tuple[Any, Any, Any]] = {
    "plain": (Y, None, {}),
    "weights by head": (Y, W, W),
    "gaps": (GAPS, None, KNOWN),
    "gaps and weights": (GAPS, W, {name: W[name] * KNOWN[name] for name in LOSS}),
}


@pytest.mark.parametrize("case", CASES)
def test_objective_and_gradient_are_the_oracles(case: str) -> None:
    y, weight, ws = CASES[case]
    net = make(l2=0.1)
    options: Any = IGNORE if "gaps" in case else {}
    value, slopes = net.loss_and_gradient(X, y, weight, **options)
    expected = objective(net, net.parameters, y, ws, 0.1)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    exact = complex_gradient(net, y, ws, 0.1)
    np.testing.assert_allclose(slopes, exact, rtol=1e-11, atol=1e-14)


def test_weights_of_rows_are_those_of_every_head() -> None:
    rows = W["action"]
    by_row = make().loss_and_gradient(X, Y, rows)
    by_head = make().loss_and_gradient(X, Y, dict.fromkeys(LOSS, rows))
    np.testing.assert_allclose(by_row[0], by_head[0], rtol=1e-14)
    np.testing.assert_allclose(by_row[1], by_head[1], rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore:.*a batch has no known target")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_threads_do_not_change_bits_or_losses(case: str, batch_size: int) -> None:
    y, weight, _ = CASES[case]
    options: Any = IGNORE if "gaps" in case else {}
    nets = [make(n_threads=n) for n in (1, 2)]
    histories = []
    for net in nets:
        histories.append(
            net.fit(
                X, y, sample_weight=weight, epochs=3, batch_size=batch_size, **options
            )
        )
    one, several = nets
    assert one.parameters.tobytes() == several.parameters.tobytes()
    assert histories[0].head_losses == histories[1].head_losses


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_a_fit_is_the_weighted_sum_of_its_heads(case: str) -> None:
    y, weight, _ = CASES[case]
    options: Any = IGNORE if "gaps" in case else {}
    history = make().fit(X, y, sample_weight=weight, epochs=4, batch_size=13, **options)
    total = sum(
        WEIGHTS[name] * np.array(each) for name, each in history.head_losses.items()
    )
    np.testing.assert_allclose(history.loss, total, rtol=1e-13)


def test_losses_of_heads_are_the_oracles() -> None:
    net = make(optimizer=SGD(1e-300))
    ys = [Y[name] for name in LOSS]
    raw = net.predict_raw(X)
    sums, mass = naive.head_losses(raw, [*LOSS.values()], ys, [None] * len(ys))
    history = net.fit(X, Y, epochs=1, batch_size=60, validation_data=(X, Y))
    for name, total in zip(LOSS, sums, strict=True):
        np.testing.assert_allclose(
            history.head_losses[name], [total / mass], rtol=1e-12
        )
        validated = history.validation_head_losses[name]
        np.testing.assert_allclose(validated, [total / mass], rtol=1e-12)


def test_a_net_of_one_head_has_the_bits_of_its_loss() -> None:
    y = VALUES
    plain = MLP((N_IN, 8, 2), seed=0)
    head = MLP((N_IN, 8, 2), loss=[("mse", 2)], seed=0)
    for net in (plain, head):
        net.fit(X, y, epochs=3, batch_size=7)
    assert plain.parameters.tobytes() == head.parameters.tobytes()


def test_steps_of_a_loop_are_those_of_a_fit() -> None:
    loop = two()
    fit = two()
    for n in (16, 60, 16, 3):
        rows = slice(0, n)
        y = tuple(each[rows] for each in BOTH)
        loop.train_on_batch(X[rows], y)
        fit.fit(X[rows], y, epochs=1, batch_size=n, shuffle=False)
    assert loop.parameters.tobytes() == fit.parameters.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_of_steps_are_checked_as_those_of_fits(dtype: str) -> None:
    net = make(dtype=dtype)
    net.train_on_batch(X, Y)
    before = net.parameters.copy()
    bad: dict[str, Any] = {
        "action": LABELS + 1,
        "flag": FLAGS + 0.5,
        "value": VALUES * np.nan,
        "count": -COUNTS - 1,
    }
    for name, targets in bad.items():
        with pytest.raises(ValueError, match=f"head '{name}'"):
            net.train_on_batch(X, Y | {name: targets})
    with pytest.raises((TypeError, ValueError), match="head 'action'"):
        net.train_on_batch(X, Y | {"action": LABELS + 0.5})
    huge = np.inf if dtype == "float64" else 1e300
    with pytest.raises(ValueError, match="head 'spread'"):
        net.train_on_batch(X, Y | {"spread": np.full(N, huge)})
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.float64])
def test_targets_of_steps_are_of_any_dtype(kind: Any) -> None:
    plain = make()
    other = make()
    y = Y | {"action": LABELS.astype(np.int8), "count": COUNTS.astype(kind)}
    y["value"] = np.asfortranarray(VALUES)[::-1][::-1]
    for _ in range(3):
        assert plain.train_on_batch(X, Y) == other.train_on_batch(X, y)


def test_fit_warns_by_name_of_heads_without_a_known_target() -> None:
    values = VALUES.copy()
    values[:, 1] = np.nan
    y = GAPS | {"value": values, "count": np.full(N, np.nan)}
    with pytest.warns(UserWarning, match="no known target") as caught:
        make().fit(X, y, epochs=1, **IGNORE)
    assert [str(warning.message) for warning in caught] == [
        "MLP.fit: head 'value': y has no known target in 1 column: 1; the loss is that "
        "of the others",
        "MLP.fit: head 'count': y has no known target in 1 column: 0; the loss is that "
        "of the others",
    ]


def test_steps_with_gaps_and_without_take_turns() -> None:
    y = (np.where(np.arange(N) % 3 == 0, np.nan, LABELS), BOTH[1])
    loop = two()
    fit = two()
    for _ in range(3):
        loop.train_on_batch(X, BOTH)
        fit.fit(X, BOTH, epochs=1, batch_size=N, shuffle=False)
        loop.train_on_batch(X, y, **IGNORE)
        fit.fit(X, y, epochs=1, batch_size=N, shuffle=False, **IGNORE)
    assert loop.parameters.tobytes() == fit.parameters.tobytes()


def test_targets_are_a_tuple_a_dict_a_frame_or_an_array_of_numbers() -> None:
    numbers: Any = {"a": ("mse", 2), "b": ("mae", 1)}
    table = np.column_stack([VALUES, COUNTS])
    forms: list[Any] = [
        (VALUES, COUNTS),
        {"b": COUNTS, "a": VALUES},
        table,
        pd.DataFrame(table, columns=["x", "y", "z"]),
    ]
    bits = set()
    for y in forms:
        net = MLP((N_IN, 4, 3), loss=numbers, seed=0)
        net.fit(X, y, epochs=2)
        bits.add(net.parameters.tobytes())
    assert len(bits) == 1


def test_one_hot_rows_are_labels() -> None:
    labels = two()
    one_hot = two()
    labels.fit(X, BOTH, epochs=2)
    one_hot.fit(X, (np.eye(3)[LABELS], BOTH[1]), epochs=2)
    assert labels.parameters.tobytes() == one_hot.parameters.tobytes()


def test_slices_have_their_links() -> None:
    net = make()
    raw, outputs = net.predict_raw(X), net.predict(X)
    each = net.predict_heads(X)
    assert [*each] == [*LOSS]
    for name, (first, last) in SLICES.items():
        expected = naive.LINKS.get(naive.LINK_OF.get(LOSS[name][0], ""), lambda z: z)(
            raw[:, first:last]
        )
        np.testing.assert_allclose(outputs[:, first:last], expected, rtol=1e-13)
        np.testing.assert_array_equal(each[name], outputs[:, first:last])


@pytest.mark.parametrize("n", [1, 2, 5, 60, 3000])
def test_rows_have_the_bits_of_one_row(n: int) -> None:
    net = make()
    rows = np.resize(X, (n, N_IN))
    alone = np.concatenate([net.predict(row[None]) for row in rows[:60]])
    np.testing.assert_array_equal(net.predict(rows)[:60], alone)


def test_slopes_are_one_array_or_one_for_each_head() -> None:
    slopes = RNG.normal(size=(N, 4))
    whole = two()
    parts = two()
    named = two(loss={"a": ("cross_entropy", 3), "v": ("mse", 1)})
    by_head: Any = (slopes[:, :3], slopes[:, 3])
    by_name = {"v": slopes[:, 3:], "a": slopes[:, :3]}
    for net, given in ((whole, slopes), (parts, by_head), (named, by_name)):
        gradient, by_inputs = net.vjp(X, given)
        np.testing.assert_array_equal(gradient, whole.vjp(X, slopes, inputs=False))
        assert by_inputs.shape == X.shape
    for net, given in ((parts, by_head), (named, by_name), (whole, slopes)):
        net.train_on_gradient(X, given)
    assert whole.parameters.tobytes() == parts.parameters.tobytes()
    assert whole.parameters.tobytes() == named.parameters.tobytes()


def test_a_fit_stops_by_the_loss_of_a_head() -> None:
    watch = EarlyStopping("validation_head_1_loss", patience=2)
    history = two(optimizer=Adam(0.05)).fit(
        X, BOTH, epochs=100, validation_split=0.3, early_stopping=watch
    )
    series = history.validation_head_losses["head_1"]
    assert history.best_epoch == int(np.argmin(series)) == len(series) - 3


def test_series_of_heads_are_columns_of_the_frame() -> None:
    history = two().fit(X, BOTH, epochs=2, validation_split=0.2)
    frame = history.to_frame()
    assert frame["head_0_loss"].tolist() == history.head_losses["head_0"]
    validated = history.validation_head_losses["head_1"]
    assert frame["validation_head_1_loss"].tolist() == validated


def test_a_fit_resumes_to_its_bits(tmp_path: Path) -> None:
    def interrupt(report: Report) -> None:
        if report.epoch == 2:
            raise RuntimeError("cut")

    options: Any = {"epochs": 6, "validation_split": 0.2, "batch_size": 16}
    whole = two()
    cut = two()
    again = two()
    expected = whole.fit(X, BOTH, **options)
    path = tmp_path / "fit.safetensors"
    with pytest.raises(RuntimeError, match="cut"):
        cut.fit(
            X, BOTH, checkpoint=path, checkpoint_every=1, callbacks=interrupt, **options
        )
    history = again.fit(X, BOTH, checkpoint=path, resume=True, **options)
    assert again.parameters.tobytes() == whole.parameters.tobytes()
    assert history.head_losses == expected.head_losses
    assert history.validation_head_losses == expected.validation_head_losses


def test_many_fits_are_single_ones() -> None:
    together = [make(seed=i) for i in range(3)]
    alone = [make(seed=i) for i in range(3)]
    watch = EarlyStopping("value_loss", patience=3)
    options: Any = {"epochs": 3, "validation_split": 0.2, "early_stopping": watch}
    histories = fit_many(together, X, Y, **options)
    for history, one, other in zip(histories, together, alone, strict=True):
        expected = other.fit(X, Y, **options)
        assert one.parameters.tobytes() == other.parameters.tobytes()
        assert history.head_losses == expected.head_losses


def test_groups_take_the_steps_of_their_nets() -> None:
    group = NetGroup([two(seed=0), two(seed=1)])
    alone = [two(seed=0), two(seed=1)]
    for _ in range(3):
        losses = group.train_on_batch(X, BOTH)
        assert losses.tolist() == [net.train_on_batch(X, BOTH) for net in alone]
    slopes = RNG.normal(size=(N, 4))
    group.train_on_gradient(X, (slopes[:, :3], slopes[:, 3:]))
    for one, other in zip(group, alone, strict=True):
        other.train_on_gradient(X, slopes)
        assert one.parameters.tobytes() == other.parameters.tobytes()


def by_net(n_nets: int) -> tuple[Any, Any]:
    """Rows and targets of heads, other ones for each net."""
    order = np.stack([RNG.permutation(N) for _ in range(n_nets)])
    return X[order], tuple(each[order] for each in BOTH)


def test_nets_of_a_group_have_targets_of_their_own() -> None:
    group = NetGroup([two(seed=0), two(seed=1)])
    alone = [two(seed=0), two(seed=1)]
    x, y = by_net(2)
    for _ in range(3):
        losses = group.train_on_batch(x, y)
        each = [tuple(entry[i] for entry in y) for i in range(2)]
        expected = [net.train_on_batch(x[i], each[i]) for i, net in enumerate(alone)]
        assert losses.tolist() == expected


@pytest.mark.parametrize("ragged", [False, True])
def test_nets_of_a_group_take_rows_of_heads(ragged: bool) -> None:
    group = NetGroup([two(seed=0), two(seed=1)])
    alone = [two(seed=0), two(seed=1)]
    rows = [RNG.integers(0, N, 9), RNG.integers(0, N, 8 if ragged else 9)]
    for _ in range(3):
        losses = group.train_on_batch(X, BOTH, rows=rows)
        expected = []
        for net, own in zip(alone, rows, strict=True):
            y: Any = tuple(entry[own] for entry in BOTH)
            expected.append(net.train_on_batch(X[own], y))
        assert losses.tolist() == expected


def test_slopes_by_head_and_net_are_those_of_one_array() -> None:
    group = NetGroup([two(seed=0), two(seed=1)])
    slopes = RNG.normal(size=(2, N, 4))
    by_head: Any = (slopes[..., :3], slopes[..., 3])
    whole = group.vjp(X, slopes)
    parts = group.vjp(X, by_head)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])


def test_groups_refuse_targets_as_a_net_does() -> None:
    group = NetGroup([two(seed=0), two(seed=1)])
    group.train_on_batch(X, BOTH)
    before = [net.parameters.copy() for net in group]
    columns = np.column_stack(BOTH)
    with pytest.raises(TypeError, match="y must have one entry for each head"):
        group.train_on_batch(X, columns)
    with pytest.raises(ValueError, match=r"nets\[0\]: head 'head_0'.* 3"):
        group.train_on_batch(X, (LABELS + 1, BOTH[1]))
    for net, own in zip(group, before, strict=True):
        np.testing.assert_array_equal(net.parameters, own)


def test_blocks_and_arrays_have_the_same_losses() -> None:
    def block(i: int) -> Any:
        rows = slice(20 * i, 20 * i + 20)
        return X[rows], (LABELS[rows], BOTH[1][rows])

    source = Blocks((20, 20, 20), block)
    streamed = two()
    whole = two()
    options: Any = {"epochs": 2, "batch_size": 20, "shuffle": False}
    history = streamed.fit(source, buffer_rows=320, **options)
    expected = whole.fit(X, BOTH, **options)
    assert streamed.parameters.tobytes() == whole.parameters.tobytes()
    np.testing.assert_allclose(
        history.head_losses["head_0"], expected.head_losses["head_0"]
    )


def test_lbfgs_records_the_losses_of_heads() -> None:
    pytest.importorskip("scipy")
    history = make(optimizer=LBFGS()).fit(X, Y, epochs=5)
    total = sum(
        WEIGHTS[name] * np.array(each) for name, each in history.head_losses.items()
    )
    np.testing.assert_allclose(history.loss, total, rtol=1e-12)


def test_compiled_steps_are_those_of_the_loop() -> None:
    net = two()
    loop = two()
    columns = np.column_stack(BOTH)
    with jit.learner(net, batch_size=N) as handle:
        for _ in range(3):
            jit.train_on_batch(handle, X, columns)
        with pytest.raises(ValueError, match="a label or target"):
            jit.train_on_batch(handle, X, columns + 0.5)
        with pytest.raises(ValueError, match="a label or target"):
            jit.train_on_batch(handle, X, columns * [5.0, 1.0])
    for _ in range(3):
        loop.train_on_batch(X, BOTH)
    assert net.parameters.tobytes() == loop.parameters.tobytes()


def test_compiled_code_predicts_heads() -> None:
    net = make()
    out = np.empty(9)
    handle = jit.compiled(net)
    jit.predict(handle, X[0], out)
    np.testing.assert_array_equal(out, net.predict(X[:1])[0])
    with pytest.raises(ValueError, match="no derivatives"):
        jit.gradient(handle, X[0], out, np.empty((9, N_IN)))


def test_files_and_copies_keep_heads(tmp_path: Path) -> None:
    net = make(loss=LOSS | {"value": (Quantile(0.3), 2)})
    net.fit(X, Y, epochs=1)
    path = tmp_path / "net.safetensors"
    net.save(path, include_training_state=True)
    for other in (MLP.load(path), pickle.loads(pickle.dumps(net)), copy.copy(net)):
        assert repr(other) == repr(net)
        other.fit(X, Y, epochs=1)
        expected = copy.copy(net)
        expected.fit(X, Y, epochs=1)
        assert other.parameters.tobytes() == expected.parameters.tobytes()


def test_files_of_nets_with_heads_alone_have_version_3(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for net, version in ((two(), b"3"), (MLP((2, 1)), b"2")):
        net.save(path)
        assert b'\\"format_version\\":' + version in path.read_bytes()


def test_rules_of_heads_are_given_to_load(tmp_path: Path) -> None:
    def square(prediction: float, target: float) -> tuple[float, float]:
        error = prediction - target
        return error * error, error + error

    loss = [("cross_entropy", 3), (Loss(square), 1)]
    net = two(loss=loss)
    path = tmp_path / "net.safetensors"
    net.save(path)
    loaded = MLP.load(path, rules={"square": Loss(square)})
    assert loaded.train_on_batch(X, BOTH) == net.train_on_batch(X, BOTH)


def test_estimators_fit_heads_of_numbers() -> None:
    pytest.importorskip("sklearn")
    net = MLP(
        (N_IN, 4, 3), loss=[("mse", 2), ("mae", 1)], loss_weights=[1, 0.5], seed=0
    )
    table = np.column_stack([VALUES, COUNTS])
    model = net.as_estimator(epochs=2, random_state=0).fit(X, table)
    net.fit(X, table, epochs=2)
    np.testing.assert_array_equal(model.predict(X), net.predict(X))
    with pytest.raises(ValueError, match="y of scikit-learn is one array"):
        two().as_estimator()


def test_weights_of_0_leave_a_head_out() -> None:
    net = two(loss_weights=[1.0, 0.0])
    other = two(loss_weights=[1.0, 0.0])
    net.fit(X, BOTH, epochs=1)
    other.fit(X, (LABELS, BOTH[1] + 5), epochs=1)
    assert net.parameters.tobytes() == other.parameters.tobytes()
