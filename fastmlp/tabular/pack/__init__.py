"""Packs: ensembles that are selected from many small nets on encoded columns."""

from fastmlp.tabular.pack.pack import Caller, Member, Pack, train_pack
from fastmlp.tabular.pack.pool import TableRows
from fastmlp.tabular.pack.settings import PRESETS, PackSettings, Preset

__all__ = [
    "PRESETS",
    "Caller",
    "Member",
    "Pack",
    "PackSettings",
    "Preset",
    "TableRows",
    "train_pack",
]
