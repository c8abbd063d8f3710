"""Tables with named columns: from raw columns to a net's inputs, and from its outputs to labels."""

from fastmlp.tabular.model import TableModel
from fastmlp.tabular.schema import Schema, Values

__all__ = ["Schema", "TableModel", "Values"]
