"""The door to clusters: Dask's collections predicted, groups of tasks on its workers, ranks."""

from fastmlp.cluster.predict import predict
from fastmlp.cluster.thread_ranks import ThreadCommunicator, threads

__all__ = ["ThreadCommunicator", "predict", "threads"]
