"""Checks of the caller's arguments, before anything is compiled.

An error names the caller, the expected value, the actual one, and the known names. The caller's
name is the parameter `who` of many functions of the package: what the user called, such as
"MLP.fit", with which errors and warnings begin.
"""

from fastmlp.validation.arrays import (
    BALANCED,
    balanced,
    class_counts,
    class_weights,
    features,
    matrix,
    out_array,
    row_index,
    table,
    targets,
    unmasked,
    unnamed,
    vector,
    warn_if_not_finite,
    weights,
    without_nul,
)
from fastmlp.validation.frames import Names, named, names_given, selected

__all__ = [
    "BALANCED",
    "Names",
    "balanced",
    "class_counts",
    "class_weights",
    "features",
    "matrix",
    "named",
    "names_given",
    "out_array",
    "row_index",
    "selected",
    "table",
    "targets",
    "unmasked",
    "unnamed",
    "vector",
    "warn_if_not_finite",
    "weights",
    "without_nul",
]
