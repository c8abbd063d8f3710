"""The base of both estimators: scikit-learn's methods around the core's training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from operator import is_not
from typing import Any, ClassVar, NamedTuple, Self, final

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import TransformerMixin
from sklearn.metrics import check_scoring
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from fastmlp._process.locks import NetLock
from fastmlp._process.memory import FreeList
from fastmlp.backends.protocol import Predictor
from fastmlp.estimators import net, to_core, training
from fastmlp.estimators.common import BatchPredictions, n_threads_of
from fastmlp.estimators.sklearn_bases import (
    ClassNamePrefixFeaturesOutMixin,
    SklearnMLP,
    _fit_context,
    _SetOutputMixin,
    available_if,
)
from fastmlp.model import MLP
from fastmlp.network import layer_settings, spec
from fastmlp.network.state import NetState
from fastmlp.rules.optimizer_protocol import EMA, SWA, Optimizer
from fastmlp.training.history import History
from fastmlp.training.options import Listener
from fastmlp.training.stopping import EarlyStopping
from fastmlp.typing import Metrics, Table
from fastmlp.validation import Array
from fastmlp.validation.calls import explained

FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
# With more rows some scikit-learn versions warn if most labels occur once.
FEW_LABELS = 20


def checked_rows(estimator: Any, X: Any, *, reset: bool, dtype: Any = FLOATS) -> Any:
    """X as an array, of float32 or float64 for `fit`, or a sparse matrix.

    With `reset` names and number of the features are set on the estimator, else
    compared.
    """
    if is_checked(estimator, X, reset=reset):
        return X
    return validate_data(
        estimator, X, accept_sparse=["csr", "csc"], dtype=dtype, reset=reset
    )


def is_checked(estimator: Any, X: Any, *, reset: bool) -> bool:
    """True if `validate_data` would return X unchanged."""
    if not are_floats(X) or X.ndim != 2:
        return False
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != getattr(estimator, "n_features_in_", None):
        return False
    return not hasattr(estimator, "feature_names_in_")


def are_floats(array: Any) -> bool:
    """True for a non-empty NumPy array of finite float32 or float64."""
    if type(array) is not np.ndarray or array.dtype not in FLOATS or not array.size:
        return False
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))


def are_plain_targets(y: Any, X: Any) -> bool:
    """True for a vector of finite floats,
    or a table of several columns, as long as X.
    """
    return (
        are_floats(y)
        and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1))
        and _as_long(y, X)
    )


def are_plain_labels(y: Any, X: Any) -> bool:
    """True for a vector of integers or texts, in native byte order, as long as X."""
    if type(y) is not np.ndarray or y.ndim != 1 or y.dtype.kind not in "iuU":
        return False
    return y.dtype.isnative and _as_long(y, X)


def _as_long(y: Array, X: Any) -> bool:
    return y.size > 0 and getattr(X, "shape", ())[:1] == y.shape[:1]


def classes_of(y: Array) -> Array:
    """Sorted labels of a vector, shape (n_classes,); texts as wide as the longest."""
    classes = np.unique(y)
    if y.dtype.kind == "U":
        return np.array(classes.tolist())
    return classes


def binarizer_of(classes: Array) -> LabelBinarizer:
    """A fitted binarizer of sorted labels, shape (n_classes,)."""
    binarizer = LabelBinarizer()
    binarizer.y_type_ = "binary" if len(classes) <= 2 else "multiclass"
    binarizer.sparse_input_ = False
    binarizer.classes_ = classes
    return binarizer


def binarize(y: Array, classes: Array, *, all_present: bool) -> Array | None:
    """Boolean targets of plain labels,
    shape (n_samples, n_classes), or one column for two classes.

    None where scikit-learn raises or may warn: for a label outside the sorted
    `classes`, for a required class that y lacks, or with about as many classes as rows.
    """
    n_samples, n_classes = len(y), len(classes)
    if y.dtype.kind != classes.dtype.kind or (
        n_samples > FEW_LABELS and 2 * n_classes > n_samples
    ):
        return None
    codes = np.searchsorted(classes, y)
    if not (classes.take(codes, mode="clip") == y).all():
        return None
    if all_present and not np.bincount(codes, minlength=n_classes).all():
        return None
    if n_classes <= 2:
        return (codes == 1)[:, None]
    return codes[:, None] == np.arange(n_classes)


def seeded_generator(estimator: Any) -> np.random.RandomState:
    """The generator of a fit;
    a generator that an earlier fit has seeded is seeded again.

    Seeding takes 2 us, and a new generator 55 us. Copies and pickles leave it out.
    """
    seed = estimator.random_state
    own = estimator.__dict__.get("_seeded")
    if type(seed) is not int:
        return check_random_state(seed)
    if own is None:
        own = estimator._seeded = check_random_state(seed)
    else:
        own.seed(seed)
    return own


def accuracy(outputs: Array, targets: Array, weight: Any, *, one_hot: bool) -> float:
    """Share of rows with the right class, or with all labels right.

    `sklearn.metrics.accuracy_score` takes 600 us.
    """
    if one_hot:
        right = outputs.argmax(axis=1) == targets.argmax(axis=1)
    else:
        right = ((outputs > 0.5) == targets).all(axis=1)
    return float(np.average(right, weights=weight))


def r2(outputs: Array, targets: Array, weight: Any) -> float:
    """R2, averaged over outputs; NaN for a net that diverged.

    `sklearn.metrics.r2_score` takes 400 us.
    """
    if not np.isfinite(outputs).all():
        return np.nan
    if weight is None:
        weights = np.float64(1)
    else:
        weights = weight[:, None]
    mean = np.average(targets, axis=0, weights=weight)
    residual = (weights * (targets - outputs) ** 2).sum(axis=0, dtype=np.float64)
    total = (weights * (targets - mean) ** 2).sum(axis=0, dtype=np.float64)
    scores = np.where(residual == 0, 1.0, 0.0)
    np.divide(residual, total, out=residual, where=total != 0)
    return float(np.mean(np.where(total != 0, 1 - residual, scores)))


class QuickPredictor(NamedTuple):
    """The predictor of the last batch, with the attributes that it is valid for."""

    predictor: Predictor
    state: NetState
    activation: Any
    out_activation: Any
    compute_dtype: Any
    n_threads: int | None

    def serves(self, estimator: Any) -> bool:
        """True if the attributes are the very objects that it was made for."""
        return (
            self.state is estimator._state
            and self.activation is estimator.activation
            and self.out_activation is estimator.out_activation_
            and self.compute_dtype is estimator.compute_dtype
        )


@final
@dataclass
class PredictionCache:
    """A mutable cache: `predict` must not change the attributes of an estimator.

    Attributes
    ----------
    buffers : FreeList of buffers for predictions of many rows
    quick : QuickPredictor, or None before the first batch
    """

    buffers: FreeList = field(default_factory=FreeList)
    quick: QuickPredictor | None = None


@cache
def parameter_names(kind: Any) -> tuple[str, ...]:
    """Names of a class's parameters, cached: they take 0.15 ms."""
    return tuple(kind._get_param_names())


def lent_views(name: str) -> Any:
    """A list of views of the net's parameters:
    who has asked for it may write at any time.

    Before anybody has asked, views in `vars` are read-only.
    """

    def get(estimator: Any) -> Any:
        there = vars(estimator)
        if name not in there:
            raise AttributeError(
                f"{type(estimator).__name__!r} object has no attribute {name!r}"
            )
        if "_state" in there and not there["_state"].lock.is_lent:
            there["_state"].lock.is_lent = True
            net.set_writeable(there["_state"], True)
        return there[name]

    def put(estimator: Any, arrays: list[Array]) -> None:
        vars(estimator)[name] = arrays

    return property(get, put, lambda estimator: vars(estimator).pop(name))


class CompiledMLP(
    net.Copies,
    BatchPredictions,
    ClassNamePrefixFeaturesOutMixin,
    _SetOutputMixin,
    SklearnMLP,
):
    """Overrides the NumPy loops of the next scikit-learn class among the bases.

    A fitted object has `transform`, but never `fit_transform`: scikit-learn takes an
    estimator with `fit_transform`, or an unfitted one with `transform`, for a
    transformer. A subclass that is a `TransformerMixin` is one.
    """

    coefs_: list[Array] = lent_views("coefs_")
    intercepts_: list[Array] = lent_views("intercepts_")
    loss_: float
    n_outputs_: int
    compute_dtype: str | None
    monotonic_cst: Any
    validation_loss_curve_: list[float] | None
    metrics: Metrics | None
    history_: History | None
    _best_coefs: list[Array]
    _best_intercepts: list[Array]
    _held_out: net.HeldOutRows | None
    _cache: PredictionCache
    _names: ClassVar[list[str]]

    more_constraints: ClassVar[dict[str, Any]] = {
        "activation": [StrOptions(to_core.ACTIVATIONS), list, tuple, callable],
        "solver": [StrOptions(to_core.SOLVERS), Optimizer],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "scoring": [None, str, callable],
        "early_stopping": ["boolean", EarlyStopping],
        "metrics": [None, str, callable, list, tuple, dict],
        "pickle_state": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like", callable],
        "input_dropout": [Interval(Real, 0, 1, closed="left"), callable],
        "input_noise": [Interval(Real, 0, None, closed="left"), callable],
        "average": [EMA, SWA, None],
        "compute_dtype": [StrOptions({*spec.COMPUTE_DTYPES}), list, tuple, None],
        "monotonic_cst": ["array-like", dict, None],
    }

    def _keep(self, arguments: Mapping[str, Any], parent: Any) -> None:
        names = parameter_names(parent)
        parent.__init__(self, **{name: arguments[name] for name in names})
        for name in self._get_param_names():
            if name not in names:
                setattr(self, name, arguments[name])

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Sorted names of the parameters, cached."""
        if "_names" not in vars(cls):
            cls._names = super()._get_param_names()
        return list(cls._names)

    def __sklearn_is_fitted__(self) -> bool:
        # Scikit-learn would iterate over all attributes while another thread's fit adds
        # some.
        return "coefs_" in self.__dict__

    def _validate_params(self) -> None:
        # Unchanged values are not checked again, which takes 55 us.
        values = [getattr(self, name) for name in self._get_param_names()]
        before = self.__dict__.get("_checked_values", ())
        if len(before) != len(values) or any(map(is_not, before, values)):
            to_core.check_parameters(self, super()._validate_params)
            self._checked_values = values
        to_core.check_regularization(self)

    @_fit_context(prefer_skip_nested_validation=True)
    @explained
    def fit(
        self,
        X: Table,
        y: Table,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Table | None = None,
        y_val: Table | None = None,
        sample_weight_val: ArrayLike | None = None,
        callbacks: Listener | Iterable[Listener] = (),
        progress: bool = False,
    ) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers; for a classifier labels,
            or an indicator matrix of several labels a row.
        sample_weight : array-like of shape (n_samples,), optional
        X_val, y_val, sample_weight_val : as X, y and sample_weight, optional
            Rows for `validation_loss_curve_`, and for early stopping in place of a part
            of X. Only for solvers with batches.
        callbacks : callable, or a sequence of them
            Each is called with a `Report` after every epoch, or iteration of "lbfgs";
            ``report.stop()`` ends the fit. ``report.net`` is `net_`.
        progress : bool
            Show a tqdm bar with the losses and the score.

        Returns
        -------
        MLPClassifier or MLPRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            If data or parameters have a wrong type or value, or training diverges.
        """
        rows = (X_val, y_val, sample_weight_val)
        reports = training.reports_of(self, callbacks, progress, rows)
        return self._fit(X, y, sample_weight, validation=rows, reports=reports)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        incremental: bool = False,
        validation: tuple[Any, Any, Any] = (None, None, None),
        reports: training.Reports | None = None,
    ) -> Any:
        # Fits of an estimator run one at a time:
        # another would free the optimizer's state that kernels read.
        lock = self.__dict__.get("_lock") or self.__dict__.setdefault(
            "_lock", NetLock()
        )
        with (
            lock.parameters,
            lock.training(type(self).__name__),
            self._refusing_overflow(),
        ):
            self._hidden_sizes()  # Raises before the data are checked.
            if not incremental:
                to_core.warn_of_idle_scoring(self)
            first_pass = "coefs_" not in vars(self) or (
                not self.warm_start and not incremental
            )
            if isinstance(y, str):
                who = f"{type(self).__name__}.fit"
                raise TypeError(
                    f"{who}: y must be an array, got {y!r}; a column of a frame is "
                    f"X[{y!r}]"
                )
            with to_core.checking(self, X, y=y, sample_weight=sample_weight):
                X, y = self._validate_input(X, y, incremental, reset=first_pass)
            y = y.reshape(-1, 1) if y.ndim == 1 else y
            if sample_weight is None:
                weight = None
            else:
                weight = _check_sample_weight(sample_weight, X)
            part = net.RowSubset(X, y, self._of_classes(weight, X, y))
            return self._learn(part, incremental, first_pass, validation, reports)

    @contextmanager
    def _refusing_overflow(self) -> Iterator[None]:
        try:
            yield
        except OverflowError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error

    def _learn(
        self,
        part: net.RowSubset,
        incremental: bool = False,
        first_pass: bool = True,
        validation: tuple[Any, Any, Any] = (None, None, None),
        reports: training.Reports | None = None,
    ) -> Any:
        """Train on checked data, targets binarized."""
        units = [part.X.shape[1], *self._hidden_sizes(), self._outputs_for(part.y)]
        self._random_state = seeded_generator(self)
        self.history_ = None if reports is None else reports.history
        if first_pass:
            single = np.dtype(np.float32)
            spec.compute_dtype(self.compute_dtype, units, single, type(self).__name__)
            self._initialize(
                part.y, units, part.X.dtype if self.compute_dtype is None else "f4"
            )
        else:
            self._check_sizes(units)
        held_out = net.validation_rows(self, *validation)
        if to_core.is_stochastic(self.solver):
            training.fit_epochs(self, part, held_out, reports, incremental=incremental)
        else:
            if held_out is not None:
                raise to_core.needs_batches(self, "X_val")
            if to_core.is_second_order(self.solver):
                training.fit_by_core(self, part, reports)
            else:
                training.minimize_loss(self, part, reports)
        if not np.isfinite(self._live_state().parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may "
                "contain large values and need to be preprocessed."
            )
        return self

    def _outputs_for(self, y: Array) -> int:
        return int(y.shape[1])

    def _check_solver(self) -> bool:
        if to_core.is_stochastic(self.solver):
            return True
        return bool(super()._check_solver())

    def _hidden_sizes(self) -> list[Any]:
        chosen = self.hidden_layer_sizes
        if hasattr(chosen, "__iter__"):
            sizes = list(chosen)
        else:
            sizes = [chosen]
        if np.less_equal(sizes, 0).any():
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _of_classes(self, weight: Any, X: Any, y: Array) -> Any:
        """Row weights, shape (n_samples,), times class weights; None: all are 1."""
        return weight

    def _check_sizes(self, units: list[int]) -> None:
        sizes = list(self._live_state().layout.sizes)
        if sizes != list(units):
            raise ValueError(
                f"{type(self).__name__} has layers of {sizes} units from an earlier "
                f"fit, but the data and hidden_layer_sizes ask for "
                f"{[int(n) for n in units]}: call fit with "
                "warm_start=False to begin anew"
            )

    def _initialize(self, y: Array, layer_units: list[Any], dtype: Any) -> None:
        super()._initialize(y, layer_units, dtype)
        self.n_outputs_ = layer_units[-1]
        # `fit_epochs` makes these copies if early stopping needs them.
        del self._best_coefs, self._best_intercepts
        before: NetState | None = self.__dict__.get("_state")
        if to_core.is_stochastic(self.solver):
            training.reset_records(self)
            before = None
        self._adopt()
        state = self._state
        network = to_core.network_of(self, state.layout.sizes, state.parameters.dtype)
        signs = to_core.signs_of_estimator(self, network)
        if signs:
            layer_settings.set_first_weights(
                network._replace(signs=signs), state.parameters
            )
        # L-BFGS keeps the optimizer of an earlier fit, as in scikit-learn.
        net.take_slots(self._state, before)

    def _adopt(self) -> None:
        """Copy all parameters to one vector, and replace the arrays by its views."""
        state = net.state_from(vars(self))
        net.set_writeable(state, False)
        self._state, self._cache = state, PredictionCache()
        self.coefs_ = list(state.weights)
        self.intercepts_ = list(state.biases)

    @property
    def net_(self) -> MLP:
        """An `MLP` that shares the parameters, but not the optimizer's state.

        Numbers written to one appear in the other until `fit` starts anew,
        which replaces the net.
        """
        check_is_fitted(self)
        before: NetState | None = self.__dict__.get("_state")
        if self._live_state() is not before:
            # A user's arrays in the lists: their numbers move to one vector.
            self._adopt()
            net.take_slots(self._state, before)
        return net.net_around(self, self._state)

    def _live_state(self) -> NetState:
        state: NetState | None = self.__dict__.get("_state")
        if state is None or not net.stand_in(state, vars(self)):
            state = net.state_from(vars(self))
            state.lock.is_lent = (
                True  # Training may write its views into a user's lists.
            )
        return state

    def _loss_grad_lbfgs(
        self,
        packed_coef_inter: Array,
        X: Any,
        y: Array,
        sample_weight: Any,
        *buffers: Any,
    ) -> tuple[float, Array]:
        """The objective and its gradient at parameters of shape (n_parameters,)."""
        objective = training.objective_on(self, net.RowSubset(X, y, sample_weight))
        value, slopes = objective(np.ascontiguousarray(packed_coef_inter, np.float64))
        return value, slopes

    def _unpack(self, packed_parameters: Array) -> None:
        state = self._live_state()
        state.assign(packed_parameters)
        net.write_back(state, vars(self))

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        if self.scoring is None and self._held_out is not None:
            return self._held_out.score()
        if self.scoring == "loss" and self.validation_loss_curve_:
            return -self.validation_loss_curve_[-1]
        scorer = check_scoring(self, self.scoring)
        if sample_weight is None:
            options = {}
        else:
            options = {"sample_weight": sample_weight}
        with warnings.catch_warnings():
            # Rows of a data frame are an array here.
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            return float(scorer(self, X, y, **options))

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        return self._outputs(self._validated_rows(X) if check_input else X)

    def _validated_rows(self, X: Any) -> Any:
        with to_core.checking(self, X):
            return checked_rows(self, X, reset=False, dtype="numeric")

    def _outputs(self, X: Any, hidden: bool = False) -> Array:
        """Predictions, or the last hidden layer's activations,
        shape (n_rows, n_units).
        """
        state = self._live_state()
        if X.shape[1] != state.layout.sizes[0]:
            raise ValueError(
                f"X has {X.shape[1]} features, but coefs_[0] has "
                f"{state.layout.sizes[0]} rows"
            )
        dtype = net.dtype_of(np.empty(0, X.dtype), state.parameters)
        # Without penalties, nets that differ in penalties alone share buffers.
        network = to_core.network_of(self, state.layout.sizes, dtype)._replace(
            penalties=()
        )
        with state.lock.parameters:
            flat = state.parameters.astype(dtype, copy=False)
            if hidden:
                network = to_core.features_of(network)
                flat = net.flat_of(state.weights[:-1], state.biases[:-1]).astype(
                    dtype, copy=False
                )
        out = np.empty((X.shape[0], network.layout.sizes[-1]), dtype)
        cache: PredictionCache | None = self.__dict__.get("_cache")
        engine = to_core.engine_of(
            self, network, state.lock, cache.buffers if cache else None
        )
        predictor = engine.predictor(flat)
        predictor.write(engine.features(X), out)
        if cache is not None and flat is state.parameters:
            cache.quick = QuickPredictor(
                predictor,
                state=state,
                activation=self.activation,
                out_activation=self.out_activation_,
                compute_dtype=self.compute_dtype,
                n_threads=n_threads_of(self.n_jobs),
            )
        return out

    def _quick_outputs(self, X: Any) -> Array | None:
        """Predictions for plain rows in microseconds; None for other rows."""
        cache: PredictionCache | None = self.__dict__.get("_cache")
        if cache is None or cache.quick is None or hasattr(self, "feature_names_in_"):
            return None
        quick = cache.quick
        if not quick.serves(self) or not net.stand_in(quick.state, vars(self)):
            return None
        outputs = quick.predictor.quick(X, alone=True)
        # To ask joblib takes 3 us.
        if outputs is None and quick.n_threads == n_threads_of(self.n_jobs):
            outputs = quick.predictor.quick(X, alone=False)
        return outputs

    def transform(self, X: Table) -> Array:
        """Return the activations of the last hidden layer;
        only a fitted estimator has it.

        Steps before the last of a pipeline must be transformers. Put a fitted estimator
        into scikit-learn's `FrozenEstimator`; for an estimator that the pipeline fits,
        write ``class Features(TransformerMixin, MLPClassifier): ...``.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_units)
            Without hidden layers, the features as they are.

        Raises
        ------
        AttributeError
            If the estimator is not fitted.
        """
        check_is_fitted(self)
        rows = self._validated_rows(X)
        if len(vars(self)["coefs_"]) == 1:
            return rows.toarray() if hasattr(rows, "toarray") else rows
        return self._outputs(rows, hidden=True)

    @property
    def _n_features_out(self) -> int:
        check_is_fitted(self)
        return self._live_state().layout.sizes[-2]


# Not a decorator: `_SetOutputMixin` would put a plain function in the class.
available = available_if(
    lambda it: "coefs_" in vars(it) or isinstance(it, TransformerMixin)
)
CompiledMLP.transform = available(CompiledMLP.transform)  # type: ignore[method-assign]
