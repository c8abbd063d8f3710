"""MLP.as_estimator: any net in scikit-learn's tools; warnings at the user's line."""

import inspect
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import REAL, X
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

import fastmlp
from fastmlp import (
    MLP,
    SGD,
    Adam,
    Cosine,
    Focal,
    Loss,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    Quantile,
    Tweedie,
)
from fastmlp.estimators import net_estimators

LABELS = np.array(["low", "middle", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])]
TWO = np.where(X[:, 0] > 0, "yes", "no")
CODES = np.unique(LABELS, return_inverse=True)[1]


def swish(z: Any) -> Any:
    one = type(z)(1)
    s = one / (one + np.exp(-z))
    return z * s, s + z * s * (one - s)


def sharp(prediction: Any, target: Any) -> Any:
    error = prediction - target
    return error**4, 4 * error**3


def halved(generator: Any, shape: tuple[int, int]) -> Any:
    return generator.normal(0, 0.5, shape)


FAST = Adam(0.02)
QUICK: dict[str, Any] = {"optimizer": FAST, "random_state": 0}
NETS: dict[str, dict[str, Any]] = {
    "plain": {"layer_sizes": (6, 5, 3), "loss": "cross_entropy"},
    "no hidden layer": {"layer_sizes": (6, 1)},
    "smoothed": {
        "layer_sizes": (6, 5, 3),
        "loss": "cross_entropy",
        "label_smoothing": 0.1,
    },
    "own rules": {
        "layer_sizes": (6, 4, 4, 1),
        "activation": [swish, "tanh"],
        "output_activation": "tanh",
        "loss": sharp,
        "initializer": halved,
        "dtype": "float64",
        "n_threads": 1,
    },
    "penalties": {
        "layer_sizes": (6, 5, 4, 1),
        "activation": "gelu",
        "loss": Tweedie(1.7),
        "l2": 0.25,
        "l1": 0.5,
        "optimizer": SGD(0.1, momentum=0.5, clipvalue=1.0),
        "layer_rates": {"biases": 0.5},
    },
    "dropped": {
        "layer_sizes": (6, 5, 4, 1),
        "dropout": [0.5, 0.25],
        "input_noise": Cosine(0.1),
    },
    "rates": {"layer_sizes": (6, 5, 1), "layer_rates": [0.5, 0.5]},
    "mixed precision": {"layer_sizes": (6, 5, 1), "compute_dtype": "bfloat16"},
}


@pytest.mark.parametrize("name", NETS)
def test_its_parameters_make_the_same_net_again(name: str) -> None:
    net = MLP(**NETS[name], seed=0)
    model = net.as_estimator()
    report = model.get_params()
    keywords = inspect.signature(MLP).parameters.keys() - {"seed"}
    again = MLP(**{keyword: report[keyword] for keyword in keywords}, seed=0)
    assert again._network == net._network
    assert again.optimizer == net.optimizer
    assert again.n_threads == net.n_threads
    assert np.array_equal(again.parameters, net.parameters)
    assert repr(again) == repr(net)
    # What is a name, or is left out, in the net is so in the estimator.
    for keyword, value in NETS[name].items():
        assert report[keyword] == value or not isinstance(value, str)


DEFAULTS = inspect.signature(MLP.fit).parameters
OF_FIT = DEFAULTS.keys() - net_estimators.OF_ONE_FIT


def test_the_parameters_are_the_keywords_of_a_net_and_its_fit() -> None:
    net = inspect.signature(MLP).parameters.keys() - {"seed"}
    model = MLP((2, 1)).as_estimator()
    assert model.get_params().keys() == net | OF_FIT | {"random_state"}


@pytest.mark.parametrize("name", sorted(OF_FIT))
def test_a_keyword_of_the_fit_has_its_default(name: str) -> None:
    assert MLP((2, 1)).as_estimator().get_params()[name] == DEFAULTS[name].default


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("state", "same"),
    [(7, True), (None, False), (np.random.RandomState(0), False)],
    ids=["seed", "none", "generator"],
)
def test_each_fit_draws_new_weights(state: Any, same: bool) -> None:
    model = MLP((6, 4, 1)).as_estimator(epochs=3, random_state=state)
    first = model.fit(X, REAL).net_
    second = model.fit(X, REAL).net_
    assert first is not second
    assert np.array_equal(first.parameters, second.parameters) == same


def focal(**settings: Any) -> Any:
    net = MLP((6, 8, 3), loss=Focal(1.0))
    return net.as_estimator(epochs=60, **QUICK, **settings)


@needs_compiler
def test_a_classifier_takes_any_labels() -> None:
    model = focal()
    assert is_classifier(model)
    model.fit(X, LABELS)
    assert list(model.classes_) == ["high", "low", "middle"]
    assert model.score(X, LABELS) > 0.8
    expected = model.net_.predict(X.astype(np.float32))
    assert np.array_equal(model.predict_proba(X), expected)


@needs_compiler
def test_a_classifier_weighs_its_classes() -> None:
    weighted = focal(class_weight={"low": 5.0}).fit(X, LABELS)
    expected = MLP((6, 8, 3), loss=Focal(1.0), optimizer=FAST, seed=0)
    expected.fit(X, CODES, epochs=60, class_weight={1: 5.0})
    assert np.array_equal(weighted.net_.parameters, expected.parameters)


@needs_compiler
def test_one_output_is_the_probability_of_the_second_class() -> None:
    two = MLP((6, 8, 1), loss="binary_cross_entropy").as_estimator(epochs=60, **QUICK)
    two.fit(X, TWO)
    p = two.predict_proba(X)
    assert p.shape == (len(X), 2)
    assert np.array_equal(two.predict(X), np.where(p[:, 1] > 0.5, "yes", "no"))
    assert two.score(X, TWO) > 0.9


@needs_compiler
def test_a_row_may_have_several_labels() -> None:
    both = (X[:, :2] > 0).astype(int)
    net = MLP((6, 8, 2), loss="binary_cross_entropy")
    several = net.as_estimator(epochs=90, **QUICK).fit(X, both)
    assert several.predict_proba(X).shape == (len(X), 2)
    assert several.predict(X).shape == (len(X), 2)
    assert several.score(X, both) > 0.7


@pytest.mark.slow
@needs_compiler
def test_a_loss_of_your_own_for_classes() -> None:
    net = MLP((6, 8, 3), activation=swish, loss=sharp, optimizer=Adam(0.01))
    assert is_regressor(net.as_estimator())
    model = net.as_estimator("classifier", epochs=60, random_state=0)
    assert not hasattr(model, "predict_proba")
    assert cross_val_score(model, X, LABELS, cv=3, error_score="raise").mean() > 0.5
    of_classes = Loss(sharp, targets="unit")
    assert is_classifier(net.as_estimator("classifier", loss=of_classes))


@needs_compiler
def test_a_regressor_of_quantiles_is_scored_by_minus_the_pinball_loss() -> None:
    levels = np.array([0.1, 0.5, 0.9])
    net = MLP((6, 8, 3), loss=Quantile(levels.tolist()))
    model = net.as_estimator(epochs=20, random_state=0)
    assert is_regressor(model)
    predictions = model.fit(X, REAL).predict(X)
    assert predictions.shape == (len(X), 3)
    error = REAL[:, None] - predictions
    pinball = np.maximum(levels * error, (levels - 1) * error).mean()
    assert model.score(X, REAL) == pytest.approx(-pinball, rel=1e-6)


@needs_compiler
def test_a_gaussian_regressor_returns_deviations() -> None:
    net = MLP((6, 8, 2), loss="gaussian_nll")
    model = net.as_estimator(epochs=20, random_state=0).fit(X, REAL)
    mean, deviation = model.predict(X, return_std=True)
    assert mean.shape == deviation.shape == REAL.shape
    assert np.array_equal(model.predict(X), mean)
    assert (deviation > 0).all()


@needs_compiler
def test_deviations_need_the_gaussian_loss() -> None:
    model = MLP((6, 8, 1)).as_estimator(epochs=1).fit(X, REAL)
    with pytest.raises(ValueError, match="return_std=True needs loss='gaussian_nll'"):
        model.predict(X, return_std=True)


@needs_compiler
def test_a_regressor_learns_several_targets() -> None:
    model = MLP((6, 8, 2)).as_estimator(epochs=2).fit(X, X[:, :2])
    assert model.predict(X).shape == (len(X), 2)
    assert model.score(X, X[:, :2]) <= 1


@pytest.mark.slow
@needs_compiler
def test_searches_vary_the_keywords_of_the_net() -> None:
    net = MLP((6, 5, 3), loss="cross_entropy", activation=swish)
    model = make_pipeline(StandardScaler(), net.as_estimator(epochs=10, random_state=0))
    grid: dict[str, list[Any]] = {
        "netclassifier__layer_sizes": [(6, 5, 3), (6, 7, 4, 3)],
        "netclassifier__optimizer": [Adam(0.03), "sgd"],
        "netclassifier__label_smoothing": [0.0, 0.2],
    }
    ours = MLPSearchCV(model, grid, cv=3, scoring="neg_log_loss").fit(X, LABELS)
    theirs = GridSearchCV(model, grid, cv=3, scoring="neg_log_loss").fit(X, LABELS)
    scores = ours.cv_results_["mean_test_score"]
    assert np.array_equal(scores, theirs.cv_results_["mean_test_score"])
    assert len(set(scores)) == 8
    assert ours.best_params_["netclassifier__optimizer"] == Adam(0.03)


@needs_compiler
def test_keywords_of_the_fit_act_in_it() -> None:
    epochs: list[int] = []
    model = MLP((6, 8, 1)).as_estimator(
        epochs=200, validation_split=0.3, early_stopping=3, metrics="mae", **QUICK
    )
    model.fit(X, REAL, callbacks=lambda report: epochs.append(report.epoch))
    history = model.history_
    assert history.status.name == "STOPPED_EARLY"
    assert len(history.metrics["mae"]) == len(epochs) < 200


@needs_compiler
def test_a_pickle_has_rules_of_your_own() -> None:
    model = MLP(**NETS["own rules"]).as_estimator(epochs=1).fit(X, REAL)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(X), model.predict(X))


@needs_compiler
def test_a_file_is_that_of_its_net(tmp_path: Path) -> None:
    model = MLP((6, 4, 1)).as_estimator(epochs=1).fit(X, REAL)
    words = r"fastmlp.save: model must be (.|\n)*; save its net_$"
    with pytest.raises(TypeError, match=words):
        fastmlp.save(model, tmp_path / "model.safetensors")


def test_an_initializer_is_in_a_pickle_of_a_net() -> None:
    net = MLP((6, 1), initializer="zeros")
    assert pickle.loads(pickle.dumps(net)).as_estimator().initializer == "zeros"


def test_an_initializer_is_not_in_a_file_of_a_net(tmp_path: Path) -> None:
    net = MLP((6, 1), initializer="zeros")
    net.save(tmp_path / "net.safetensors")
    assert MLP.load(tmp_path / "net.safetensors").as_estimator().initializer is None


@needs_compiler
@unconverged
def test_the_net_of_a_classifier_is_an_estimator() -> None:
    classifier = MLPClassifier((5,), max_iter=2, random_state=0).fit(X, TWO)
    shared = classifier.net_.as_estimator(epochs=100, random_state=0)
    assert cross_val_score(shared, X, TWO, cv=3).mean() > 0.5


def test_without_scikit_learn_it_tells_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "fastmlp.estimators.net_estimators")
    monkeypatch.setitem(sys.modules, "sklearn.utils.multiclass", None)
    with pytest.raises(
        ImportError, match=r"MLP.as_estimator needs scikit-learn: pip install"
    ):
        MLP((2, 1)).as_estimator()


CHECKS = (
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_mixin_order",
    "check_estimator_tags_renamed",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_parameters_default_constructible",
)


@pytest.mark.parametrize(
    "name", [name for name in CHECKS if hasattr(estimator_checks, name)]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_scikit_learns_checks_of_settings(name: str, loss: Any) -> None:
    estimator = MLP((2, 3), loss=loss).as_estimator()
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


INPUTS = np.random.default_rng(0).normal(size=(40, 3))
Y = INPUTS[:, 0]
SHORT = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
GRID = {"alpha": [0.0, 1.0]}
FITS: dict[str, Callable[[], Any]] = {
    "fit": lambda: SHORT.fit(INPUTS, Y),
    "classifier": lambda: MLPClassifier((4,), max_iter=2).fit(INPUTS, Y > 0),
    "pipeline": lambda: make_pipeline(StandardScaler(), SHORT).fit(INPUTS, Y),
    "search": lambda: MLPSearchCV(SHORT, GRID, cv=2).fit(INPUTS, Y),
    "grid search": lambda: GridSearchCV(SHORT, GRID, cv=2).fit(INPUTS, Y),
    "cross validation": lambda: cross_val_score(SHORT, INPUTS, Y, cv=2),
}


@pytest.mark.parametrize("name", FITS)
def test_they_point_at_the_users_line(name: str) -> None:
    fit = FITS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit()
    assert {warning.category for warning in caught} == {ConvergenceWarning}
    places = {(warning.filename, warning.lineno) for warning in caught}
    assert places == {(__file__, fit.__code__.co_firstlineno)}


@pytest.mark.parametrize(
    "module", ["sklearn", "sklearn.neural_network._multilayer_perceptron"]
)
@pytest.mark.parametrize("name", FITS)
def test_filters_for_those_of_scikit_learn_match(name: str, module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning, module=module)
        FITS[name]()


UNKNOWN = np.arange(len(X)) % 4 == 0


def test_rows_of_unknown_labels_are_left_out() -> None:
    net = MLP((X.shape[1], 8, 1), loss="binary_cross_entropy")
    model = net.as_estimator(epochs=3, random_state=0)
    gaps = clone(model).set_params(missing_targets="ignore")
    weight = np.linspace(1, 2, len(X))
    known = np.flatnonzero(~UNKNOWN)
    some = TWO.astype(object)
    some[UNKNOWN] = None
    gaps.fit(X, some, weight)
    model.fit(X[known], TWO[known], weight[known])
    assert gaps.n_rows_left_out_ == UNKNOWN.sum()
    assert np.array_equal(gaps.net_.parameters, model.net_.parameters)
    assert gaps.classes_.tolist() == ["no", "yes"]


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_several_targets_may_have_gaps(loss: Any) -> None:
    y = (X[:, :2] > 0).astype(float)
    y[UNKNOWN, 0] = np.nan
    weight = np.random.default_rng(0).uniform(1, 2, y.shape)
    net = MLP((X.shape[1], 8, 2), loss=loss, seed=0)
    model = net.as_estimator(epochs=3, random_state=0, missing_targets="ignore")
    model.fit(X, y, weight)
    net.fit(X, y, sample_weight=weight, epochs=3, missing_targets="ignore")
    assert np.array_equal(model.net_.parameters, net.parameters)


def test_nan_in_y_names_the_parameter() -> None:
    model = MLP((X.shape[1], 8, 1)).as_estimator()
    with pytest.raises(ValueError, match="use missing_targets='ignore'"):
        model.fit(X, np.where(UNKNOWN, np.nan, 1.0))


SLOPES = np.tile([1.0, 0.0, 0.0], (len(INPUTS), 1))
OF_SLOPES: Any = {"epochs": 5, "derivative_weight": 0.5}


def smooth_net() -> MLP:
    return MLP((3, 8, 1), activation="tanh", dtype="float64", seed=0)


def of_slopes() -> Any:
    return smooth_net().as_estimator(random_state=0, **OF_SLOPES)


def test_a_fit_with_derivatives_is_that_of_the_net() -> None:
    fitted = of_slopes().fit(INPUTS, Y, derivatives=SLOPES)
    net = smooth_net()
    net.fit(INPUTS, Y, derivatives=SLOPES, **OF_SLOPES)
    np.testing.assert_array_equal(fitted.net_.parameters, net.parameters)


def test_derivatives_are_data_of_one_fit() -> None:
    model = of_slopes().fit(INPUTS, Y, derivatives=SLOPES)
    assert len(model.history_.derivative_loss) == 5
    assert not model.fit(INPUTS, Y).history_.derivative_loss


def test_the_weight_of_derivatives_is_a_parameter() -> None:
    assert clone(of_slopes()).get_params()["derivative_weight"] == 0.5


def test_a_pipeline_passes_derivatives_on() -> None:
    pipeline = make_pipeline(StandardScaler(), of_slopes())
    pipeline.fit(INPUTS, Y, netregressor__derivatives=SLOPES * INPUTS.std(axis=0))
    assert len(pipeline[-1].history_.derivative_loss) == 5


def test_rows_without_a_target_leave_their_derivatives_out() -> None:
    slopes = np.ones((40, 3))
    gaps = Y.copy()
    gaps[::4] = np.nan
    net = MLP((3, 8, 1), activation="tanh", seed=0)
    estimator = net.as_estimator(random_state=0, epochs=3, missing_targets="ignore")
    fitted = estimator.fit(INPUTS, gaps, derivatives=slopes)
    known = ~np.isnan(gaps)
    again = estimator.set_params(missing_targets="raise")
    expected = clone(again).fit(INPUTS[known], Y[known], derivatives=slopes[known])
    np.testing.assert_array_equal(fitted.net_.parameters, expected.net_.parameters)
