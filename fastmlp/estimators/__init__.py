"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by fastmlp's core."""

from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
