"""What scikit-learn's estimators do not have: further settings, validation rows, transform."""

from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import LABELS, REAL, WEIGHTS, X, same
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score, make_scorer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import AdamW, MLPClassifier, MLPRegressor
from fastmlp.rules.activations import RULES
from fastmlp.rules.optimizers import OPTIMIZERS

pytestmark = [unconverged, needs_compiler]
SMALL = MLPClassifier((5,), max_iter=8, random_state=0)
NEW, NEW_LABELS = X[::2] + 0.1, LABELS[::2]


@pytest.mark.parametrize("activation", RULES)
def test_every_activation_of_the_core_trains(activation: str) -> None:
    model = clone(SMALL).set_params(activation=activation, max_iter=30, learning_rate_init=0.03)
    model.fit(X, LABELS)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("solver", OPTIMIZERS)
def test_every_optimizer_of_the_core_trains(solver: str) -> None:
    model = clone(SMALL).set_params(solver=solver, max_iter=30, learning_rate_init=0.03)
    model.fit(X, LABELS)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    before = model.loss_curve_[-1]
    assert model.partial_fit(X, LABELS).loss_ < before


def test_an_activation_for_each_layer_and_one_of_your_own() -> None:
    def square(z: Any) -> Any:
        return z * z, z + z

    model = clone(SMALL).set_params(hidden_layer_sizes=(4, 3), activation=["gelu", square])
    model.fit(X, LABELS)
    hidden = model.transform(X)
    assert hidden.shape == (len(X), 3)
    assert (hidden >= 0).all()
    with pytest.raises(ValueError, match="names 1 layer, but layer_sizes has 2"):
        clone(model).set_params(activation=["gelu"]).fit(X, LABELS)


def test_unknown_names_say_what_is_known() -> None:
    for setting in ("activation", "solver"):
        with pytest.raises(ValueError, match=f"'{setting}' parameter.*'sgd|gelu'"):
            clone(SMALL).set_params(**{setting: "no such"}).fit(X, LABELS)


def test_the_class_of_an_optimizer_is_refused() -> None:
    message = r"MLPClassifier: solver must be an optimizer, not its class: AdamW\(...\)"
    with pytest.raises(TypeError, match=message):
        clone(SMALL).set_params(solver=AdamW).fit(X, LABELS)


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_any_number_of_threads_gives_the_same_bits(n_jobs: int) -> None:
    assert same(clone(SMALL).set_params(n_jobs=n_jobs).fit(X, LABELS), clone(SMALL).fit(X, LABELS))


def test_class_weights_are_sample_weights() -> None:
    model = clone(SMALL).set_params(class_weight={"yes": 3.0, "no": 0.5})
    by_class = np.where(LABELS == "yes", 3.0, 0.5)
    plain = clone(SMALL).fit(X, LABELS, sample_weight=by_class)
    assert same(model.fit(X, LABELS), plain)
    both = clone(SMALL).fit(X, LABELS, sample_weight=by_class * WEIGHTS)
    assert same(model.fit(X, LABELS, sample_weight=WEIGHTS), both)
    counts = {label: np.mean(label == LABELS) for label in ("yes", "no")}
    balanced = np.array([0.5 / counts[label] for label in LABELS])
    model.set_params(class_weight="balanced").fit(X, LABELS)
    expected = clone(SMALL).fit(X, LABELS, sample_weight=balanced)
    for mine, other in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-9)


@pytest.mark.parametrize("early", [False, True])
def test_validation_rows_of_your_own(early: bool) -> None:
    settings = {"early_stopping": early, "max_iter": 30, "learning_rate_init": 0.05}
    model = clone(SMALL).set_params(**settings)
    model.fit(X, LABELS, X_val=NEW, y_val=NEW_LABELS, sample_weight_val=WEIGHTS[::2])
    assert len(model.validation_loss_curve_) == model.n_iter_
    if early:
        score = model.score(NEW, NEW_LABELS, sample_weight=WEIGHTS[::2])
        assert score == pytest.approx(model.best_validation_score_)
    else:
        p = model.predict_proba(NEW)[np.arange(len(NEW)), (NEW_LABELS == "yes").astype(int)]
        expected = np.average(-np.log(p), weights=WEIGHTS[::2])
        assert model.validation_loss_curve_[-1] == pytest.approx(expected)
        assert same(model, clone(model).fit(X, LABELS))


def test_a_pipeline_transforms_the_validation_rows() -> None:
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        net = clone(SMALL).set_fit_request(X_val=True, y_val=True)
        steps = [("scale", StandardScaler()), ("net", net)]
        model = Pipeline(steps, transform_input=["X_val"]).fit(
            X, LABELS, X_val=NEW, y_val=NEW_LABELS
        )
    scaler = StandardScaler().fit(X)
    rows = {"X_val": scaler.transform(NEW), "y_val": NEW_LABELS}
    expected = clone(SMALL).fit(scaler.transform(X), LABELS, **rows)
    assert model[-1].validation_loss_curve_ == expected.validation_loss_curve_


def test_scoring_decides_early_stopping() -> None:
    settings = {"early_stopping": True, "validation_fraction": 0.3, "max_iter": 20}
    model = clone(SMALL).set_params(**settings)
    for scoring in ("balanced_accuracy", make_scorer(balanced_accuracy_score)):
        model.set_params(scoring=scoring).fit(X, LABELS)
        assert len(model.validation_scores_) == model.n_iter_
    by_loss = model.set_params(scoring="loss").fit(X, LABELS)
    assert by_loss.validation_scores_ == [-loss for loss in by_loss.validation_loss_curve_]


@pytest.mark.parametrize("hidden", [(5,), (7, 3), ()])
def test_transform_gives_the_last_hidden_layer(hidden: tuple[int, ...]) -> None:
    model = MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", max_iter=3).fit(X, REAL)
    values = X
    for coef, intercept in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        values = np.tanh(values @ coef + intercept)
    np.testing.assert_allclose(model.transform(X), values, rtol=1e-9)
    np.testing.assert_allclose(
        values @ model.coefs_[-1][:, 0] + model.intercepts_[-1], model.predict(X), rtol=1e-7
    )
    assert len(model.get_feature_names_out()) == values.shape[1]
    frame: Any = model.set_output(transform="pandas").transform(X)
    assert frame.columns[0] == "mlpregressor0"


def test_no_validation_leaves_no_curve() -> None:
    assert clone(SMALL).fit(X, LABELS).validation_loss_curve_ is None
