"""Packs: ensembles that are selected from many small nets on encoded columns."""

from fastmlp.tabular.pack.pack import Member, Pack, Settings, train_pack
from fastmlp.tabular.pack.pool import Part

__all__ = ["Member", "Pack", "Part", "Settings", "train_pack"]
