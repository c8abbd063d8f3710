"""Warnings of estimators."""

from fastmlp._process import warnings

# The module that raises them in scikit-learn.
MODULE = "sklearn.neural_network._multilayer_perceptron"


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's line, but for filters by module as from scikit-learn's own estimators.

    So ``warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")``, which
    was written for scikit-learn's, holds for these as well.
    """
    warnings.warn(message, category, MODULE)
