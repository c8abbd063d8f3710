"""Nets whose predictions rise or fall with some inputs, bit for bit."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmlp
from fastmlp import EMA, MLP, SGD, SWA, Adagrad, Adam, AdamW, Nadam, Quantile, RMSprop, fit_many
from fastmlp.model import core_of
from fastmlp.network import layer_settings
from fastmlp.rules.optimizer_protocol import average_of

EXACT = ("relu", "leaky_relu", "identity")
OPTIMIZERS = (
    SGD(0.05),
    SGD(0.05, momentum=0.9, nesterov=True),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
    Nadam(0.01),
    RMSprop(0.01),
    Adagrad(0.1),
    Adam(0.01, average=EMA(0.9)),
    SGD(0.05, average=SWA(start=0.5)),
    Adam(0.01, clipvalue=0.01),
    Adam(0.01, global_clipnorm=0.1),
)
LOSSES: tuple[Any, ...] = (
    "mse",
    "binary_cross_entropy",
    "poisson",
    Quantile([0.2, 0.8]),
    "gaussian_nll",
)


def outputs_of(loss: Any) -> int:
    return 2 if isinstance(loss, Quantile) or loss == "gaussian_nll" else 1


def is_ordered(net: MLP, X: Any, signs: Any, n_points: int = 400) -> bool:
    grid = np.sort(np.random.default_rng(1).uniform(-4, 4, n_points)).astype(net.dtype)
    for j, sign in enumerate(signs):
        rows = np.repeat(X[:5], n_points, axis=0)
        rows[:, j] = np.tile(grid, 5)
        values = net.predict(rows)
        if core_of(net).engine.network.loss.link == "mean_std":
            values = values[:, ::2]
        steps = sign * np.diff(values.reshape(5, n_points, -1), axis=1)
        by_row = np.concatenate([net.predict(row[None]) for row in rows[:n_points:9]])
        alone = sign * np.diff(by_row[:, : values.shape[1]], axis=0)
        if sign and ((steps < 0).any() or (alone[:, 0] < 0).any()):
            return False
    return True


@pytest.mark.few(8)
@pytest.mark.parametrize("seed", range(24))
def test_drawn_nets_are_monotone_after_a_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def one_of(values: Any) -> Any:
        return values[rng.integers(len(values))]

    n = int(rng.integers(1, 6))
    signs = rng.integers(-1, 2, n).tolist()
    signs[0] = signs[0] or 1
    loss, hidden = one_of(LOSSES), rng.integers(1, 40, rng.integers(0, 4)).tolist()
    penalties = {"l2": one_of((0.0, 1e-3)), "l1": one_of((0.0, 1e-3))}
    net = MLP(
        (n, *hidden, outputs_of(loss)),
        activation=one_of(EXACT),
        loss=loss,
        optimizer=one_of(OPTIMIZERS),
        dtype=one_of(("float32", "float64")),
        monotonic_cst=signs,
        dropout=one_of((0.0, 0.2)) if hidden else 0.0,
        seed=seed,
        **penalties,
    )
    X = rng.uniform(-2, 2, (300, n)).astype(net.dtype)
    # The data ask for the contrary.
    y = -X @ np.array(signs) + rng.normal(size=300)
    y = (y > 0) * 1.0 if loss in ("binary_cross_entropy", "poisson") else y
    assert is_ordered(net, X, signs)
    net.fit(X, y, epochs=3, batch_size=int(one_of((1, 32, 300))))
    assert is_ordered(net, X, signs)
    if not isinstance(average_of(net.optimizer), SWA):
        for _ in range(3):
            net.train_on_batch(X[:8], y[:8])
    value, gradient = net.loss_and_gradient(X, y)
    net.apply_gradient(gradient)
    assert np.isfinite(value)
    assert is_ordered(net, X, signs)


@pytest.mark.parametrize("seed", range(6))
def test_weights_that_are_written_have_their_signs_before_a_step(seed: int) -> None:
    """A step from weights of wrong signs is that from these set to 0, the first and later ones."""
    rng = np.random.default_rng(seed)
    sizes = (3, *rng.integers(1, 9, rng.integers(3)).tolist(), 1)
    signs = [[1, -1, 1], [1, 0, -1], [0, -1, 0]][seed % 3]
    options: dict[str, Any] = {"monotonic_cst": signs, "dtype": ("float32", "float64")[seed % 2]}
    nets = [MLP(sizes, seed=seed, **options) for _ in range(4)]
    codes = layer_settings.codes_of(core_of(nets[0]).engine.network)
    X = rng.normal(size=(20, 3)).astype(nets[0].dtype)
    y, output = rng.normal(size=(2, 20, 1)).astype(nets[0].dtype)
    for step in range(4):
        if step != 1:
            written = rng.normal(size=len(codes)).astype(nets[0].dtype)
            right = layer_settings.bounded(written, codes)
            for net, parameters in zip(nets, (written, right, written, written), strict=True):
                net.parameters[:] = parameters
        for net in nets[:2]:
            net.train_on_batch(X, y)
        # A gradient is of no weights, but a step from them.
        nets[2].train_on_gradient(X, output)
        nets[3].fit(X, y, epochs=1, batch_size=20, shuffle=False)
        assert np.array_equal(nets[0].parameters, nets[1].parameters)
        assert np.array_equal(nets[0].parameters, nets[3].parameters)
        assert (layer_settings.bounded(nets[2].parameters, codes) == nets[2].parameters).all()


@pytest.mark.parametrize("seed", range(12))
def test_no_step_of_random_weights_goes_the_wrong_way_in_any_path(seed: int) -> None:
    """By one row, by a few, by many, and in bfloat16."""
    rng = np.random.default_rng(seed)
    dtype: Any = ("float32", "float64")[seed % 2]
    widths = rng.integers(1, 60, rng.integers(1, 4)) * (1, 1, 10)[seed % 3]
    sizes = (4, *widths.tolist(), 1)
    net = MLP(sizes, activation="relu" if seed % 4 else "leaky_relu", dtype=dtype, seed=0)
    signs = [1, -1, 0, int(rng.integers(-1, 2))]
    codes = layer_settings.codes_of(core_of(net).engine.network._replace(signs=tuple(signs)))
    net.parameters[:] = layer_settings.bounded(rng.normal(size=len(codes)), codes)
    bound = MLP(sizes, monotonic_cst=signs)
    assert (layer_settings.codes_of(core_of(bound).engine.network) == codes).all()
    n, base = 3000, rng.normal(size=4)
    for j in np.flatnonzero(signs):
        rows = np.repeat(base[None], n, axis=0)
        # Half of the steps are of one unit in the last place.
        near = rng.uniform(0.5, 1) + np.arange(n // 2) * np.finfo(dtype).eps
        rows[:, j] = np.sort(np.concatenate([near, rng.normal(size=n - n // 2)]))
        rows = rows.astype(dtype)
        paths = [net.predict(rows), np.concatenate([net.predict(part) for part in rows[:70, None]])]
        paths.append(np.concatenate([net.predict(rows[i : i + 7]) for i in range(0, 700, 7)]))
        if dtype == "float32" and min(sizes[1:-1]) >= 32:
            paths.append(net.predict(rows, compute_dtype="bfloat16"))
        for values in paths:
            assert (signs[j] * np.diff(values[:, 0]) >= 0).all()


def test_the_signs_are_kept_by_each_step_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 3)), rng.normal(size=64)
    signs = [1, 0, -1]
    net = MLP((3, 9, 7, 1), monotonic_cst=signs, optimizer=SGD(0.3), dtype="float64", seed=0)
    free = MLP((3, 9, 7, 1), optimizer=SGD(0.3), dtype="float64", seed=0)
    free.parameters[:] = net.parameters
    codes = layer_settings.codes_of(core_of(net).engine.network)
    for _ in range(20):
        net.fit(X, y, epochs=1, batch_size=64)
        free.fit(X, y, epochs=1, batch_size=64)
        free.parameters[:] = layer_settings.bounded(free.parameters, codes)
        np.testing.assert_array_equal(net.parameters, free.parameters)
    assert (free.parameters == 0).any()


def test_directions_and_codes() -> None:
    net = MLP((3, 4, 8, 2), monotonic_cst=[1, 0, -1], loss="gaussian_nll", seed=0)
    layers = layer_settings.directions(net.layer_sizes, [1, 0, -1])
    assert [layer.tolist() for layer in layers[1:3]] == [[0, 0, 1, -1], [0, 0, 1, -1, 1, -1, 1, -1]]
    codes = MLP((3, 4, 8, 2), seed=0)
    codes.parameters[:] = layer_settings.codes_of(core_of(net).engine.network)
    first, second, third = codes.weights
    assert first.tolist() == [[2, 2, 1, -1], [0, 0, 0, 0], [2, 2, -1, 1]]
    assert (second[2:, :2] == 2).all()
    assert (second[:2] == 0).all()
    assert (third[:, 1] == 0).all()
    assert third[:, 0].tolist() == [0, 0, 1, -1, 1, -1, 1, -1]
    assert not any(bias.any() for bias in codes.biases)
    # None is free where every input is constrained.
    assert all(layer.all() for layer in layer_settings.directions((2, 5, 5, 1), (1, -1)))


def test_zeros_are_no_constraint() -> None:
    X = np.random.default_rng(0).normal(size=(50, 2))
    free, zeros = (MLP((2, 5, 1), monotonic_cst=cst, seed=0) for cst in (None, [0, 0]))
    for net in (free, zeros):
        net.fit(X, X[:, 0], epochs=3)
    assert zeros.monotonic_cst is None
    np.testing.assert_array_equal(zeros.parameters, free.parameters)


def test_files_copies_packs_and_threads_keep_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)).astype("float32")
    y = -X[:, 0] + X[:, 1] ** 2

    def net(**settings: Any) -> MLP:
        return MLP((3, 64, 32, 1), monotonic_cst=[1, 0, -1], seed=3, **settings)

    first, second, packed = net(n_threads=1), net(n_threads=2), net()
    first.fit(X, y, epochs=4)
    second.fit(X, y, epochs=4)
    np.testing.assert_array_equal(first.parameters, second.parameters)
    fit_many([packed, MLP((3, 64, 32, 1), seed=1)], X, y, epochs=4)
    np.testing.assert_array_equal(first.parameters, packed.parameters)
    fastmlp.save(first, tmp_path / "net.safetensors")
    for other in (fastmlp.load(tmp_path / "net.safetensors"), copy.deepcopy(first)):
        assert other.monotonic_cst == (1, 0, -1)
        other.fit(X, -y, epochs=2)
        assert is_ordered(other, X, [1, 0, -1])
    assert "monotonic_cst=(1, 0, -1)" in repr(first)
    bridged = net().as_estimator(random_state=0, epochs=2).fit(X, y)
    assert is_ordered(bridged.net_, X, [1, 0, -1])
