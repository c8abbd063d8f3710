"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by fastmlp's core."""

from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.onnx import register_when_imported
from fastmlp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

register_when_imported(MLPClassifier, MLPRegressor)
