"""fastmlp: the fastest way to train small and medium multi-layer perceptrons on a CPU."""

from fastmlp.files import FileError
from fastmlp.history import History, Report, Status
from fastmlp.losses import Loss
from fastmlp.model import MLP
from fastmlp.optimizers import SGD, Adagrad, Adam, AdamW, Custom, Nadam, RMSprop
from fastmlp.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    StepDecay,
    Warmup,
)

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Custom",
    "Exponential",
    "FileError",
    "History",
    "InverseScaling",
    "Loss",
    "Nadam",
    "OneCycle",
    "RMSprop",
    "Report",
    "Status",
    "StepDecay",
    "Warmup",
]
