"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by fastmlp's core."""

from fastmlp.estimators.mlp.classifier import MLPClassifier
from fastmlp.estimators.mlp.onnx import register_when_imported
from fastmlp.estimators.mlp.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

register_when_imported(MLPClassifier, MLPRegressor)
