"""Parts of scikit-learn that estimators build on;
their types are in the stub beside it.
"""
# ruff: noqa: F401

from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.model_selection._search import BaseSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils._set_output import _SetOutputMixin
from sklearn.utils.metaestimators import available_if

# For type checkers, with a net's parameters and attributes.
# The class that CompiledMLP overrides follows it among an estimator's bases.
SklearnMLP = object
