"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by fastmlp's core."""

from fastmlp.estimators.mlp.classifier import MLPClassifier
from fastmlp.estimators.mlp.onnx import register, when_imported
from fastmlp.estimators.mlp.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

when_imported(lambda: register(MLPClassifier, MLPRegressor))
