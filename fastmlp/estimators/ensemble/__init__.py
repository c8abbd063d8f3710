"""Ensembles for scikit-learn: nets that differ by their seeds, trained at once and averaged."""

from fastmlp.estimators.ensemble.classifier import MLPEnsembleClassifier
from fastmlp.estimators.ensemble.regressor import MLPEnsembleRegressor

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]
