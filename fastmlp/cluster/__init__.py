"""The door to clusters: Dask's collections predicted, groups of tasks on its workers, ranks."""

from fastmlp.cluster.predict import predict
from fastmlp.cluster.ranks import ThreadCommunicator, threads

__all__ = ["ThreadCommunicator", "predict", "threads"]


def __dir__() -> list[str]:
    """Return the public names, without the modules that they come from."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
