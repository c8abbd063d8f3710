"""Targets that are not known, and weights by target:
objectives, steps, fits and every door.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from fastmlp import (
    LBFGS,
    MLP,
    SGD,
    Adam,
    Blocks,
    LevenbergMarquardt,
    Loss,
    NetGroup,
    fit_many,
)

RNG = np.random.default_rng(5)
N = 40
N_IN = 4
K = 3
X = RNG.normal(size=(N, N_IN))
WHOLE = RNG.uniform(0.1, 0.9, (N, K))
KNOWN = RNG.random((N, K)) < 0.7
KNOWN[:3] = [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
Y = np.where(KNOWN, WHOLE, np.nan)
W = RNG.uniform(0.2, 2.0, (N, K))
# Losses by element, and of several outputs a target.
LOSSES = (
    *("mse", "mae", "huber", "log_cosh", "quantile", "binary_cross_entropy"),
    *("poisson", "gamma", "tweedie", "binary_focal", "gaussian_nll"),
)
IGNORE: Any = {"missing_targets": "ignore"}


def make(optimizer: Any = "adam", loss: Any = "mse", **settings: Any) -> MLP:
    n = 2 * K if loss == "gaussian_nll" else K
    of_net: dict[str, Any] = {"activation": "tanh", "dtype": "float64", "seed": 0}
    return MLP((N_IN, 8, n), loss=loss, optimizer=optimizer, **(of_net | settings))


def gradient_of(net: MLP, weight: Any, loss: str, l2: float) -> Any:
    model: dict[str, Any] = {"activations": ["tanh"], "loss": loss, "l2": l2}
    parts = naive.complex_step_gradient(
        net.weights, net.biases, X, Y, sample_weight=weight, **model
    )
    return naive.flatten(*parts)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_objective_and_gradient_are_the_oracles(loss: str, weighted: bool) -> None:
    net = make(loss=loss, l2=0.1)
    weight: Any
    whole: Any
    if weighted:
        weight = W
        whole = W * KNOWN
    else:
        weight = None
        whole = 1.0 * KNOWN
    value, slopes = net.loss_and_gradient(X, Y, weight, **IGNORE)
    expected = naive.objective(
        net.weights,
        net.biases,
        X,
        Y,
        activations=["tanh"],
        loss=loss,
        l2=0.1,
        sample_weight=whole,
    )
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    exact = gradient_of(net, whole, loss, 0.1)
    np.testing.assert_allclose(slopes, exact, rtol=1e-11, atol=1e-14)


def test_a_loss_that_sums_over_outputs() -> None:
    def square(prediction: float, target: float) -> tuple[float, float]:
        error = prediction - target
        return error * error, error + error

    mean = make()
    total = make(loss=Loss(square, over_outputs="sum"))
    by_mean, slopes = mean.loss_and_gradient(X, Y, W, **IGNORE)
    by_sum, more = total.loss_and_gradient(X, Y, W, **IGNORE)
    np.testing.assert_allclose(by_sum, K * by_mean, rtol=1e-14)
    np.testing.assert_allclose(more, K * slopes, rtol=1e-12)


def test_a_rule_may_be_finite_at_known_targets_alone() -> None:
    def log_error(prediction: float, target: float) -> tuple[float, float]:
        error = prediction - np.log(target)
        return error * error, error + error

    # 1 is far from all targets: log(0) of a stand-in would be infinite.
    value, slopes = make(loss=Loss(log_error)).loss_and_gradient(X, Y, **IGNORE)
    assert np.isfinite(value)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.01)], ids=str)
def test_steps_have_the_bits_of_a_fit(dtype: str, optimizer: Any) -> None:
    stepped = make(optimizer, dtype=dtype, l2=0.1)
    fitted = make(optimizer, dtype=dtype, l2=0.1)
    losses = [stepped.train_on_batch(X, Y, W, **IGNORE) for _ in range(6)]
    history = fitted.fit(
        X, Y, sample_weight=W, epochs=6, batch_size=N, shuffle=False, **IGNORE
    )
    assert history.loss == losses
    assert np.array_equal(stepped.parameters, fitted.parameters)


def test_a_step_is_that_of_the_gradient() -> None:
    net = make(SGD(0.1), l2=0.1)
    before = net.parameters.copy()
    slopes = net.loss_and_gradient(X, Y, W, **IGNORE)[1]
    net.train_on_batch(X, Y, W, **IGNORE)
    np.testing.assert_allclose(net.parameters, before - 0.1 * slopes, rtol=1e-13)


def test_steps_with_gaps_take_turns_with_others() -> None:
    turns = make()
    alone = make()
    for _ in range(3):
        turns.train_on_batch(X, WHOLE)
        turns.train_on_batch(X, Y, **IGNORE)
    for _ in range(3):
        alone.fit(X, WHOLE, epochs=1, batch_size=N)
        alone.fit(X, Y, epochs=1, batch_size=N, **IGNORE)
    assert np.array_equal(turns.parameters, alone.parameters)


def test_twice_the_columns_are_an_error_after_gaps() -> None:
    # Inside, targets with gaps have a column of factors beside each.
    net = make()
    net.train_on_batch(X, Y, **IGNORE)
    with pytest.raises(ValueError, match="y has 6 columns"):
        net.train_on_batch(X, np.hstack([WHOLE, WHOLE]))


def test_any_number_of_threads_has_the_same_bits() -> None:
    x = RNG.normal(size=(3000, N_IN))
    y = np.where(RNG.random((3000, K)) < 0.5, np.nan, 0.5)
    nets = [
        MLP((N_IN, 64, 64, K), seed=0, n_threads=n, optimizer="adam") for n in (1, 2)
    ]
    for net in nets:
        net.fit(x, y, epochs=3, batch_size=512, **IGNORE)
    assert np.array_equal(nets[0].parameters, nets[1].parameters)


@pytest.mark.parametrize("weight", [None, W[:, 0]], ids=["none", "by row"])
def test_without_gaps_bits_are_those_of_before(weight: Any) -> None:
    plain = make()
    ignoring = make()
    for net, more in ((plain, {}), (ignoring, IGNORE)):
        net.fit(X, WHOLE, sample_weight=weight, epochs=4, batch_size=8, **more)
    assert np.array_equal(plain.parameters, ignoring.parameters)


def test_equal_weights_by_target_are_weights_by_row() -> None:
    by_row = make()
    by_target = make()
    by_row.fit(X, WHOLE, sample_weight=W[:, 0], epochs=3)
    by_target.fit(X, WHOLE, sample_weight=np.repeat(W[:, :1], K, 1), epochs=3)
    np.testing.assert_allclose(by_row.parameters, by_target.parameters, rtol=1e-12)


def test_nan_in_y_names_the_word() -> None:
    with pytest.raises(ValueError, match="use missing_targets='ignore'"):
        make().fit(X, Y)


def test_a_batch_without_a_known_target_takes_no_step_and_is_said_once() -> None:
    net = make()
    y = np.full((8, K), np.nan)
    before = net.parameters.copy()
    with pytest.warns(UserWarning, match="no known target: no step was taken"):
        assert net.train_on_batch(X[:8], y, **IGNORE) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert net.train_on_batch(X[:8], y, **IGNORE) == 0
    assert net.n_steps == 0
    assert np.array_equal(net.parameters, before)


def test_a_batch_of_a_fit_without_a_known_target_is_left_out() -> None:
    y = Y.copy()
    y[8:16] = np.nan
    net = make(SGD(0.1))
    others = make(SGD(0.1))
    with pytest.warns(UserWarning, match="a batch has no known target") as caught:
        net.fit(X, y, epochs=3, batch_size=8, shuffle=False, **IGNORE)
    assert len(caught) == 1
    rest = np.r_[0:8, 16:N]
    others.fit(X[rest], y[rest], epochs=3, batch_size=8, shuffle=False, **IGNORE)
    assert np.array_equal(net.parameters, others.parameters)


def test_a_column_without_a_known_target_is_said_and_left_out() -> None:
    y = Y.copy()
    y[:, 1] = np.nan
    net = make()
    last = net.weights[-1][:, 1].copy()
    with pytest.warns(UserWarning, match="no known target in 1 column: 1"):
        history = net.fit(X, y, epochs=3, **IGNORE)
    assert np.isfinite(history.loss).all()
    assert np.array_equal(net.weights[-1][:, 1], last)


def test_no_known_target_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="y has no known target"):
        make().fit(X, np.full((N, K), np.nan), **IGNORE)


LABELS = np.arange(N) % 3
GAPS = np.arange(N) % 5 == 0


def labels_as(form: str) -> Any:
    floats = np.where(GAPS, np.nan, LABELS)
    entries = [None if gap else int(k) for gap, k in zip(GAPS, LABELS, strict=True)]
    if form == "series":
        return pd.Series(entries, dtype="Int64")
    if form == "masked":
        return np.ma.MaskedArray(LABELS, GAPS)
    if form == "one-hot":
        rows: NDArray[Any] = np.eye(3)[LABELS]
        rows[GAPS, 1] = np.nan
        return rows
    return {"floats": floats, "list": entries, "objects": np.array(entries, object)}[
        form
    ]


@pytest.mark.parametrize(
    "form", ["floats", "list", "objects", "series", "masked", "one-hot"]
)
def test_labels_that_are_not_known_leave_out_their_rows(form: str) -> None:
    y: Any = np.eye(3)[LABELS] if form == "one-hot" else LABELS
    gaps = make(loss="cross_entropy")
    weights = make(loss="cross_entropy")
    gaps.fit(X, labels_as(form), epochs=3, batch_size=8, **IGNORE)
    weights.fit(X, y, sample_weight=(~GAPS).astype(float), epochs=3, batch_size=8)
    assert np.array_equal(gaps.parameters, weights.parameters)


def test_balanced_classes_are_counted_by_known_labels() -> None:
    gaps = make(SGD(0.1), loss="cross_entropy")
    known = make(SGD(0.1), loss="cross_entropy")
    balanced: Any = {"class_weight": "balanced", "epochs": 3}
    gaps.fit(X, labels_as("floats"), batch_size=N, **balanced, **IGNORE)
    known.fit(X[~GAPS], LABELS[~GAPS], batch_size=N, **balanced)
    np.testing.assert_allclose(gaps.parameters, known.parameters, rtol=1e-12)


def test_class_weights_leave_out_one_hot_rows_with_a_gap() -> None:
    gaps = make(SGD(0.1), loss="cross_entropy")
    known = make(SGD(0.1), loss="cross_entropy")
    weights: Any = {"class_weight": {0: 2.0}, "epochs": 3}
    gaps.fit(X, labels_as("one-hot"), batch_size=N, **weights, **IGNORE)
    known.fit(X[~GAPS], LABELS[~GAPS], batch_size=N, **weights)
    np.testing.assert_allclose(gaps.parameters, known.parameters, rtol=1e-12)


def test_validation_of_labels_sees_known_rows() -> None:
    gaps = make(loss="cross_entropy")
    known = make(loss="cross_entropy")
    metrics: Any = {"metrics": {"accuracy": "accuracy", "n": lambda t, p: len(t)}}
    a = gaps.fit(
        X,
        LABELS,
        epochs=2,
        validation_data=(X, labels_as("floats")),
        **metrics,
        **IGNORE,
    )
    b = known.fit(
        X, LABELS, epochs=2, validation_data=(X[~GAPS], LABELS[~GAPS]), **metrics
    )
    assert a.metrics == b.metrics
    np.testing.assert_allclose(a.validation_loss, b.validation_loss, rtol=1e-14)


def test_metrics_of_several_targets_count_the_known_ones() -> None:
    def mean(targets: Any, predictions: Any) -> float:
        return float(np.nanmean(abs(targets - predictions)))

    def weighted(targets: Any, predictions: Any, sample_weight: Any) -> float:
        errors = sample_weight * np.nan_to_num(abs(targets - predictions))
        return float(errors.sum() / sample_weight.sum())

    history = make().fit(
        X,
        Y,
        epochs=2,
        validation_data=(X, Y),
        early_stopping=5,
        metrics={"a": "mae", "b": mean, "c": weighted},
        **IGNORE,
    )
    for name in ("b", "c"):
        np.testing.assert_allclose(
            history.metrics["a"], history.metrics[name], rtol=1e-12
        )


def test_scorers_refuse_gaps() -> None:
    with pytest.raises(ValueError, match="scorers of scikit-learn take neither"):
        make().fit(X, Y, validation_data=(X, Y), metrics="r2", **IGNORE)


@pytest.mark.parametrize("optimizer", [LBFGS(), LevenbergMarquardt()], ids=str)
def test_second_order_fits_end_where_the_objective_is_flat(optimizer: Any) -> None:
    net = make(optimizer, l2=0.5)
    net.fit(X, Y, sample_weight=W, epochs=300, **IGNORE)
    slopes = gradient_of(net, W * KNOWN, "mse", 0.5)
    assert abs(slopes).max() < 1e-5


def test_a_source_has_the_bits_of_arrays() -> None:
    of_arrays = make()
    of_blocks = make()
    of_arrays.fit(X, Y, epochs=3, batch_size=2, shuffle=False, **IGNORE)
    blocks = Blocks.from_arrays(X, Y, rows=7)
    of_blocks.fit(
        blocks, epochs=3, batch_size=2, shuffle=False, buffer_rows=32, **IGNORE
    )
    assert np.array_equal(of_arrays.parameters, of_blocks.parameters)


def test_fits_of_many_nets_have_the_bits_of_fit() -> None:
    alone = [make(seed=i) for i in range(3)]
    together = [make(seed=i) for i in range(3)]
    each = RNG.uniform(0.2, 2.0, (3, N, K))
    for net, weight in zip(alone, each, strict=True):
        net.fit(X, Y, sample_weight=weight, epochs=3, **IGNORE)
    fit_many(together, X, Y, sample_weight=each, epochs=3, **IGNORE)
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.parameters, b.parameters)


def test_a_group_has_the_bits_of_its_nets() -> None:
    alone = [make(seed=i) for i in range(3)]
    together = [make(seed=i) for i in range(3)]
    each = RNG.uniform(0.2, 2.0, (3, N, K))
    group = NetGroup(together)
    for _ in range(3):
        losses = group.train_on_batch(X, Y, each, **IGNORE)
        expected = [
            net.train_on_batch(X, Y, weight, **IGNORE)
            for net, weight in zip(alone, each, strict=True)
        ]
        assert losses.tolist() == expected
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.parameters, b.parameters)


def test_a_fit_goes_on_from_its_checkpoint() -> None:
    def stop(report: Any) -> None:
        if report.epoch == 3:
            raise InterruptedError

    with tempfile.TemporaryDirectory() as folder:
        options: Any = {"checkpoint": Path(folder, "fit"), "checkpoint_every": 1}
        options |= {"epochs": 6, "sample_weight": W} | IGNORE
        cut = make()
        whole = make()
        with pytest.raises(InterruptedError):
            cut.fit(X, Y, callbacks=stop, **options)
        resumed = make()
        resumed.fit(X, Y, resume=True, **options)
    whole.fit(X, Y, epochs=6, sample_weight=W, **IGNORE)
    assert np.array_equal(resumed.parameters, whole.parameters)


def test_columns_of_a_frame_may_have_gaps() -> None:
    frame = pd.DataFrame(Y, columns=list("abc"))
    by_array = make()
    by_frame = make()
    by_array.fit(X, Y, epochs=2, **IGNORE)
    by_frame.fit(X, frame, epochs=2, **IGNORE)
    assert np.array_equal(by_array.parameters, by_frame.parameters)


def test_a_loss_of_whole_rows_refuses_weights_by_target() -> None:
    with pytest.raises(ValueError, match="takes the targets of a row together"):
        make(loss="cross_entropy").fit(X, LABELS, sample_weight=W)


def test_weights_of_a_wrong_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(40, 3\), got \(3, 40\)"):
        make().fit(X, Y, sample_weight=W.T, **IGNORE)


def test_a_negative_weight_is_named_by_its_row() -> None:
    negative = W.copy()
    negative[5, 2] = -1
    with pytest.raises(ValueError, match="got -1 in row 5"):
        make().fit(X, Y, sample_weight=negative, **IGNORE)
