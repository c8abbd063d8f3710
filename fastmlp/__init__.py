"""fastmlp: the fastest way to train small and medium multi-layer perceptrons on a CPU."""

# With underscores for editors, which complete the names of this file.
import typing as _typing
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec

from fastmlp.data.blocks import Blocks
from fastmlp.data.csv_files import CSVFile
from fastmlp.model import MLP
from fastmlp.rules.loss_settings import BinaryFocal, Focal, Quantile, Tweedie
from fastmlp.rules.losses import Loss
from fastmlp.rules.optimizer_protocol import EMA, SWA
from fastmlp.rules.optimizers import (
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Custom,
    LevenbergMarquardt,
    Nadam,
    RMSprop,
    ScheduleFreeAdamW,
)
from fastmlp.rules.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    StepDecay,
    Warmup,
)
from fastmlp.serialization.safetensors_file import FileError
from fastmlp.training.history import History, Report, Status
from fastmlp.training.stopping import EarlyStopping, ReduceLROnPlateau

if _typing.TYPE_CHECKING:
    from fastmlp.data.outputs import predict_arrow, predict_parquet
    from fastmlp.data.standardizer import Standardizer

    # For type checkers what is loaded on first use; with `as` as names of this module's own.
    from fastmlp.estimators.mlp import MLPClassifier as MLPClassifier
    from fastmlp.estimators.mlp import MLPRegressor as MLPRegressor
    from fastmlp.estimators.search import MLPSearchCV as MLPSearchCV
    from fastmlp.export import jit as jit
    from fastmlp.export.c_file import to_c
    from fastmlp.export.derivatives import gradient, jacobian
    from fastmlp.export.fold import fold
    from fastmlp.export.onnx import to_onnx
    from fastmlp.export.shap import shap_values
    from fastmlp.many.fit_many import fit_many
    from fastmlp.network.check_rule import check_rule
    from fastmlp.saving import load, save
    from fastmlp.tabular.models import TabularMLPClassifier as TabularMLPClassifier
    from fastmlp.tabular.models import TabularMLPRegressor as TabularMLPRegressor

__version__ = "0.3.0"

__all__ = [
    "EMA",
    "LBFGS",
    "MLP",
    "SGD",
    "SWA",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryFocal",
    "Blocks",
    "CSVFile",
    "Constant",
    "Cosine",
    "Custom",
    "EarlyStopping",
    "Exponential",
    "FileError",
    "Focal",
    "History",
    "InverseScaling",
    "LevenbergMarquardt",
    "Loss",
    "Nadam",
    "OneCycle",
    "Quantile",
    "RMSprop",
    "ReduceLROnPlateau",
    "Report",
    "ScheduleFreeAdamW",
    "Standardizer",
    "Status",
    "StepDecay",
    "Tweedie",
    "Warmup",
    "check_rule",
    "fit_many",
    "fold",
    "gradient",
    "jacobian",
    "load",
    "predict_arrow",
    "predict_parquet",
    "save",
    "shap_values",
    "to_c",
    "to_onnx",
]

if _find_spec("sklearn") is not None:  # 90 us; a star would fail where there is none
    __all__ += ["MLPClassifier", "MLPRegressor", "MLPSearchCV"]
    __all__ += ["TabularMLPClassifier", "TabularMLPRegressor"]
_ESTIMATORS = ("MLPClassifier", "MLPRegressor")
_OF_SKLEARN = {
    **dict.fromkeys(_ESTIMATORS, "estimators.mlp"),
    "MLPSearchCV": "estimators.search",
    **dict.fromkeys(("TabularMLPClassifier", "TabularMLPRegressor"), "tabular.models"),
}
_MODULES = ("jit",)
_ROOMS = {
    **_OF_SKLEARN,
    "Standardizer": "data.standardizer",
    "check_rule": "network.check_rule",
    "fit_many": "many.fit_many",
    "fold": "export.fold",
    "jit": "export.jit",
    "gradient": "export.derivatives",
    "jacobian": "export.derivatives",
    "load": "saving",
    "predict_arrow": "data.outputs",
    "predict_parquet": "data.outputs",
    "save": "saving",
    "shap_values": "export.shap",
    "to_c": "export.c_file",
    "to_onnx": "export.onnx",
}


if not _typing.TYPE_CHECKING:
    # Not for type checkers: to them it would give every misspelt name the type Any.
    def __getattr__(name: str) -> object:
        """Load what stands above on first use: scikit-learn, of the estimators, takes a second."""
        if name not in _ROOMS:
            raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
        try:
            room = _import_module(f"fastmlp.{_ROOMS[name]}")
            return room if name in _MODULES else getattr(room, name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in ("sklearn", "joblib", "scipy"):
                raise
            from fastmlp.validation.suggestions import needs

            raise ImportError(needs(f"fastmlp.{name}", "scikit-learn")) from error


def __dir__() -> list[str]:
    """Name what can be had: `help` and `inspect.getmembers` get all of it, and end at an error."""
    missing = _OF_SKLEARN if _find_spec("sklearn") is None else {}
    dunders = {name for name in globals() if name.startswith("__")}
    return sorted({*__all__, *_ROOMS, *dunders} - missing.keys())
