"""Tables with named columns: from raw columns to a net's inputs,
and from its outputs to labels.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastmlp.tabular.dates import Parts
from fastmlp.tabular.schema import Schema, Values

if TYPE_CHECKING:
    from fastmlp.tabular.encoding import Encoding
    from fastmlp.tabular.level_encoders import OneHotLevels, TargetStatistics
    from fastmlp.tabular.models import TabularMLPClassifier, TabularMLPRegressor
    from fastmlp.tabular.number_encoders import (
        MissingMarks,
        PiecewiseLinear,
        RisingSmoothClip,
        RobustSmoothClip,
    )

__all__ = [
    "Encoding",
    "MissingMarks",
    "OneHotLevels",
    "Parts",
    "PiecewiseLinear",
    "RisingSmoothClip",
    "RobustSmoothClip",
    "Schema",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
    "TargetStatistics",
    "Values",
]


def __dir__() -> list[str]:
    """The public names; those that need scikit-learn only where it is installed."""
    dunders = {name for name in globals() if name.startswith("__")}
    here = {name for name in __all__ if name in globals()}
    return sorted({*dunders, *(here if find_spec("sklearn") is None else __all__)})


if not TYPE_CHECKING:
    # Not for type checkers: to them it would give every misspelt name the type Any.
    def __getattr__(name: str) -> Any:
        """Load these on first use, and scikit-learn with them, which takes a second."""
        if name not in __all__:
            raise AttributeError(f"module 'fastmlp.tabular' has no attribute {name!r}")
        from fastmlp.extend import messages

        # `encoding` imports the other encoders.
        module = "models" if name.startswith("TabularMLP") else "encoding"
        who = f"fastmlp.tabular.{name}"
        room = messages.imported(f"fastmlp.tabular.{module}", who, "scikit-learn")
        return getattr(room, name)
