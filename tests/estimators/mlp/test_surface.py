"""The surface of scikit-learn's estimators,
public names and kinds, and advice in errors.
"""

import inspect

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from pairs import X as ROWS
from pairs import both
from sklearn import config_context
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier as Theirs
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, MLPSearchCV

pytestmark = unconverged
NAMES = ("MLPClassifier", "MLPRegressor")
METHODS = {
    "MLPClassifier": (
        "fit",
        "partial_fit",
        "predict",
        "predict_proba",
        "predict_log_proba",
        "score",
    ),
    "MLPRegressor": ("fit", "partial_fit", "predict", "score"),
}
X = np.linspace(0, 1, 12).reshape(6, 2)
y = [0, 1, 0, 1, 0, 1]
each = pytest.mark.parametrize("name", NAMES)


def parameters_of(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (p.name, p.kind, p.default)
        for p in inspect.signature(function).parameters.values()
    ]


@each
def test_parameters_begin_with_scikit_learns(name: str) -> None:
    theirs, ours = (parameters_of(type(model)) for model in both(name))
    assert ours[: len(theirs)] == theirs
    kinds = {kind for _, kind, _ in ours[len(theirs) :]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    names = sorted(name for name, _, _ in ours)
    assert list(getattr(fastmlp, name)().get_params()) == names


@each
def test_public_names_of_scikit_learn_are_there(name: str) -> None:
    theirs, ours = both(name)
    missing = {each for each in dir(theirs) if each[0] != "_"} - set(dir(ours))
    assert not missing
    assert not hasattr(ours, "decision_function")


@each
def test_methods_take_what_scikit_learns_take_in_its_order(name: str) -> None:
    theirs, ours = both(name)
    for method in METHODS[name]:
        given, expected = (
            parameters_of(getattr(type(model), method)) for model in (ours, theirs)
        )
        assert given[: len(expected)] == expected, method
        more = {kind for _, kind, _ in given[len(expected) :]}
        assert more <= {inspect.Parameter.KEYWORD_ONLY}, method


@each
def test_settings_are_checked_as_there(name: str) -> None:
    theirs, ours = (model._parameter_constraints for model in both(name))
    wider = {"activation", "solver", "loss", "early_stopping"}  # what the core has
    for parameter in theirs.keys() - wider:
        expected = [str(constraint) for constraint in theirs[parameter]]
        assert [str(constraint) for constraint in ours[parameter]] == expected


@each
def test_tags_are_the_same(name: str) -> None:
    theirs, ours = (asdict(get_tags(model)) for model in both(name))
    assert ours == theirs


@each
def test_tools_do_not_take_it_for_a_transformer_before_the_fit(name: str) -> None:
    """Tools ask for the mixin, for its method, or for `transform` before the fit."""
    _, ours = both(name)
    assert not isinstance(ours, TransformerMixin)
    assert not hasattr(ours, "fit_transform")
    assert not hasattr(ours, "transform")
    fitted = fitted_to_six_rows(ours)
    assert not hasattr(fitted, "fit_transform")
    assert fitted.transform(X).shape == (6, 100)
    with pytest.raises(AttributeError, match="has no attribute 'transform'"):
        type(ours)().transform(X)


@each
def test_a_fitted_model_is_a_step_of_a_pipeline(name: str) -> None:
    fitted = fitted_to_six_rows(getattr(fastmlp, name)(hidden_layer_sizes=(5,)))
    pipe = make_pipeline(FrozenEstimator(fitted), LinearRegression()).fit(X, y)
    assert pipe[-1].n_features_in_ == 5
    # A pipeline sets the output of every step that has `transform`.
    assert make_pipeline(fitted).set_output(transform="pandas")


def fitted_to_six_rows(model: Any) -> Any:
    return model.set_params(max_iter=2).fit(X, y)


def routing_of(model: Any) -> dict[str, Any]:
    with config_context(enable_metadata_routing=True):
        return dict(model.get_metadata_routing()._serialize())


@each
def test_routing_asks_for_our_arguments_of_fit(name: str) -> None:
    theirs, ours = (routing_of(model)["fit"] for model in both(name))
    more = {"X_val", "y_val", "sample_weight_val", "callbacks", "progress"}
    assert {*ours} == {*theirs, *more}


@each
def test_routing_asks_for_the_same_beside_fit(name: str) -> None:
    theirs, ours = (routing_of(model) for model in both(name))
    del theirs["fit"]
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize(
    ("kind", "mixin"),
    [(MLPClassifier, ClassifierMixin), (MLPRegressor, RegressorMixin)],
)
def test_mixins_come_first(kind: Any, mixin: Any) -> None:
    bases = (mixin, BaseMultilayerPerceptron, BaseEstimator)
    places = [kind.__mro__.index(base) for base in bases]
    assert places == sorted(places)


LABELS = (ROWS[:, 0] > 0).astype(int)
REAL = ROWS[:, 0]
SMALL: dict[str, Any] = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}


def test_an_error_of_text_has_scikit_learns_words() -> None:
    rows = np.array([[1.0, "u"], [2.0, "v"]], object)
    with pytest.raises(ValueError, match="could not convert") as theirs:
        Theirs().fit(rows, [0, 1])
    with pytest.raises(ValueError, match="could not convert") as ours:
        MLPClassifier().fit(rows, [0, 1])
    assert str(ours.value) == str(theirs.value)


def test_an_error_of_text_names_its_column() -> None:
    rows = np.array([[1.0, "u"], [2.0, "v"]], object)
    with pytest.raises(ValueError, match="could not convert") as caught:
        MLPClassifier().fit(rows, [0, 1])
    (note, *_) = caught.value.__notes__
    assert "X holds text, such as 'u' in column 1; encode it" in note


MASKED = np.ma.masked_greater(ROWS, 1.0)
CALLS: dict[str, Callable[[Any], Any]] = {
    "predict": lambda model: model.predict(MASKED),
    "transform": lambda model: model.transform(MASKED),
    "partial_fit": lambda model: model.partial_fit(MASKED, REAL),
    "X_val": lambda model: model.fit(ROWS, REAL, X_val=MASKED, y_val=REAL),
}


@needs_compiler
@pytest.mark.parametrize("call", CALLS)
def test_masked_entries_are_refused_after_a_fit(call: str) -> None:
    # Without a masked entry it is an array as any other.
    model = MLPRegressor(**SMALL).fit(np.ma.array(ROWS), REAL)
    with pytest.raises(ValueError, match="MLPRegressor: X has masked entries"):
        CALLS[call](model)


@needs_compiler
def test_masked_weights_of_rows_are_refused() -> None:
    weight = np.ma.masked_greater(np.ones(len(ROWS)), 0)
    with pytest.raises(ValueError, match="MLPRegressor: sample_weight has masked"):
        MLPRegressor(**SMALL).fit(ROWS, REAL, sample_weight=weight)


@needs_compiler
def test_masked_entries_are_refused_by_a_search() -> None:
    message = "MLPRegressor: X has masked entries"
    search = MLPSearchCV(MLPRegressor(**SMALL), {"alpha": [1e-4, 1e-3]}, cv=2)
    with pytest.raises(ValueError, match=message):
        search.fit(MASKED, REAL)


@needs_compiler
def test_scoring_without_early_stopping_warns() -> None:
    message = "MLPClassifier: scoring='roc_auc' is not used without early_stopping=True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(UserWarning, match=message):
            MLPClassifier(**SMALL, scoring="roc_auc").fit(ROWS, LABELS)


RARE = (np.arange(400) % 20 == 0).astype(int)
RARE_ROWS = np.random.default_rng(3).standard_normal((400, 4))


def stopped_early(seed: int) -> MLPClassifier:
    return MLPClassifier((8,), early_stopping=True, random_state=seed)


@needs_compiler
def test_early_stopping_that_keeps_the_first_epoch_warns() -> None:
    model = stopped_early(0)
    message = (
        r"MLPClassifier: early stopping kept the parameters of the first epoch: no "
        r"later one of "
        r"\d+ had a validation score above 0\.95; where a class is rare, "
        r'scoring="loss" finds'
    )
    with pytest.warns(RuntimeWarning, match=message):
        model.fit(RARE_ROWS, RARE)
    scores = model.validation_scores_ or []
    assert scores[0] == max(scores)


@needs_compiler
def test_early_stopping_at_the_share_of_the_common_class_warns() -> None:
    message = (
        r"MLPClassifier: early stopping kept epoch 16 of \d+: its validation accuracy, "
        r"0\.95, is no higher than the share of one class; where a class is rare, "
        r"scoring=\"loss\" finds"
    )
    with pytest.warns(RuntimeWarning, match=message):
        stopped_early(4).fit(RARE_ROWS, RARE)


@needs_compiler
def test_early_stopping_by_the_loss_sees_progress_on_rare_classes() -> None:
    model = stopped_early(0).set_params(scoring="loss", max_iter=500)
    assert model.fit(RARE_ROWS, RARE).n_iter_ > 11
