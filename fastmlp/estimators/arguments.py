"""Types of what the estimators take: data, and settings in the words of scikit-learn."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.network.spec import Activation
from fastmlp.rules.optimizers import Optimizer, OptimizerName


class Sparse(Protocol):
    """A sparse matrix or array of SciPy's."""

    def tocsr(self) -> Any: ...


class Configurable(Protocol):
    """An estimator as searches take it."""

    def get_params(self, deep: bool = ...) -> Any: ...

    def set_params(self, **parameters: Any) -> Any: ...


class Splitter(Protocol):
    """What divides rows into folds, such as `KFold`."""

    @property
    def split(self) -> Callable[..., Any]: ...


Table = ArrayLike | Sparse
Activations = Activation | Sequence[Activation]
HiddenLayerSizes = int | Sequence[int] | NDArray[np.integer[Any]]
RegressionLoss = Literal["squared_error", "poisson", "gamma", "tweedie", "quantile", "gaussian_nll"]
SolverName = Literal["lbfgs"] | OptimizerName
Solver = SolverName | Optimizer
BatchSize = int | Literal["auto"]
LearningRate = Literal["constant", "invscaling", "adaptive"]
RandomState = int | np.random.RandomState
ClassWeight = Mapping[Any, float] | Literal["balanced"]
Scoring = str | Callable[..., float]
Metrics = Scoring | Sequence[str] | Mapping[str, Scoring]
Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Folds = int | Iterable[Any] | Splitter
