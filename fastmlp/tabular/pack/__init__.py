"""Packs: ensembles that are selected from many small nets on encoded columns."""

from fastmlp.tabular.pack.pack import Caller, Member, Pack, train_pack
from fastmlp.tabular.pack.pool import Part
from fastmlp.tabular.pack.settings import PRESETS, Preset, Settings

__all__ = ["PRESETS", "Caller", "Member", "Pack", "Part", "Preset", "Settings", "train_pack"]
