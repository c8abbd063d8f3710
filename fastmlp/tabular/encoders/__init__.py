"""Encoders of columns for nets, with scikit-learn's interface: of numbers, and of codes of levels.

They learn from training rows alone, and return float32.
"""

from fastmlp.tabular.encoders.encoding import Encoding
from fastmlp.tabular.encoders.levels import OneHotLevels, TargetStatistics
from fastmlp.tabular.encoders.numbers import (
    MissingMarks,
    PiecewiseLinear,
    RisingSmoothClip,
    RobustSmoothClip,
)

__all__ = [
    "Encoding",
    "MissingMarks",
    "OneHotLevels",
    "PiecewiseLinear",
    "RisingSmoothClip",
    "RobustSmoothClip",
    "TargetStatistics",
]
