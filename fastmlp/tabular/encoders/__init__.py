"""Encoders of columns for nets, with scikit-learn's interface: of numbers, and of codes of levels.

They learn from training rows alone, and return float32.
"""

from fastmlp.tabular.encoders.cosine import CosineEncoder
from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.encoders.marks import MissingMarks
from fastmlp.tabular.encoders.one_hot import OneHotLevels
from fastmlp.tabular.encoders.piecewise import PiecewiseLinear
from fastmlp.tabular.encoders.quantile import NoisyQuantile
from fastmlp.tabular.encoders.robust import RobustSmoothClip
from fastmlp.tabular.encoders.target import TargetStatistics

__all__ = [
    "CosineEncoder",
    "Encoding",
    "MissingMarks",
    "NoisyQuantile",
    "OneHotLevels",
    "PiecewiseLinear",
    "RobustSmoothClip",
    "TargetStatistics",
]
