"""fastmlp: the fastest way to train small and medium multi-layer perceptrons on a
CPU.
"""

# Underscores keep the names out of editors' completions.
import sys as _sys
import typing as _typing
from importlib.util import find_spec as _find_spec
from types import ModuleType as _ModuleType

from fastmlp.data.arrow import CSVFile as CSVFile
from fastmlp.data.blocks import Blocks as Blocks
from fastmlp.model import MLP as MLP
from fastmlp.network.residual import Residual as Residual
from fastmlp.rules.initializers import Orthogonal as Orthogonal
from fastmlp.rules.losses import BinaryFocal as BinaryFocal
from fastmlp.rules.losses import Focal as Focal
from fastmlp.rules.losses import Loss as Loss
from fastmlp.rules.losses import Quantile as Quantile
from fastmlp.rules.losses import Tweedie as Tweedie
from fastmlp.rules.optimizer_protocol import EMA as EMA
from fastmlp.rules.optimizer_protocol import SWA as SWA
from fastmlp.rules.optimizers import LBFGS as LBFGS
from fastmlp.rules.optimizers import SGD as SGD
from fastmlp.rules.optimizers import Adagrad as Adagrad
from fastmlp.rules.optimizers import Adam as Adam
from fastmlp.rules.optimizers import AdamW as AdamW
from fastmlp.rules.optimizers import Custom as Custom
from fastmlp.rules.optimizers import LevenbergMarquardt as LevenbergMarquardt
from fastmlp.rules.optimizers import Nadam as Nadam
from fastmlp.rules.optimizers import RMSprop as RMSprop
from fastmlp.rules.optimizers import ScheduleFreeAdamW as ScheduleFreeAdamW
from fastmlp.rules.schedules import Constant as Constant
from fastmlp.rules.schedules import Cosine as Cosine
from fastmlp.rules.schedules import Exponential as Exponential
from fastmlp.rules.schedules import InverseScaling as InverseScaling
from fastmlp.rules.schedules import OneCycle as OneCycle
from fastmlp.rules.schedules import StepDecay as StepDecay
from fastmlp.rules.schedules import Warmup as Warmup
from fastmlp.serialization.files import FileError as FileError
from fastmlp.training.history import History as History
from fastmlp.training.history import Report as Report
from fastmlp.training.history import Status as Status
from fastmlp.training.stopping import EarlyStopping as EarlyStopping
from fastmlp.training.stopping import ReduceLROnPlateau as ReduceLROnPlateau
from fastmlp.validation.expanded import Expanded as Expanded

if _typing.TYPE_CHECKING:
    from fastmlp.data.outputs import predict_arrow as predict_arrow
    from fastmlp.data.outputs import predict_parquet as predict_parquet
    from fastmlp.data.standardizer import Standardizer as Standardizer
    from fastmlp.estimators.mlp import MLPClassifier as MLPClassifier
    from fastmlp.estimators.mlp import MLPRegressor as MLPRegressor
    from fastmlp.estimators.search import MLPSearchCV as MLPSearchCV
    from fastmlp.export import jit as jit
    from fastmlp.export.c_file import to_c as to_c
    from fastmlp.export.derivatives import gradient as gradient
    from fastmlp.export.derivatives import jacobian as jacobian
    from fastmlp.export.derivatives import shap_values as shap_values
    from fastmlp.export.models import fold as fold
    from fastmlp.export.onnx import to_onnx as to_onnx
    from fastmlp.many.fit_many import fit_many as fit_many
    from fastmlp.net_group import NetGroup as NetGroup
    from fastmlp.network.own_rules import check_rule as check_rule
    from fastmlp.report import html_report as html_report
    from fastmlp.saving import load as load
    from fastmlp.saving import save as save
    from fastmlp.tabular.models import TabularMLPClassifier as TabularMLPClassifier
    from fastmlp.tabular.models import TabularMLPRegressor as TabularMLPRegressor

__version__ = "0.3.0"
__all__: list[str]

_OF_SKLEARN = {
    **dict.fromkeys(("MLPClassifier", "MLPRegressor"), "estimators.mlp"),
    "MLPSearchCV": "estimators.search",
    **dict.fromkeys(("TabularMLPClassifier", "TabularMLPRegressor"), "tabular.models"),
}
_MODULES = {"jit"}
_ROOMS = {
    **_OF_SKLEARN,
    "Standardizer": "data.standardizer",
    "check_rule": "network.own_rules",
    "NetGroup": "net_group",
    "fit_many": "many.fit_many",
    "fold": "export.models",
    "html_report": "report",
    "jit": "export.jit",
    "gradient": "export.derivatives",
    "jacobian": "export.derivatives",
    "load": "saving",
    "predict_arrow": "data.outputs",
    "predict_parquet": "data.outputs",
    "save": "saving",
    "shap_values": "export.derivatives",
    "to_c": "export.c_file",
    "to_onnx": "export.onnx",
}

if not _typing.TYPE_CHECKING:
    # A star import would fail at a name that is missing.
    _missing = {*_OF_SKLEARN} if _find_spec("sklearn") is None else set()  # 90 us
    _here = {
        name for name, thing in globals().items() if not isinstance(thing, _ModuleType)
    }
    __all__ = sorted(
        name for name in _here | _ROOMS.keys() - _missing - _MODULES if name[0] != "_"
    )

    # Not for type checkers: to them it would give every misspelt name the type Any.
    def __getattr__(name: str) -> object:
        """Load names on first use: scikit-learn, for the estimators, takes a second."""
        if name not in _ROOMS:
            from fastmlp.validation.messages import lacking_name

            known = {*__all__, *_ROOMS, *_here}
            raise lacking_name(name, known, _sys._getframe(1).f_code.co_name)
        from fastmlp.validation.messages import imported

        room = imported(f"fastmlp.{_ROOMS[name]}", f"fastmlp.{name}", "scikit-learn")
        return room if name in _MODULES else getattr(room, name)

    def __dir__() -> list[str]:
        """Names that can be loaded: `inspect.getmembers` loads all,
        and ends at an error.
        """
        dunders = {name for name in globals() if name.startswith("__")}
        if _find_spec("sklearn"):
            missing = set()
        else:
            missing = _OF_SKLEARN.keys()
        return sorted({*__all__, *_ROOMS, *dunders} - missing)
