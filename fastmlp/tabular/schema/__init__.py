"""Columns of tables: their kinds, levels and dates, learned and read; tables in memory."""

from fastmlp.tabular.schema.schema import Schema, Values, reasons

__all__ = ["Schema", "Values", "reasons"]
