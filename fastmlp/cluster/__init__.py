"""The door to clusters: Dask's collections, predicted in their partitions."""

from fastmlp.cluster.predict import predict

__all__ = ["predict"]
