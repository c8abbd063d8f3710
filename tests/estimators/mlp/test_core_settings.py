"""Dropout and noise, averages and mixed precision as settings of the estimators."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditions import count_as_wide
from fitting import needs_compiler, unconverged
from pairs import X, same
from sklearn.base import clone

import fastmlp
from fastmlp import (
    EMA,
    MLP,
    SGD,
    SWA,
    Adam,
    Cosine,
    MLPClassifier,
    MLPRegressor,
    ScheduleFreeAdamW,
)
from fastmlp.rules import updates

pytestmark = unconverged
LABELS, REAL = (X[:, 0] > 0).astype(int), X[:, 0] * X[:, 1]
SMALL: dict[str, Any] = {"hidden_layer_sizes": (9,), "max_iter": 4, "random_state": 0}
DROPPED: dict[str, Any] = {"dropout": [0.5], "input_dropout": 0.2, "input_noise": 0.1}
STILL = 1e-300


@needs_compiler
def test_masks_are_those_of_the_seed_in_early_stopping_too() -> None:
    settings = {**SMALL, **DROPPED, "early_stopping": True, "validation_fraction": 0.3}
    model = MLPClassifier(**settings)
    fits = [clone(model).set_params(n_jobs=n).fit(X, LABELS) for n in (1, 2)]
    assert same(*fits)
    assert fits[0].validation_loss_curve_ == fits[1].validation_loss_curve_
    assert not same(fits[0], clone(model).set_params(random_state=1).fit(X, LABELS))
    assert not same(fits[0], clone(model).set_params(dropout=0.0).fit(X, LABELS))
    # Nothing is dropped in predictions.
    assert np.array_equal(fits[0].predict_proba(X), fits[0].predict_proba(X))


@needs_compiler
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_each_call_of_partial_fit_drops_others(solver: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"solver": solver, "learning_rate_init": STILL, "shuffle": False}
    model = MLPRegressor(**SMALL, dropout=Cosine(0.5), **settings)
    # The weights stay as they are: losses differ by what is dropped.
    losses = [model.partial_fit(X, REAL).loss_ for _ in range(3)]
    assert len(set(losses)) == 3
    fastmlp.save(model, tmp_path / "model.safetensors", include_training_state=True)
    again = fastmlp.load(tmp_path / "model.safetensors")
    assert again.partial_fit(X, REAL).loss_ == model.partial_fit(X, REAL).loss_


@needs_compiler
def test_zeros_are_no_dropout() -> None:
    plain = MLPClassifier(**SMALL, solver="lbfgs")
    zeros = clone(plain).set_params(dropout=[0.0], input_noise=0)
    assert same(plain.fit(X, LABELS), zeros.fit(X, LABELS))


# --- averages ---

AVERAGED = MLPClassifier(**SMALL, batch_size=10, shuffle=False, alpha=0.01)
SOLVERS: list[tuple[str, Any]] = [
    ("sgd", SGD(0.1, momentum=0.9, nesterov=True)),
    ("adam", Adam(0.1, epsilon_hat=True)),
]


def net_from(start: Any, optimizer: Any) -> MLP:
    """A net in `MLP`'s words, with the weights that an estimator's fit begins with."""
    net = MLP((6, 9, 1), loss="binary_cross_entropy", optimizer=optimizer, l2=0.01, dtype="float64")
    net.parameters[:] = start.net_.parameters
    return net


@needs_compiler
@pytest.mark.parametrize(
    ("solver", "optimizer", "average"), [(*SOLVERS[0], EMA(0.9)), (*SOLVERS[1], SWA(0.5))]
)
def test_it_has_the_average_that_a_net_has(solver: str, optimizer: Any, average: Any) -> None:
    model = clone(AVERAGED).set_params(solver=solver, learning_rate_init=0.1, average=average)
    start = clone(model).set_params(learning_rate_init=STILL).fit(X, LABELS)
    model.fit(X, LABELS)
    changed = type(optimizer)(**optimizer.settings(), average=average)
    net = net_from(start, changed)
    net.fit(X, LABELS, epochs=4, batch_size=10, shuffle=False)
    np.testing.assert_allclose(model.net_.parameters, net.parameters, rtol=1e-9, atol=1e-12)
    assert model.net_.optimizer == changed
    assert not same(model, clone(model).set_params(average=None).fit(X, LABELS))


@needs_compiler
@pytest.mark.parametrize(("solver", "optimizer"), SOLVERS)
def test_partial_fit_goes_on_with_the_average(solver: str, optimizer: Any) -> None:
    model = clone(AVERAGED).set_params(solver=solver, learning_rate_init=0.1, average=EMA(0.9))
    start = clone(model).set_params(learning_rate_init=STILL).fit(X, LABELS)
    net = net_from(start, type(optimizer)(**optimizer.settings(), average=EMA(0.9)))
    for _ in range(3):
        model.partial_fit(X, LABELS, classes=[0, 1])
        net.fit(X, LABELS, epochs=1, batch_size=10, shuffle=False)
        np.testing.assert_allclose(model.net_.parameters, net.parameters, rtol=1e-9, atol=1e-12)


@needs_compiler
def test_validation_callbacks_and_early_stopping_see_the_average() -> None:
    model = clone(AVERAGED).set_params(average=EMA(0.9), learning_rate_init=0.05, max_iter=9)
    seen: list[float] = []
    model.fit(X, LABELS, X_val=X[:9], y_val=LABELS[:9],
              callbacks=lambda report: seen.append(report.net.predict(X[:1]).item()))  # fmt: skip
    p = model.predict_proba(X[:9])[np.arange(9), LABELS[:9]]
    assert model.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean())
    assert seen[-1] == model.predict_proba(X[:1])[0, 1]
    # Looking at it changes nothing.
    assert same(model, clone(model).fit(X, LABELS))
    early = clone(model).set_params(early_stopping=True, validation_fraction=0.3).fit(X, LABELS)
    assert early.score(X, LABELS) > 0.5


@needs_compiler
def test_an_average_that_began_anew_goes_on_in_a_pickle() -> None:
    model = clone(AVERAGED).set_params(average=EMA(0.9), pickle_state=True).fit(X, LABELS)
    model.coefs_[0][0, 0] = 3.0
    model.partial_fit(X, LABELS)
    other = pickle.loads(pickle.dumps(model))
    assert same(model.partial_fit(X, LABELS), other.partial_fit(X, LABELS))


# --- mixed precision ---

WIDE: Any = np.random.default_rng(0).normal(size=(60, 20))
SINGLE, WIDE_LABELS = WIDE.astype(np.float32), (WIDE[:, 0] > 0).astype(int)
MIXED = {**SMALL, "hidden_layer_sizes": (24, 20), "compute_dtype": "bfloat16"}


@pytest.fixture
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(16, monkeypatch)


@pytest.mark.usefixtures("narrow_layers_too")
@pytest.mark.parametrize(("kind", "y"), [(MLPClassifier, WIDE_LABELS), (MLPRegressor, WIDE[:, 0])])
def test_an_estimator_trains_float32_in_mixed_precision(kind: Any, y: Any) -> None:
    model = kind(**MIXED).fit(WIDE, y)
    assert {each.dtype for each in model.coefs_} == {np.dtype(np.float32)}
    assert same(kind(**MIXED).fit(SINGLE, y), model)
    plain = clone(model).set_params(compute_dtype=None).fit(SINGLE, y)
    assert not same(plain, model)
    np.testing.assert_allclose(plain.predict(SINGLE), model.predict(SINGLE), atol=0.02)
    assert model.net_.compute_dtype == "bfloat16"
    layers = ["float32", "bfloat16", "float32"]
    of_layers = clone(model).set_params(compute_dtype=layers).fit(WIDE, y)
    assert of_layers.net_.compute_dtype == tuple(layers)
    assert not same(of_layers, model)
    with pytest.raises(ValueError, match=f"^{kind.__name__}: compute_dtype must have one dtype"):
        of_layers.set_params(compute_dtype=layers[:2]).fit(WIDE, y)
    unfitted = clone(of_layers)
    with pytest.raises(ValueError, match=f"^{kind.__name__}: compute_dtype must have one dtype"):
        unfitted.fit(WIDE, y)
    assert not hasattr(unfitted, "coefs_")


@pytest.mark.usefixtures("narrow_layers_too")
def test_partial_fits_train_in_mixed_precision() -> None:
    models = [MLPClassifier(**{**MIXED, "compute_dtype": c}) for c in ("bfloat16", None)]
    for model in models:
        model.partial_fit(SINGLE, WIDE_LABELS, classes=[0, 1])
    assert not same(*models)


def test_parameters_of_an_earlier_fit_in_float64_are_an_error() -> None:
    model = MLPClassifier(**{**MIXED, "compute_dtype": None}, warm_start=True)
    model.fit(WIDE, WIDE_LABELS).set_params(compute_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"^MLPClassifier: compute_dtype='bfloat16' needs"):
        model.fit(WIDE, WIDE_LABELS)


# --- what is wrong ---


class Mine:
    learning_rate, rule = 0.1, staticmethod(updates.sgd)

    def coefficients(self, first_step: int, rates: Any) -> Any:
        return rates[:, None]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"dropout": 1.0}, r"'dropout' parameter of MLPClassifier must be a float in the range \[0.0,"),
    ({"input_noise": -1}, "'input_noise' parameter of MLPClassifier must be a float in the range"),
    ({"dropout": [0.1, 0.2]}, "dropout has 2 rates, but layer_sizes has 1 hidden"),
    ({"dropout": [1.5]}, r"dropout\[0\] must be a number in \[0, 1\)"),
    (
        {"dropout": 0.1, "solver": "lbfgs"},
        r'^MLPClassifier: dropout=0.1 needs a solver that works by batches, such as solver="adam"',
    ),
    ({"average": True}, r"'average' parameter of .* Did you mean EMA\(0.99\)\?"),
    ({"average": EMA(), "solver": SGD(0.1, average=SWA())}, "averages, not both"),
    ({"average": EMA(), "solver": ScheduleFreeAdamW()}, "averages, not both"),
    ({"average": EMA(), "solver": Mine()}, "needs an optimizer of fastmlp's as the sol"),
    ({"compute_dtype": "bf16"}, "'compute_dtype' parameter .* Did you mean 'bfloat16'?"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_cannot_be_is_told_before_anything_runs(
    settings: dict[str, Any], message: str
) -> None:
    model = MLPClassifier(**{**SMALL, **settings})
    with pytest.raises(TypeError if "optimizer" in message else ValueError, match=message):
        model.fit(X, LABELS)
    assert not hasattr(model, "coefs_")
