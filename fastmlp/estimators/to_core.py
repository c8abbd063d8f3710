"""Settings of an estimator in the core's words:
network, loss, optimizer; advice on them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.neural_network._stochastic_optimizers import (
    AdamOptimizer,
    BaseOptimizer,
    SGDOptimizer,
)
from sklearn.utils._param_validation import InvalidParameterError

from fastmlp._process.locks import NetLock
from fastmlp._process.memory import FreeList
from fastmlp._process.random_state import key_of
from fastmlp.backends import protocol
from fastmlp.backends.protocol import Data, Engine
from fastmlp.estimators.common import n_threads_of, warn
from fastmlp.estimators.sklearn_bases import RegressorMixin
from fastmlp.network import layer_settings, resolve, spec
from fastmlp.network.layer_settings import dropout_of
from fastmlp.network.spec import Network, make_layout
from fastmlp.rules import activations, losses, optimizers, updates
from fastmlp.rules.dropout import Dropout, Key
from fastmlp.rules.losses import (
    LINKS,
    LOSS_SYNONYMS,
    LOSSES,
    SKLEARN_LOSSES,
    Loss,
    Smoothed,
)
from fastmlp.rules.optimizer_protocol import Optimizer, OptimizerSettings, is_averaged
from fastmlp.rules.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    Custom,
    LevenbergMarquardt,
    SecondOrder,
)
from fastmlp.rules.schedules import SCHEDULES
from fastmlp.rules.updates import l2
from fastmlp.training.loop import cost_of
from fastmlp.training.stopping import EarlyStopping
from fastmlp.validation import Array, arrays, messages
from fastmlp.validation.calls import LackingAttribute
from fastmlp.validation.messages import Synonyms, suggestion

ACTIVATIONS = {*activations.RULES, *activations.ALIASES}
Rates = NDArray[np.float64]
ADAM_SETTINGS = ("beta_1", "beta_2", "epsilon")
SOLVERS = {"lbfgs", "lm", *OPTIMIZERS}
DROPPED_RATES = ("dropout", "input_dropout", "input_noise")
SCHEDULE_NAMES = ("adaptive", "constant", "invscaling")
# With less patience the first epoch may be the best by chance.
PATIENT = 5
# Share of one class above which the accuracy is a poor guide.
COMMON = 0.8
NO_NUMBER = "could not convert string to float"
READS_GAPS = (
    "TabularMLPClassifier and TabularMLPRegressor take missing values as they are."
)


def network_of(estimator: Any, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Network:
    hidden = resolve.hidden_activations(estimator.activation, len(sizes) - 2)
    out = activations.ALIASES.get(estimator.out_activation_, estimator.out_activation_)
    penalties = ((l2, float(estimator.alpha)),) if estimator.alpha > 0 else ()
    rules = (*hidden, activations.identity)
    return Network(
        make_layout(sizes), rules, estimator._loss(), LINKS[out], penalties, dtype
    )


def features_of(network: Network) -> Network:
    """The network that predicts the activations of the last hidden layer."""
    layout = make_layout(network.layout.sizes[:-1])
    rules = network.activations[:-1]
    return network.without_link()._replace(layout=layout, activations=rules)


def data_of(engine: Engine[Any], X: Any, y: Array, sample_weight: Array | None) -> Data:
    if engine.network.loss.targets == "classes":
        table = y.argmax(axis=1)[:, None]
    else:
        table = y
    data: Data = engine.trusted(X, table, sample_weight)
    return data


def engine_of(
    estimator: Any,
    network: Network,
    lock: NetLock | None = None,
    buffers: FreeList | None = None,
) -> Engine[Any]:
    return protocol.engine_on(
        "cpu", network, n_threads_of(estimator.n_jobs), lock, buffers
    )


def kept_engine(estimator: Any, network: Network, lock: NetLock) -> Engine[Any]:
    """The engine of the last fit, if nothing has changed;
    else a new one, which is kept.
    """
    settings = network, lock, n_threads_of(estimator.n_jobs)
    before, engine = estimator.__dict__.get("_engine", (None, None))
    if before != settings or engine is None:
        engine = engine_of(estimator, network, lock)
        estimator._engine = settings, engine
    return engine


def fit_cost(estimator: Any, n_rows: int, n_features: int) -> float:
    """Estimated operations of a fit of all epochs; 1 if the settings are not valid."""
    try:
        hidden = np.atleast_1d(np.asarray(estimator.hidden_layer_sizes, int)).tolist()
        if isinstance(estimator.batch_size, str):
            batch = 200
        else:
            batch = int(estimator.batch_size)
        layout = make_layout((n_features, *hidden, 1))
        return cost_of(layout, n_rows, int(estimator.max_iter), min(batch, n_rows))
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        return 1.0


# The core's losses of numbers; scikit-learn's name comes first.
OF_REGRESSORS = (
    "squared_error",
    "poisson",
    *(name for name, loss in LOSSES.items() if loss.link not in ("sigmoid", "softmax")),
)


@lru_cache
def _sums(squared_error: Callable[[Array, Array], float]) -> bool:
    """Return True if scikit-learn's squared error is a sum over outputs.

    Releases up to 1.9 take the mean, with the gradient of the sum;
    scikit-learn#34830 ends that.
    """
    return bool(squared_error(np.zeros((1, 2)), np.ones((1, 2))) == 1)


def loss_of_regressor(estimator: Any) -> Loss:
    """A regressor's loss: scikit-learn's of this name, else the loss of `MLP`."""
    match estimator.loss:
        case "squared_error" if _sums(LOSS_FUNCTIONS["squared_error"]):
            return SKLEARN_LOSSES["summed_squared_error"]
        case "squared_error" | "poisson" as name:
            return SKLEARN_LOSSES[name]
    loss = resolve.loss(estimator.loss)
    if loss.link in ("sigmoid", "softmax"):
        raise ValueError(
            f"{type(estimator).__name__}: loss={estimator.loss!r} is of classes: take "
            "MLPClassifier, or MLP(..., loss=...).as_estimator()"
        )
    return loss


def levels_of(loss: Loss) -> Array | None:
    """Levels of a loss of quantiles, shape (n,); None for another loss."""
    if loss.rule in (losses.quantile, losses.quantiles):
        return np.array(loss.constants)
    return None


def loss_of_classifier(estimator: Any) -> Loss:
    """A classifier's loss, by output activation;
    a sum over labels, as in scikit-learn.
    """
    is_softmax = estimator.out_activation_ == "softmax"
    if estimator.label_smoothing > 0:
        name = "cross_entropy" if is_softmax else "binary_cross_entropy"
        return Smoothed(name, float(estimator.label_smoothing)).loss._replace(
            over_outputs="sum"
        )
    return SKLEARN_LOSSES["log_loss" if is_softmax else "binary_log_loss"]


def checked_targets(
    regressor: Any, y: Any, dtype: np.dtype[Any] | None = None
) -> Array:
    """A regressor's targets as a dense array,
    in X's dtype if given, accepted by the loss.
    """
    dense: Array = y.toarray() if issparse(y) else y
    if dense.dtype.kind not in "biuf":
        raise TypeError(
            f"MLPRegressor: y must hold numbers, got an array of {dense.dtype}"
        )
    least = float(dense.min()) if dense.size else 1.0
    accepted = regressor._loss().targets
    # scikit-learn does not check the targets of its "poisson".
    wrong = {"positive": least <= 0, "count": least < 0}.get(accepted, False)
    if wrong and regressor.loss != "poisson":
        limit = "above 0" if accepted == "positive" else "0 or more"
        raise ValueError(
            f"MLPRegressor: y must be {limit} for loss={regressor.loss!r}, got {least}"
        )
    if dtype == np.float32 and dense.dtype == np.float64 and dense.size:
        extreme = float(max(-least, dense.max()))
        largest = float(np.finfo(np.float32).max)
        if extreme > largest:
            raise ValueError(
                f"MLPRegressor: y must be finite as float32, the dtype of X, got a "
                f"number of size {extreme:.3g}, beyond the largest, {largest:.2g}; "
                f"scale y, or pass X as float64"
            )
    return dense


def squeeze(outputs: Array) -> Array:
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def values_of(
    estimator: Any, outputs: Array, link: str | None, *, with_std: bool
) -> Any:
    """A regressor's predictions from a net's outputs,
    and standard deviations if asked.
    """
    if link == "mean_std":
        mean = squeeze(outputs[:, ::2])
        deviation = squeeze(outputs[:, 1::2])
        return (mean, deviation) if with_std else mean
    if with_std:
        raise ValueError(
            f"{type(estimator).__name__}.predict: return_std=True needs "
            f"loss='gaussian_nll', got loss={estimator.loss!r}"
        )
    return squeeze(outputs)


def pinball_score(outputs: Array, targets: Array, weight: Any, levels: Array) -> float:
    error = targets - outputs
    values = np.maximum(levels * error, (levels - 1) * error)
    return -float(np.average(values.mean(axis=1, dtype=np.float64), weights=weight))


class QuantileScore(RegressorMixin):
    predict_proba: LackingAttribute = LackingAttribute(
        "regressors have predict; classifiers have probabilities"
    )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2 of the predictions; for quantiles, the negative mean pinball loss.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        """
        regressor: Any = self
        if (levels := levels_of(regressor._loss())) is None:
            return float(super().score(X, y, sample_weight))
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        outputs = regressor.predict(X).reshape(len(targets), -1)
        return pinball_score(outputs, targets, sample_weight, levels)


class CoreOptimizer(BaseOptimizer):
    """A scikit-learn optimizer object for a core optimizer that scikit-learn does not
    have.

    Attributes
    ----------
    core : Optimizer
    t : int, steps so far
    """

    core: Optimizer
    t: int

    def __init__(self, core: Optimizer) -> None:
        rate = core.learning_rate
        super().__init__(np.nan if callable(rate) else rate)
        self.core = core
        self.t = 0


def is_stochastic(solver: Any) -> bool:
    return not (
        is_second_order(solver) or (isinstance(solver, str) and solver == "lbfgs")
    )


def is_second_order(solver: Any) -> bool:
    return isinstance(solver, SecondOrder) or (
        isinstance(solver, str) and solver == "lm"
    )


def stops_by_score(estimator: Any) -> bool:
    """True for scikit-learn's early stopping; False for the core's, or without it."""
    early = estimator.early_stopping
    return bool(early) and not isinstance(early, EarlyStopping)


def holds_out(estimator: Any) -> bool:
    early = estimator.early_stopping
    return bool(early) and getattr(early, "monitor", None) != "loss"


def new_optimizer(estimator: Any) -> Any:
    rate = estimator.learning_rate_init
    # Not by the protocol `Optimizer`, whose members take 25 us to look up.
    if isinstance(estimator.solver, type):
        example = f"{estimator.solver.__name__}(...)"
        raise TypeError(
            f"{type(estimator).__name__}: solver must be an optimizer, not its class: "
            f"{example}"
        )
    if not isinstance(estimator.solver, str):
        return CoreOptimizer(estimator.solver)
    if estimator.solver == "sgd":
        schedule = estimator.learning_rate
        power = estimator.power_t
        momentum = (estimator.momentum, estimator.nesterovs_momentum)
        return SGDOptimizer([], rate, schedule, *momentum, power)
    if estimator.solver == "adam":
        return AdamOptimizer(
            [], rate, estimator.beta_1, estimator.beta_2, estimator.epsilon
        )
    kind = OPTIMIZERS[estimator.solver]
    names = {field.name for field in fields(kind)} & set(ADAM_SETTINGS)
    return CoreOptimizer(
        kind(float(rate), **{name: getattr(estimator, name) for name in names})
    )


def core_of(optimizer: Any) -> Optimizer:
    if isinstance(optimizer, CoreOptimizer):
        return optimizer.core
    if isinstance(optimizer, AdamOptimizer):
        return _adam(*(getattr(optimizer, name) for name in ADAM_SETTINGS))
    return _sgd(optimizer.momentum, optimizer.nesterov)


# One object for equal settings: trainers are kept for it.
@lru_cache(maxsize=16)
def _adam(*settings: float) -> Adam:
    named: dict[str, Any] = dict(zip(ADAM_SETTINGS, settings, strict=True))
    return Adam(**named, epsilon_hat=True)


@lru_cache(maxsize=16)
def _sgd(momentum: float, nesterov: bool) -> Custom:
    if not momentum:
        return Custom(updates.sgd)
    rule = updates.sgd_nesterov if nesterov else updates.sgd_momentum
    return Custom(rule, constants=(momentum,))


def averaged(estimator: Any) -> Optimizer:
    return with_average(core_of(estimator._optimizer), estimator)


def with_average(core: Optimizer, estimator: Any) -> Optimizer:
    if estimator.average is None:
        return core
    who = type(estimator).__name__
    if not isinstance(core, OptimizerSettings):
        raise TypeError(
            f"{who}: average={estimator.average!r} needs an optimizer of fastmlp's as "
            f"the solver, got {core!r}"
        )
    if is_averaged(core):
        raise ValueError(
            f"{who}: give average={estimator.average!r} or an optimizer that averages, "
            f"not both: solver={core!r}"
        )
    settings: Any = core
    return cast(Optimizer, replace(settings, average=estimator.average))


def for_net(estimator: Any) -> Optimizer:
    """The optimizer of an `MLP` with an estimator's settings; "lbfgs" gives Adam."""
    return with_average(_for_net(estimator), estimator)


def _for_net(estimator: Any) -> Optimizer:
    if is_second_order(estimator.solver):
        if isinstance(estimator.solver, str):
            return LevenbergMarquardt()
        return estimator.solver
    if estimator.solver == "sgd":
        momentum = float(estimator.momentum)
        nesterov = momentum > 0 and bool(estimator.nesterovs_momentum)
        return SGD(float(estimator.learning_rate_init), momentum, nesterov)
    if estimator.solver in ("adam", "lbfgs"):
        settings: Any = {
            name: float(getattr(estimator, name)) for name in ADAM_SETTINGS
        }
        return Adam(float(estimator.learning_rate_init), **settings, epsilon_hat=True)
    return core_of(new_optimizer(estimator))


def steps_of(optimizer: Any) -> int:
    return getattr(optimizer, "t", 0)


def note_steps(optimizer: Any, core: Optimizer, step: int) -> None:
    """Set an optimizer object's number of steps, and Adam's rate at the last step."""
    # scikit-learn's SGD lacks this attribute.
    optimizer.t = step
    if isinstance(optimizer, AdamOptimizer) and step > 0:
        rate = np.array([float(optimizer.learning_rate_init)])
        optimizer.learning_rate = float(core.coefficients(step, rate)[0, 0])


def names_in_use(estimator: Any) -> list[str]:
    return [name for name in DROPPED_RATES if _is_used(getattr(estimator, name))]


def _is_used(value: Any) -> bool:
    # A comparison of floats takes 40 ns in this order, and 3 us in the other.
    if type(value) is float:
        return value != 0
    return callable(value) or bool(np.any(np.asarray(value, object) != 0))


def dropout_of_estimator(estimator: Any) -> Dropout | None:
    if not names_in_use(estimator):
        return None
    dropout = estimator.dropout
    if isinstance(dropout, np.ndarray):
        rates = dropout.tolist()
    else:
        rates = dropout
    n_hidden = len(estimator._hidden_sizes())
    return dropout_of(rates, estimator.input_dropout, estimator.input_noise, n_hidden)


def in_training(estimator: Any, network: Network) -> Network:
    """An estimator's network with dropout, noise,
    precision and constraints of training.
    """
    who = type(estimator).__name__
    compute_dtype = estimator.compute_dtype
    computed = spec.compute_dtype(
        compute_dtype, network.layout.sizes, network.dtype, who
    )
    signs = signs_of_estimator(estimator, network)
    dropout = dropout_of_estimator(estimator)
    return network._replace(dropout=dropout, compute_dtype=computed, signs=signs)


def signs_of_estimator(estimator: Any, network: Network) -> tuple[int, ...]:
    """Constraints of an estimator's inputs,
    which may be named; empty without constraints.
    """
    setting = estimator.monotonic_cst
    who = type(estimator).__name__
    if isinstance(setting, Mapping):
        names = getattr(estimator, "feature_names_in_", None)
        setting = layer_settings.by_column(setting, names, who)
    return layer_settings.signs_of(setting, network, who)


def key_of_fit(estimator: Any) -> Key:
    """The key of a fit's masks and noise,
    from the random state and the rows seen so far.

    Without the rows, each `partial_fit` with "sgd",
    whose steps are not counted, would draw the same masks.
    """
    seed = int(estimator._random_state.randint(np.iinfo(np.int32).max))
    return key_of(np.random.SeedSequence([seed, int(estimator.t_)]))


def needs_batches(estimator: Any, setting: str) -> ValueError:
    solver = estimator.solver
    if isinstance(solver, str):
        name = f'"{solver}"'
    else:
        name = type(solver).__name__
    return ValueError(
        f"{type(estimator).__name__}: {setting} needs a solver that works by batches, "
        f"such as "
        f'solver="adam"; {name} uses all rows at once'
    )


def check_regularization(estimator: Any) -> None:
    """Check the settings, and that a solver with batches takes those in use."""
    others = [
        name
        for name in ("average", "compute_dtype")
        if getattr(estimator, name) is not None
    ]
    used = [*names_in_use(estimator), *others]
    if used and not is_stochastic(estimator.solver):
        raise needs_batches(estimator, f"{used[0]}={getattr(estimator, used[0])!r}")
    dropout_of_estimator(estimator)
    if estimator.average is not None and not isinstance(estimator.solver, str | type):
        with_average(estimator.solver, estimator)


LOSS_WORDS = {
    "squared_error": "mean_squared_error l2",
    **dict.fromkeys(OF_REGRESSORS, ""),
}
LOSS_WORDS |= {
    name: words for name, words in LOSS_SYNONYMS.items() if name in OF_REGRESSORS
}
# Parameters whose values are names: known names, and words of other libraries.
WORDS_OF_PARAMETERS: dict[str, tuple[Iterable[str], Synonyms]] = {
    "activation": (ACTIVATIONS, activations.ACTIVATION_SYNONYMS),
    "solver": (SOLVERS, optimizers.OPTIMIZER_SYNONYMS),
    "compute_dtype": (spec.COMPUTE_DTYPES, spec.DTYPE_SYNONYMS),
    "learning_rate": (SCHEDULE_NAMES, {}),
    "loss": (LOSS_WORDS, LOSS_WORDS),
}


def check_parameters(estimator: Any, check: Callable[[], None]) -> None:
    try:
        check()
    except InvalidParameterError as error:
        match = re.match(r"The '(\w+)' parameter", str(error))
        name = match[1] if match else ""
        advice = _advice(name, getattr(estimator, name, None), estimator)
        if advice:
            error.args = (f"{error} {advice}",)
        raise


@contextmanager
def checking(estimator: Any, X: Any, **others: Any) -> Iterator[None]:
    """Check that no entries of data are masked; add a hint to an error about text in X.

    For columns without names, the hint is a note beside scikit-learn's words.
    """
    for name, array in {"X": X, **others}.items():
        arrays.unmasked(array, type(estimator).__name__, name)
    try:
        yield
    except ValueError as error:
        if str(error).startswith(NO_NUMBER):
            hint = messages.of_kind(X, np.asarray(X), "X")
            if hasattr(X, "columns"):
                error.args = (f"{error}{hint}",)
            else:
                error.add_note(f"X holds {hint.lstrip(': ')}")
        elif "inhomogeneous" in str(error) and (wrong := arrays.ragged(X)):
            who = type(estimator).__name__
            error.args = (f"{who}: X must be an array of numbers: {wrong}",)
        elif str(error).startswith("Input X contains NaN"):
            error.args = (f"{error}\n{READS_GAPS}",)
        raise


def warn_of_kept_epoch(estimator: Any, common: float) -> None:
    """Warn if early stopping kept an epoch that learnt little.

    Such an epoch is the first, or its accuracy equals `common`, the share of the common
    class in the held-out rows, 0 without classes. The warning is a RuntimeWarning,
    because scikit-learn's tests take a UserWarning as an error.
    """
    scores = estimator.validation_scores_
    patience = estimator.n_iter_no_change
    if patience < PATIENT or len(scores) <= patience or not scores[0] < 1.0:
        return
    best, n = max(scores), len(scores)
    of_accuracy = estimator.scoring is None and common >= COMMON and best <= common
    if scores[0] >= best:
        kept = "the parameters of the first epoch"
        why = f"no later one of {n} had a validation score above {scores[0]:.4g}"
    elif of_accuracy:
        kept = f"epoch {int(np.argmax(scores)) + 1} of {n}"
        why = f"its validation accuracy, {best:.4g}, is no higher than the share of one class"
    else:
        return
    if of_accuracy:
        other = '; where a class is rare, scoring="loss" finds better epochs'
    else:
        if estimator.scoring == "loss":
            other = ""
        else:
            other = '; scoring="loss" looks at the loss instead'
    warn(
        f"{type(estimator).__name__}: early stopping kept {kept}: {why}{other}",
        RuntimeWarning,
    )


def warn_of_idle_scoring(estimator: Any) -> None:
    """Warn if `scoring` is set but unused."""
    if estimator.scoring is not None and not stops_by_score(estimator):
        warn(
            f"{type(estimator).__name__}: scoring={estimator.scoring!r} is not used "
            "without early_stopping=True",
            UserWarning,
        )


def _advice(name: str, value: Any, estimator: Any) -> str:
    """A sentence on the likely meaning of a value that a keyword refuses, or ""."""
    kind = type(estimator).__name__
    first = estimator.hidden_layer_sizes
    match name:
        case "activation" if isinstance(value, int):
            return f"Did you mean {kind}(hidden_layer_sizes=({first!r}, {value!r}))?"
        case "solver" if type(value) in SCHEDULES.values():
            return f"Did you mean Adam({value!r})?"
        case "average" if isinstance(value, int | float):
            return "Did you mean EMA(0.99)?"
        case "early_stopping" if isinstance(value, int):
            return f"Did you mean EarlyStopping(patience={value!r})?"
        case "learning_rate" if isinstance(value, float):
            return f"Did you mean learning_rate_init={value!r}?"
        case "loss" if not isinstance(value, str):
            return f"Did you mean {kind}(hidden_layer_sizes={value!r})?"
    if name in WORDS_OF_PARAMETERS:
        words = suggestion(value, *WORDS_OF_PARAMETERS[name]).strip(",:; ")
    else:
        words = ""
    return words[:1].upper() + words[1:]
