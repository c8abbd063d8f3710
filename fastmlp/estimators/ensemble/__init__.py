"""Ensembles for scikit-learn: nets that differ by their seeds, trained at once and averaged."""

from fastmlp.estimators.ensemble.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor

__all__ = ["MLPEnsembleClassifier", "MLPEnsembleRegressor"]
