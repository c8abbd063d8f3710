"""The surface of scikit-learn's estimators: names, order, kinds and defaults of what is public."""

import inspect
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from fitting import unconverged
from pairs import both
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor

pytestmark = unconverged
NAMES = ("MLPClassifier", "MLPRegressor")
METHODS = {
    "MLPClassifier": (
        "fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "score",
    ),
    "MLPRegressor": ("fit", "partial_fit", "predict", "score"),
}  # fmt: skip
X, y = np.linspace(0, 1, 12).reshape(6, 2), [0, 1, 0, 1, 0, 1]
each = pytest.mark.parametrize("name", NAMES)


def parameters_of(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults, in order."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@each
def test_parameters_are_scikit_learns_and_after_them_ours_by_keyword(name: str) -> None:
    theirs, ours = (parameters_of(type(model)) for model in both(name))
    assert ours[: len(theirs)] == theirs
    assert {kind for _, kind, _ in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(getattr(fastmlp, name)().get_params()) == sorted(n for n, _, _ in ours)


@each
def test_methods_take_what_scikit_learns_take_in_its_order(name: str) -> None:
    theirs, ours = both(name)
    for method in METHODS[name]:
        given, expected = (parameters_of(getattr(type(model), method)) for model in (ours, theirs))
        assert given[: len(expected)] == expected, method
        more = {kind for _, kind, _ in given[len(expected) :]}
        assert more <= {inspect.Parameter.KEYWORD_ONLY}, method


@each
def test_what_is_public_there_is_public_here(name: str) -> None:
    theirs, ours = both(name)
    missing = {each for each in dir(theirs) if each[0] != "_"} - set(dir(ours))
    assert not missing
    assert not hasattr(ours, "decision_function")


@each
def test_settings_are_checked_as_there_and_others_are_unknown(name: str) -> None:
    theirs, ours = (model._parameter_constraints for model in both(name))
    wider = {"activation", "solver", "loss", "early_stopping"}  # what the core has
    for parameter in theirs.keys() - wider:
        assert [str(each) for each in ours[parameter]] == [str(each) for each in theirs[parameter]]
    with pytest.raises(TypeError, match="unexpected keyword argument 'units'"):
        getattr(fastmlp, name)(units=3)


@each
def test_tags_are_the_same(name: str) -> None:
    theirs, ours = (asdict(get_tags(model)) for model in both(name))
    assert ours == theirs


def fitted_to_six_rows(model: Any) -> Any:
    return model.set_params(max_iter=2).fit(X, y)


@each
def test_it_is_no_transformer_to_tools(name: str) -> None:
    """They ask for the mixin, for its method, or for `transform` before the fit."""
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
def test_a_pipeline_can_use_a_fitted_ones_hidden_layer(name: str) -> None:
    fitted = fitted_to_six_rows(getattr(fastmlp, name)(hidden_layer_sizes=(5,)))
    pipe = make_pipeline(FrozenEstimator(fitted), LinearRegression()).fit(X, y)
    assert pipe[-1].n_features_in_ == 5
    # A pipeline sets the output of every step that has `transform`.
    assert make_pipeline(fitted).set_output(transform="pandas")


@each
def test_routing_asks_for_the_same_and_for_our_arguments_of_fit(name: str) -> None:
    with config_context(enable_metadata_routing=True):
        theirs, ours = (model.get_metadata_routing()._serialize() for model in both(name))
    more = {"X_val", "y_val", "sample_weight_val", "callbacks", "progress"}
    assert {*ours["fit"]} == {*theirs["fit"], *more}
    assert {key: ours[key] for key in theirs if key != "fit"} == {
        key: theirs[key] for key in theirs if key != "fit"
    }


def test_mixins_come_first_then_the_base() -> None:
    for kind, mixin in ((MLPClassifier, ClassifierMixin), (MLPRegressor, RegressorMixin)):
        order = kind.__mro__
        places = [order.index(each) for each in (mixin, BaseMultilayerPerceptron, BaseEstimator)]
        assert places == sorted(places)


def test_a_regressors_loss_comes_first() -> None:
    with pytest.raises(ValueError, match="The 'loss' parameter of MLPRegressor must be a str"):
        MLPRegressor((50,)).fit([[0.0], [1.0]], [0.0, 1.0])  # type: ignore[arg-type]
