"""Estimators for scikit-learn: its MLPClassifier and MLPRegressor, trained by fastmlp's core."""

from fastmlp.estimators.mlp.estimators import MLPClassifier, MLPRegressor
from fastmlp.estimators.mlp.onnx import register, when_imported

__all__ = ["MLPClassifier", "MLPRegressor"]

when_imported(lambda: register(MLPClassifier, MLPRegressor))
