"""Tables with named columns: from raw columns to a net's inputs, and from its outputs to labels."""

from fastmlp.tabular.model import TableModel

__all__ = ["TableModel"]
