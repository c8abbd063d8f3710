"""Types of what the estimators take over from scikit-learn: without them any name would pass."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self, TypeVar

from numpy.typing import ArrayLike

from fastmlp.network.spec import DropoutLike
from fastmlp.rules.dropout import Rate
from fastmlp.rules.optimizer_protocol import Average
from fastmlp.typing import (
    Activations,
    BatchSize,
    Configurable,
    Folds,
    HiddenLayerSizes,
    LearningRate,
    Metrics,
    RandomState,
    RegressionLoss,
    Scoring,
    Solver,
    Table,
)
from fastmlp.validation import Array

Request = bool | str | None
Method = TypeVar("Method", bound=Callable[..., Any])

def _fit_context(
    *, prefer_skip_nested_validation: bool
) -> Callable[[Method], Method]: ...
def available_if(check: Callable[[Any], object]) -> Callable[[Method], Method]: ...

class BaseEstimator:
    _parameter_constraints: ClassVar[dict[str, Any]]

    @classmethod
    def _get_param_names(cls) -> list[str]: ...
    def _validate_params(self) -> None: ...
    def get_params(self, deep: bool = True) -> dict[str, Any]: ...
    def set_params(self, **params: Any) -> Self: ...
    def get_metadata_routing(self) -> Any: ...
    def set_fit_request(self, **metadata: Request) -> Self: ...
    def set_score_request(self, **metadata: Request) -> Self: ...
    def __sklearn_tags__(self) -> Any: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...
    def __sklearn_clone__(self) -> Any: ...

class ClassifierMixin:
    def score(
        self, X: Table, y: Table, sample_weight: ArrayLike | None = None
    ) -> float: ...

class RegressorMixin:
    def score(
        self, X: Table, y: Table, sample_weight: ArrayLike | None = None
    ) -> float: ...

class ClassNamePrefixFeaturesOutMixin:
    def get_feature_names_out(
        self, input_features: ArrayLike | None = None
    ) -> Array: ...

class _SetOutputMixin:
    def set_output(
        self, *, transform: Literal["default", "pandas", "polars"] | None = None
    ) -> Self: ...

class TransformerMixin(_SetOutputMixin):
    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Array: ...

class SklearnMLP(BaseEstimator):
    hidden_layer_sizes: HiddenLayerSizes
    activation: Activations
    solver: Solver
    alpha: float
    batch_size: BatchSize
    learning_rate: LearningRate
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: RandomState | None
    tol: float
    verbose: bool | int
    momentum: float
    nesterovs_momentum: bool
    early_stopping: Any
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    n_jobs: int | None
    scoring: Scoring | None
    pickle_state: bool
    dropout: DropoutLike
    input_dropout: Rate
    input_noise: Rate
    average: Average | None
    n_features_in_: int
    feature_names_in_: Array
    warm_start: bool
    coefs_: list[Array]
    intercepts_: list[Array]
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    t_: int
    n_iter_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str

    def __init__(self, **parameters: Any) -> None: ...
    def _check_solver(self) -> bool: ...
    def _fit_lbfgs(self, *arguments: Any) -> None: ...
    def _initialize(self, y: Array, layer_units: list[Any], dtype: Any) -> None: ...
    def _validate_input(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[Any, Array]: ...
    def set_partial_fit_request(self, **metadata: Request) -> Self: ...

class MLPClassifier(ClassifierMixin, SklearnMLP):
    classes_: Array
    _label_binarizer: Any

    def partial_fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self: ...
    def predict(self, X: Table) -> Array: ...
    def predict_proba(self, X: Table) -> Array: ...
    def predict_log_proba(self, X: Table) -> Array: ...

class MLPRegressor(RegressorMixin, SklearnMLP):
    loss: RegressionLoss

    def predict(self, X: Table) -> Array: ...

class BaseSearchCV(BaseEstimator):
    estimator: Configurable
    scoring: Metrics | None
    n_jobs: int | None
    refit: bool | str | Callable[..., int]
    cv: Folds | None
    verbose: int
    error_score: float | Literal["raise"]
    return_train_score: bool
    cv_results_: dict[str, Any]
    best_estimator_: Any
    best_score_: float
    best_params_: dict[str, Any]
    best_index_: int
    scorer_: Any
    n_splits_: int
    refit_time_: float
    multimetric_: bool
    feature_names_in_: Array

    def __init__(self, **parameters: Any) -> None: ...
    @property
    def classes_(self) -> Array: ...
    @property
    def n_features_in_(self) -> int: ...
    def score(self, X: Table, y: Table | None = None, **params: Any) -> float: ...
    def score_samples(self, X: Table) -> Array: ...
    def predict(self, X: Table) -> Array: ...
    def predict_proba(self, X: Table) -> Array: ...
    def predict_log_proba(self, X: Table) -> Array: ...
    def decision_function(self, X: Table) -> Array: ...
    def transform(self, X: Table) -> Any: ...
    def inverse_transform(self, X: Table) -> Any: ...
