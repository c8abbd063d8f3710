"""Types of arguments, for your annotations: `from fastmlp.typing import Callback`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.data.sources import Source as Source
from fastmlp.network.spec import Activation as Activation
from fastmlp.network.spec import ComputeDType as ComputeDType
from fastmlp.network.spec import LossLike as LossLike
from fastmlp.network.spec import LossObject
from fastmlp.rules.losses import NumberLossName
from fastmlp.rules.optimizer_protocol import Optimizer as Optimizer
from fastmlp.rules.optimizers import OptimizerName
from fastmlp.training.history import Callback as Callback
from fastmlp.validation import Array as Array
from fastmlp.validation.gaps import MissingTargets as MissingTargets

if TYPE_CHECKING:
    from distributed import Client as Client
else:
    Client = Any  # So that type hints can be read without it.


class Sparse(Protocol):
    """A sparse matrix or array of SciPy's."""

    def tocsr(self) -> Any: ...


class Configurable(Protocol):
    """An estimator as searches take it."""

    def get_params(self, deep: bool = ...) -> Any: ...

    def set_params(self, **parameters: Any) -> Any: ...


class Splitter(Protocol):
    """A splitter of rows into folds, such as `KFold`."""

    @property
    def split(self) -> Callable[..., Any]: ...


Table = ArrayLike | Sparse
Activations = Activation | Sequence[Activation]
HiddenLayerSizes = int | Sequence[int] | NDArray[np.integer[Any]]
RegressionLoss = Literal["squared_error"] | NumberLossName | LossObject
SolverName = Literal["lbfgs", "lm"] | OptimizerName
Solver = SolverName | Optimizer
BatchSize = int | Literal["auto"]
LearningRate = Literal["constant", "invscaling", "adaptive"]
RandomState = int | np.random.RandomState
ClassWeight = Mapping[Any, float] | Literal["balanced"]
Scoring = str | Callable[..., float]
Metrics = Scoring | Sequence[str] | Mapping[str, Scoring]
Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Folds = int | Iterable[Any] | Splitter
