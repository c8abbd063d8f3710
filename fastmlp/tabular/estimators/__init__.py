"""Estimators for scikit-learn that take a table as it is."""

from fastmlp.export.onnx import when_imported
from fastmlp.tabular.estimators import onnx
from fastmlp.tabular.estimators.classifier import TabularMLPClassifier
from fastmlp.tabular.estimators.regressor import TabularMLPRegressor

__all__ = ["TabularMLPClassifier", "TabularMLPRegressor"]

when_imported(lambda: onnx.register(TabularMLPClassifier, TabularMLPRegressor))
