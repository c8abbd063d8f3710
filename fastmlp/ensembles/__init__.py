"""Ensembles for scikit-learn: nets that differ by their seeds, trained at once and averaged."""

from fastmlp.ensembles.classifier import MLPEnsembleClassifier
from fastmlp.ensembles.regressor import MLPEnsembleRegressor

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]
