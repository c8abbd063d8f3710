"""Models of the command train: a net of plain columns, and an ensemble trained on files."""

from fastmlp.tabular.plain.model import TableModel

__all__ = ["TableModel"]
