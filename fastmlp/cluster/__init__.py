"""The door to clusters: Dask's collections predicted, and groups of tasks on its workers."""

from fastmlp.cluster.predict import predict

__all__ = ["predict"]
