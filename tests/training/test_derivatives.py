"""Fits, steps and gradients with derivatives by the inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fastmlp import (
    MLP,
    Adam,
    EarlyStopping,
    History,
    NetGroup,
    fit_many,
    jacobian,
)
from fastmlp.validation import Array

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (100, 3))
Y = np.sin(X @ [1, 2, 3])
G = np.cos(X @ [1, 2, 3])[:, None] * np.array([1.0, 2.0, 3.0])


def make(**settings: Any) -> MLP:
    sizes = settings.pop("sizes", (3, 16, 16, 1))
    chosen = {"activation": "tanh", "seed": 0, "optimizer": Adam(0.01), **settings}
    return MLP(sizes, dtype="float64", **chosen)


def fit(net: MLP, **options: Any) -> History:
    chosen = {"epochs": 20, "derivatives": G, "derivative_weight": 1.0, **options}
    return net.fit(X, Y, **chosen)


def mean_square(net: MLP, targets: Array = G) -> float:
    errors = jacobian(net, X)[:, 0] - targets
    return float(np.nanmean(errors**2))


def test_derivatives_of_predictions_are_learnt() -> None:
    net = make()
    assert mean_square(net) > 2
    fit(net, epochs=200)
    assert mean_square(net) < 0.05


def test_history_has_the_mean_square_of_the_epoch() -> None:
    net = make()
    before = mean_square(net)
    history = fit(net, epochs=1, batch_size=len(X), derivative_weight=0.5)
    assert history.derivative_loss == [pytest.approx(before, rel=1e-12)]
    value = np.mean((make().predict(X)[:, 0] - Y) ** 2) + 0.5 * before
    assert history.loss == [pytest.approx(value, rel=1e-12)]


def test_validation_loss_is_the_whole_objective() -> None:
    net = make()
    history = fit(net, validation_data=(X, Y), validation_derivatives=G)
    squares = mean_square(net)
    assert history.validation_derivative_loss[-1] == pytest.approx(squares, rel=1e-12)
    value = np.mean((net.predict(X)[:, 0] - Y) ** 2) + squares
    assert history.validation_loss[-1] == pytest.approx(value, rel=1e-12)


def test_validation_data_without_derivatives_has_the_loss_of_values() -> None:
    net = make()
    history = fit(net, validation_data=(X, Y))
    value = np.mean((net.predict(X)[:, 0] - Y) ** 2)
    assert history.validation_loss[-1] == pytest.approx(value, rel=1e-12)
    assert history.validation_derivative_loss == []


def test_validation_split_splits_derivatives() -> None:
    net = make()
    other = make()
    history = fit(net, validation_split=0.2)
    halves: Any = {
        "validation_data": (X[80:], Y[80:]),
        "validation_derivatives": G[80:],
        "derivative_weight": 1.0,
    }
    expected = other.fit(X[:80], Y[:80], epochs=20, derivatives=G[:80], **halves)
    assert history.validation_derivative_loss == pytest.approx(
        expected.validation_derivative_loss, rel=1e-12
    )
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_unknown_derivatives_are_left_out() -> None:
    gaps = G.copy()
    net = make()
    gaps[::2] = np.nan
    gaps[1::2, 0] = np.nan
    before = mean_square(net, gaps)
    history = fit(net, derivatives=gaps, epochs=1, batch_size=len(X))
    assert history.derivative_loss == [pytest.approx(before, rel=1e-12)]


def test_a_batch_without_a_known_derivative_trains_values_alone() -> None:
    gaps = np.full_like(G, np.nan)
    net = make()
    other = make()
    gaps[50:] = G[50:]
    options: dict[str, Any] = {"epochs": 1, "batch_size": 50, "shuffle": False}
    net.fit(X, Y, derivatives=gaps, derivative_weight=1.0, **options)
    other.train_on_batch(X[:50], Y[:50])
    other.train_on_batch(X[50:], Y[50:], derivatives=G[50:])
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-14)


def test_a_step_without_a_known_derivative_trains_values_alone() -> None:
    net = make()
    other = make()
    group = NetGroup([make()])
    loss = net.train_on_batch(X, Y, derivatives=np.full_like(G, np.nan))
    assert loss == pytest.approx(other.train_on_batch(X, Y), rel=1e-12)
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=1e-12)
    losses = group.train_on_batch(X, Y, derivatives=np.full_like(G, np.nan))
    assert losses == pytest.approx(loss, rel=1e-12)


def test_a_step_without_a_known_target_is_not_taken() -> None:
    net = make()
    before = net.parameters.copy()
    with pytest.warns(UserWarning, match="no known target: no step was taken"):
        loss = net.train_on_batch(
            X, Y * np.nan, derivatives=G, missing_targets="ignore"
        )
    assert loss == 0
    np.testing.assert_array_equal(net.parameters, before)


def test_masked_derivatives_are_unknown() -> None:
    masked = np.ma.masked_array(G, G > 1)
    unknown = fit(make(), derivatives=np.where(G > 1, np.nan, G))
    assert fit(make(), derivatives=masked).loss == unknown.loss


def test_columns_of_a_frame_of_derivatives_are_known_by_name() -> None:
    frame = pd.DataFrame(X, columns=list("abc"))
    slopes = pd.DataFrame(G, columns=list("abc"))
    swapped = slopes[["c", "a", "b"]]
    options: Any = {"epochs": 2, "derivative_weight": 1.0}
    found = make().fit(frame, Y, derivatives=swapped, **options)
    assert found.loss == fit(make(), epochs=2).loss
    (of_many,) = fit_many([make()], frame, Y, derivatives=swapped, **options)
    assert of_many.loss == found.loss
    one = make().train_on_batch(frame, Y, derivatives=swapped)
    assert one == make().train_on_batch(X, Y, derivatives=G)


def waves(z: Any) -> Any:
    return np.sin(z), np.cos(z), -np.sin(z)


@pytest.mark.slow
def test_an_activation_that_gives_its_curvature_may_call_any_function() -> None:
    history = fit(make(activation=waves), epochs=50)
    assert history.derivative_loss[-1] < history.derivative_loss[0] / 2


def test_threads_do_not_change_bits() -> None:
    one = make(n_threads=1)
    two = make(n_threads=2)
    for net in (one, two):
        fit(net, epochs=200)
    np.testing.assert_array_equal(one.parameters, two.parameters)


def test_a_step_has_the_bits_of_an_epoch_of_one_batch() -> None:
    net = make(l2=0.1)
    other = make(l2=0.1)
    options: Any
    for n in (100, 40, 100):
        losses = net.train_on_batch(X[:n], Y[:n], derivatives=G[:n])
        options = {"derivatives": G[:n], "derivative_weight": 1.0, "batch_size": n}
        history = other.fit(X[:n], Y[:n], epochs=1, shuffle=False, **options)
        assert history.loss == [losses]
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_monitors_look_at_losses_of_derivatives() -> None:
    stopping = EarlyStopping("validation_derivative_loss", patience=3)
    history = fit(make(), validation_split=0.2, early_stopping=stopping, epochs=60)
    assert history.best_epoch == int(np.argmin(history.validation_derivative_loss))
    assert "derivative_loss" in history.to_frame()


def test_a_resumed_fit_has_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    class Stop(Exception): ...

    def stop(report: Any) -> None:
        if report.epoch == 9:
            raise Stop

    path = tmp_path / "fit.safetensors"
    net = make()
    other = make()
    whole = fit(net)
    options = {"checkpoint": path, "checkpoint_every": 5}
    with pytest.raises(Stop):
        fit(other, callbacks=stop, **options)
    again = make()
    history = fit(again, resume=True, **options)
    assert history.derivative_loss == whole.derivative_loss
    np.testing.assert_array_equal(again.parameters, net.parameters)


def test_balanced_weights_are_ratios_of_mean_squares() -> None:
    net = make()
    other = make()
    weights = 3 * np.mean(Y**2) / np.mean(G**2, axis=0)
    net.fit(X, Y, derivatives=G, epochs=20)
    fit(other, derivative_weight=weights)
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-12)


def test_a_balanced_column_weighs_at_most_ten_times_the_largest() -> None:
    net = make()
    other = make()
    flat = G.copy()
    flat[:, 0] *= 1e-6
    mean_squares = np.mean(flat**2, axis=0)
    weights = 3 * np.mean(Y**2) / np.maximum(mean_squares, mean_squares.max() / 10)
    fit(net, derivatives=flat, derivative_weight="balanced")
    fit(other, derivatives=flat, derivative_weight=weights)
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3, 8, 2), (3, 2), (3, 5, 9, 1)])
def test_vjp_is_the_gradient_of_a_sum_over_outputs_and_slopes(
    sizes: tuple[int, ...],
) -> None:
    net = make(sizes=sizes, activation="softplus")
    by_outputs = rng.normal(size=(20, sizes[-1]))
    by_slopes = rng.normal(size=(20, sizes[-1], 3))

    def value(x: Array) -> float:
        of_outputs = by_outputs * net.predict_raw(x)
        of_slopes = by_slopes * jacobian(net, x, raw=True)
        return float(of_outputs.sum() + of_slopes.sum())

    x = X[:20]
    step = 1e-6
    gradient, by_x = net.vjp(x, by_outputs, jacobian_gradient=by_slopes)
    for i in range(0, len(net.parameters), 7):
        kept = net.parameters[i]
        net.parameters[i] = kept + step
        above = value(x)
        net.parameters[i] = kept - step
        slope = (above - value(x)) / (2 * step)
        net.parameters[i] = kept
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-6)
    moved = np.zeros_like(x)
    moved[4, 1] = step
    slope = (value(x + moved) - value(x - moved)) / (2 * step)
    assert by_x[4, 1] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_a_step_by_the_slopes_alone() -> None:
    net = make(optimizer="sgd")
    other = make(optimizer="sgd")
    u = rng.normal(size=(20, 3))
    gradient = other.vjp(X[:20], None, False, jacobian_gradient=u)
    net.train_on_gradient(X[:20], None, jacobian_gradient=u)
    other.apply_gradient(gradient)
    np.testing.assert_allclose(net.parameters, other.parameters, rtol=0, atol=1e-14)


def test_many_nets_have_the_bits_of_fits() -> None:
    nets = [make(seed=i) for i in range(3)]
    rows = [np.arange(60), np.arange(40, 100)]
    options: dict[str, Any] = {"epochs": 5, "derivative_weight": "balanced"}
    histories = fit_many(nets[:2], X, Y, derivatives=G, rows=rows, **options)
    for i, taken in enumerate(rows):
        alone = make(seed=i)
        history = alone.fit(X[taken], Y[taken], derivatives=G[taken], **options)
        np.testing.assert_array_equal(alone.parameters, nets[i].parameters)
        assert histories[i].derivative_loss == history.derivative_loss


def test_a_group_takes_the_steps_of_its_nets() -> None:
    group = NetGroup([make(seed=i) for i in range(2)])
    nets = [make(seed=i) for i in (0, 1)]
    each = np.stack([G, 2 * G])
    losses = group.train_on_batch(X, Y, derivatives=each)
    u = np.stack([G, -G])
    slopes = np.ones((100, 1))
    group.train_on_gradient(X, slopes, jacobian_gradient=u)
    gradients = group.vjp(X, None, False, jacobian_gradient=u)
    for i, net in enumerate(nets):
        assert losses[i] == net.train_on_batch(X, Y, derivatives=each[i])
        net.train_on_gradient(X, slopes, jacobian_gradient=u[i])
        np.testing.assert_array_equal(group[i].parameters, net.parameters)
        gradient = net.vjp(X, None, False, jacobian_gradient=u[i])
        np.testing.assert_array_equal(gradients[i], gradient)
