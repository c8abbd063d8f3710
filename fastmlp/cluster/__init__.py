"""The door to clusters: Dask's collections predicted, groups of tasks on its workers, ranks."""

from fastmlp.cluster.predict import predict
from fastmlp.cluster.threads import ThreadCommunicator, threads

__all__ = ["ThreadCommunicator", "predict", "threads"]
