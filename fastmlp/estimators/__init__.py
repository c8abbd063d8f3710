"""The door to scikit-learn: its estimators, and a search."""

from fastmlp.estimators.mlp import MLPClassifier, MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
