"""compute_dtype of the estimators: what `MLP` does with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditions import count_as_wide
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from fastmlp import (
    MLP,
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPRegressor,
    MLPSearchCV,
    fit_many,
    load,
    save,
)

RNG = np.random.default_rng(0)
X, Z = RNG.normal(size=(60, 20)), RNG.normal(size=60)
LABELS = (X[:, 0] > 0).astype(int)
SETTINGS: dict[str, Any] = {
    "hidden_layer_sizes": (24, 20), "max_iter": 3, "random_state": 0, "compute_dtype": "bfloat16",
}  # fmt: skip
SMALL = MLPClassifier(**SETTINGS)
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


@pytest.fixture(autouse=True)
def narrow_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    count_as_wide(16, monkeypatch)


def coefficients(model: Any) -> bytes:
    return b"".join(each.tobytes() for each in (*model.coefs_, *model.intercepts_))


@pytest.mark.parametrize(("kind", "y"), [(MLPClassifier, LABELS), (MLPRegressor, Z)])
def test_an_estimator_trains_float32_in_mixed_precision(kind: Any, y: Any) -> None:
    model = kind(**SETTINGS).fit(X, y)
    assert {each.dtype for each in model.coefs_} == {np.dtype(np.float32)}
    single = X.astype(np.float32)
    assert coefficients(kind(**SETTINGS).fit(single, y)) == coefficients(model)
    plain = kind(**{**SETTINGS, "compute_dtype": None}).fit(single, y)
    assert coefficients(plain) != coefficients(model)
    np.testing.assert_allclose(plain.predict(single), model.predict(single), atol=0.02)
    assert model.net_.compute_dtype == "bfloat16"


def test_members_of_an_ensemble_train_in_mixed_precision() -> None:
    model = MLPEnsembleClassifier(n_members=2, **SETTINGS).fit(X, LABELS)
    for seed, member in enumerate(model.estimators_):
        alone = clone(member).fit(X, LABELS)
        assert coefficients(alone) == coefficients(member), seed
        assert alone.compute_dtype == "bfloat16"


def test_the_estimator_of_a_net_trains_in_mixed_precision() -> None:
    net = MLP((20, 24, 20, 1), compute_dtype="bfloat16", n_threads=1)
    model = net.as_estimator("regressor", epochs=2, random_state=3).fit(X, Z)
    alone = MLP((20, 24, 20, 1), compute_dtype="bfloat16", seed=3)
    alone.fit(X, Z, epochs=2)
    assert model.net_.parameters.tobytes() == alone.parameters.tobytes()
    plain = clone(model).set_params(compute_dtype=None).fit(X, Z)
    assert plain.net_.parameters.tobytes() != alone.parameters.tobytes()
    error = np.abs(model.net_.predict(X, compute_dtype="bfloat16")[:, 0] - model.predict(X)).max()
    assert 0 < error < 0.02


def test_a_search_tries_both_precisions() -> None:
    search: Any = MLPSearchCV(clone(SMALL), {"compute_dtype": ["bfloat16", None]}, cv=3)
    expected = GridSearchCV(clone(SMALL), search.param_grid, cv=3)
    for each in (search, expected):
        each.fit(X.astype(np.float32), LABELS)
    assert search.best_params_ == expected.best_params_
    assert coefficients(search.best_estimator_) == coefficients(expected.best_estimator_)
    for k in range(3):
        name = f"split{k}_test_score"
        np.testing.assert_array_equal(search.cv_results_[name], expected.cv_results_[name])


def test_nets_of_both_precisions_train_together() -> None:
    def nets() -> list[MLP]:
        return [MLP((20, 24, 20, 1), compute_dtype=c, seed=1) for c in ("bfloat16", None)]

    together, alone = nets(), nets()
    fit_many(together, X, Z, epochs=2, batch_size=16)
    for net in alone:
        net.fit(X, Z, epochs=2, batch_size=16)
    results = [net.parameters.tobytes() for net in together]
    assert results == [net.parameters.tobytes() for net in alone]
    assert results[0] != results[1]


def test_a_file_keeps_the_setting(tmp_path: Path) -> None:
    save(clone(SMALL).fit(X, LABELS), tmp_path / "model")
    assert load(tmp_path / "model").compute_dtype == "bfloat16"


def test_layers_that_are_told_take_part() -> None:
    report = ["float32", "bfloat16", "float32"]
    model = clone(SMALL).set_params(compute_dtype=report).fit(X, LABELS)
    assert model.net_.compute_dtype == tuple(report)
    assert coefficients(model) != coefficients(clone(SMALL).fit(X, LABELS))
    with pytest.raises(ValueError, match=r"^MLPClassifier: compute_dtype must have one dtype"):
        clone(SMALL).set_params(compute_dtype=report[:2]).fit(X, LABELS)


def test_partial_fits_train_in_mixed_precision() -> None:
    models = [clone(SMALL).set_params(compute_dtype=given) for given in ("bfloat16", None)]
    for model in models:
        model.partial_fit(X.astype(np.float32), LABELS, classes=[0, 1])
    assert coefficients(models[0]) != coefficients(models[1])


def test_parameters_of_an_earlier_fit_in_float64_are_an_error() -> None:
    model = clone(SMALL).set_params(compute_dtype=None, warm_start=True).fit(X, LABELS)
    model.set_params(compute_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"^MLPClassifier: compute_dtype='bfloat16' needs"):
        model.fit(X, LABELS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"compute_dtype": "bf16"}, "'compute_dtype' parameter .* Did you mean 'bfloat16'?"),
        ({"solver": "lbfgs"}, "compute_dtype='bfloat16' needs a solver that works by batches"),
    ],
)
def test_what_does_not_fit_is_an_error(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clone(SMALL).set_params(**settings).fit(X, LABELS)
