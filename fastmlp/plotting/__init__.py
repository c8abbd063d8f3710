"""Pictures of fits and searches, with matplotlib: the extra `plot`."""

from fastmlp.plotting.history import plot_history
from fastmlp.plotting.search import plot_search

__all__ = ["plot_history", "plot_search"]


def __dir__() -> list[str]:
    """Return the public names, without the modules that they come from."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
