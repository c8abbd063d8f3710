"""Warnings, at the line of the user's that brought them about."""

import sys
import warnings


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into fastmlp."""
    depth = 2
    while sys._getframe(depth - 1).f_globals.get("__name__", "").startswith("fastmlp."):
        depth += 1
    warnings.warn(message, category, stacklevel=depth)
