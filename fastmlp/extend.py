"""The core for those who build on it, beside the public names of `fastmlp`.

Models that stand on these names are trained, saved and exported as the models of
`fastmlp.tabular`, which takes nothing else of the core. The page "How do I build on the
core?" has an example.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastmlp._process import warn as warn
from fastmlp._process.task_pool import run_all as run_all
from fastmlp.archives import register as register
from fastmlp.backends.protocol import n_threads_of as n_threads_of
from fastmlp.data.arrow import form_of as form_of
from fastmlp.data.batches import read_table as read_table
from fastmlp.rules import columns as columns
from fastmlp.serialization import codec as codec
from fastmlp.training import metrics as metrics
from fastmlp.training.history import bar_over as bar_over
from fastmlp.training.options import callbacks_of as callbacks_of
from fastmlp.validation import arrays as arrays
from fastmlp.validation import frames as frames
from fastmlp.validation import messages as messages
from fastmlp.validation import scalars as scalars
from fastmlp.validation.calls import explained as explained

if TYPE_CHECKING:
    from fastmlp.backends.cpu.predict.trees import TreeNodes as TreeNodes
    from fastmlp.compiler import block_of as block_of
    from fastmlp.compiler import njit as njit
    from fastmlp.compiler.memory import row as row
    from fastmlp.compiler.memory import stack as stack
    from fastmlp.estimators.common import BaseModel as BaseModel
    from fastmlp.export.models import TableParts as TableParts
    from fastmlp.export.onnx import Graph as Graph
    from fastmlp.many.fit_many import fit_together as fit_together

# Loaded on first use, as they load scikit-learn or the compiler.
_LATER = {
    **dict.fromkeys(("block_of", "njit"), "compiler"),
    **dict.fromkeys(("row", "stack"), "compiler.memory"),
    "BaseModel": "estimators.common",
    "Graph": "export.onnx",
    "TableParts": "export.models",
    "TreeNodes": "backends.cpu.predict.trees",
    "fit_together": "many.fit_many",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module 'fastmlp.extend' has no attribute {name!r}")
        return getattr(import_module(f"fastmlp.{_LATER[name]}"), name)
