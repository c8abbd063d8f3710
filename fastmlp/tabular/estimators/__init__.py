"""Estimators for scikit-learn that take a table as it is."""

from fastmlp.tabular.estimators.classifier import TabularMLPClassifier
from fastmlp.tabular.estimators.regressor import TabularMLPRegressor

__all__ = ["TabularMLPClassifier", "TabularMLPRegressor"]
