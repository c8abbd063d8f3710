"""The loss and the metrics of validation rows, by one pass over them."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from fastmlp.backends import protocol
from fastmlp.backends.protocol import Data, Engine
from fastmlp.network.heads import refuse
from fastmlp.network.spec import Network, make_layout
from fastmlp.rules import activations, losses
from fastmlp.rules.losses import LOSS_SYNONYMS, LOSSES, Loss, are_weighted
from fastmlp.training.history import OF_DERIVATIVES
from fastmlp.validation import Array, messages
from fastmlp.validation.messages import needs, suggestion

Function = Callable[..., Any]
Given = str | Function | Iterable[str | Function] | Mapping[str, str | Function]
# Columns of a history's frame.
RESERVED = ("epoch", "loss", "validation_loss", "learning_rate", *OF_DERIVATIVES)
WANTED = "a function(targets, predictions), the name of a loss or of a scorer of scikit-learn's"
# Scorers that suit nets, and their names elsewhere;
# scikit-learn has 60, some for clusters.
OF_SCORERS = {
    "roc_auc": "auc auroc roc_auc_score",
    "average_precision": "auprc pr_auc average_precision_score",
    "accuracy": "acc accuracy_score categorical_accuracy",
    "balanced_accuracy": "balanced_accuracy_score",
    "f1": "f1_score",
    "precision": "precision_score",
    "recall": "recall_score",
    "roc_auc_ovr": "multiclass_auc",
    "matthews_corrcoef": "mcc",
    "r2": "r2_score",
    "neg_log_loss": "log_loss cross_entropy binary_cross_entropy",
    "neg_root_mean_squared_error": "rmse root_mean_squared_error",
}


class Metric(NamedTuple):
    """A metric: one of `function`, `loss` and `scorer`.

    Attributes
    ----------
    function : of targets and predictions
    loss : of predictions and targets; its mean is the metric
    scorer : of an estimator, X and y, as scikit-learn's
    mode : "min" or "max"; None: unknown
    """

    function: Function | None = None
    loss: Loss | None = None
    scorer: Function | None = None
    mode: str | None = None

    @property
    def weighs(self) -> bool:
        """True for a function that takes `sample_weight`."""
        return "sample_weight" in _argument_names(self.function)


Metrics = Mapping[str, Metric]


class Validation(Protocol):
    """From parameters to the loss and the metrics of validation rows."""

    @property
    def head_losses(self) -> Array:
        """The mean loss of each head, of the last call, shape (n_heads,)."""
        ...

    def __call__(self, parameters: Array) -> tuple[float, dict[str, float]]: ...


def metrics_of(argument: Any, who: str) -> dict[str, Metric]:
    return {
        name: _known(metric, who) if isinstance(metric, str) else metric
        for name, metric in named(argument, who)
    }


def named(argument: Any, who: str) -> Iterator[tuple[str, str | Metric]]:
    """Yield each metric of an argument after its name: a text, or a checked function."""
    if argument is None:
        return
    if isinstance(argument, str) or callable(argument):
        argument = [argument]
    if not isinstance(argument, Iterable):
        raise TypeError(
            f"{who}: metrics must be names, or a dict of names and {WANTED}: "
            f"{argument!r}"
        )
    pairs: Iterable[Any] = ((_name(metric, who), metric) for metric in argument)
    if isinstance(argument, Mapping):
        pairs = argument.items()
    names = set[str]()
    for name, metric in pairs:
        if not isinstance(name, str) or not name or name in RESERVED:
            taken = f", not {', '.join(map(repr, RESERVED))}"
            raise ValueError(
                f"{who}: the name of a metric must be a str{taken}, got {name!r}"
            )
        if name in names:
            raise ValueError(f"{who}: metrics has {name!r} twice; give a dict of names")
        names.add(name)
        yield name, metric if isinstance(metric, str) else _metric(metric, name, who)


def _name(metric: Any, who: str) -> str:
    if isinstance(metric, str):
        return metric
    name: str | None = getattr(getattr(metric, "_score_func", metric), "__name__", None)
    if name is None:
        raise ValueError(
            f"{who}: metrics: {metric!r} has no name: give {{'name': function}}"
        )
    return name


def _metric(metric: Any, name: str, who: str) -> Metric:
    """The metric of a function or a scorer."""
    if not callable(metric) or isinstance(metric, type):
        raise TypeError(f"{who}: metrics[{name!r}] must be {WANTED}, got {metric!r}")
    if next(iter(_argument_names(metric)), "") == "estimator":
        return Metric(scorer=metric, mode="max")
    return Metric(function=metric)


def _known(name: str, who: str) -> Metric:
    # Losses with a link take raw outputs.
    of_predictions = [
        key for key, loss in LOSSES.items() if loss.link is None and not loss.by_row
    ]
    if name in of_predictions:
        return Metric(loss=LOSSES[name], mode="min")
    try:
        from sklearn.metrics import get_scorer, get_scorer_names
    except ImportError as error:
        if name in OF_SCORERS:
            raise ImportError(
                needs(f"{who}: the metric {name!r}", "scikit-learn")
            ) from error
        of_scorers = needs("any of scikit-learn's scorers", "scikit-learn")
        scorers = []
        others = f"; {of_scorers}"
    else:
        scorers = get_scorer_names()
        others = " and scikit-learn's other scorers"
    if name not in scorers:
        words = {
            key: words for key, words in LOSS_SYNONYMS.items() if key in of_predictions
        }
        meant = suggestion(
            name, [*of_predictions, *OF_SCORERS, *scorers], {**words, **OF_SCORERS}
        )
        known = ", ".join(sorted([*of_predictions, *(OF_SCORERS if scorers else ())]))
        raise ValueError(
            f"{who}: unknown metric {name!r}{meant} known: {known}{others}"
        )
    return Metric(scorer=get_scorer(name), mode="max")


def _argument_names(function: Any) -> list[str]:
    """Parameter names; empty where Python does not know them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def check(metrics: Metrics, network: Network, data: Data, who: str) -> None:
    """Check before anything is compiled."""
    if metrics and network.heads:
        raise refuse("metrics", who)
    n_outputs = network.layout.sizes[-1]
    for name, metric in metrics.items():
        owner = f"{who}: metrics[{name!r}]"
        if network.loss.per_target > 1 and metric.function is None:
            raise ValueError(
                f"{owner}: the net has {network.loss.per_target} outputs for each "
                "column of the targets; give a function(targets, predictions)"
            )
        weighted = are_weighted(network.loss, n_outputs, data.y.shape[1])
        if metric.loss is not None and data.y.shape[1] != n_outputs and not weighted:
            raise ValueError(
                f"{owner}: a loss compares each output with a target, but the targets "
                "are class labels; give a function(targets, predictions)"
            )
        if metric.scorer is not None and weighted:
            raise ValueError(
                f"{owner}: scorers of scikit-learn take neither unknown targets nor "
                "weights by target; give a function(targets, predictions, "
                "sample_weight), whose targets are NaN where they are unknown"
            )
        if metric.scorer is not None:
            targets = _targets(network, data)
            try:
                ideal = _ideal(network.loss, targets, n_outputs)
                _scored(
                    metric.scorer, network.loss, targets, ideal, _weight(network, data)
                )()
            except Exception as error:
                raise ValueError(
                    f"{owner} does not suit the validation targets: {error}"
                ) from error


def _ideal(loss: Loss, targets: Array, n_outputs: int) -> Array:
    """Predictions that equal the targets, shape (n_rows, n_outputs)."""
    if loss.targets == "classes":
        return np.eye(n_outputs)[targets] if targets.ndim == 1 else targets
    # Scorers of labels take whole numbers for labels; predictions are rarely whole.
    return targets.reshape(-1, n_outputs).astype(np.float64) / 2 + 0.25


class Measures:
    """The metrics of one net on some rows, as functions of the predictions."""

    def __init__(self, metrics: Metrics, network: Network, data: Data) -> None:
        shape = (data.n_rows, network.layout.sizes[-1])
        self.predictions = np.empty(shape, network.dtype)
        self._data = data
        self._targets = _targets(network, data)
        self._weight = _weight(network, data)
        # Functions see the numbers read-only.
        self._seen = (
            self.predictions[:, 0] if shape[1] == 1 else self.predictions
        ).view()
        self._seen.flags.writeable = self._targets.flags.writeable = False
        self._of = {
            name: self._bound(metric, network) for name, metric in metrics.items()
        }

    def __call__(self) -> dict[str, float]:
        return {name: self._value(name, measure) for name, measure in self._of.items()}

    def _value(self, name: str, measure: Callable[[], Any]) -> float:
        try:
            value = measure()
        except Exception as error:
            error.add_note(f"in metrics[{name!r}]")
            raise
        if np.ndim(value) or np.asarray(value).dtype.kind not in "fiub":
            shape = np.shape(value)
            if shape:
                shown = f"an array of shape {shape}{messages.of_broadcast(shape)}"
            else:
                shown = repr(value)
            raise TypeError(
                f"MLP.fit: metrics[{name!r}] must return a number, got {shown}"
            )
        return float(value)

    def _bound(self, metric: Metric, network: Network) -> Callable[[], Any]:
        weight = self._weight
        if metric.loss is not None:
            return self._mean(metric.loss, network)
        scorer = metric.scorer
        function = metric.function
        if scorer is not None:
            return _scored(
                scorer, network.loss, self._targets, self.predictions, weight
            )
        assert function is not None
        if metric.weighs:
            options = weight
        else:
            options = {}
        return lambda: function(self._targets, self._seen, **options)

    def _mean(self, loss: Loss, network: Network) -> Callable[[], float]:
        """Weighted mean of a loss, by the kernels:
        the weights are the identity, the inputs the predictions.
        """
        n = network.layout.sizes[-1]
        layout = make_layout((n, n))
        identity = (activations.identity,)
        link = losses.Link(losses.identity)
        net = Network(layout, identity, loss, link, (), network.dtype)
        engine = protocol.engine_on("cpu", net, n_threads=1)
        y, weight = (
            _rows(each, self._data.rows) for each in (self._data.y, self._data.weight)
        )
        rows = engine.trusted(self.predictions, y, weight)
        evaluation = engine.evaluation(rows)
        parameters = np.concatenate([np.eye(n).ravel(), np.zeros(n)]).astype(
            network.dtype
        )
        return lambda: evaluation(parameters)


def _targets(network: Network, data: Data) -> Array:
    """Shape (n_rows,) or (n_rows, n_targets), NaN where unknown; labels as int64."""
    targets, factors = _parts(network, data)
    if factors is not None:
        targets[factors == 0] = np.nan
    if targets.shape[1] > 1:
        return targets
    labels = network.loss.targets == "classes"
    return targets[:, 0].astype(np.int64 if labels else targets.dtype)


def _parts(network: Network, data: Data) -> tuple[Array, Array | None]:
    """Targets, and the factors beside them or None."""
    y = _rows(data.y, data.rows)
    if not are_weighted(network.loss, network.layout.sizes[-1], y.shape[1]):
        return y, None
    n = y.shape[1] // 2
    return y[:, :n].copy(), y[:, n:]


def _weight(network: Network, data: Data) -> dict[str, Array]:
    """Weights of rows, or of targets, for functions that take them."""
    if data.rows is None:
        weight = np.asarray(data.weight)
    else:
        weight = _rows(data.weight, data.rows)
    factors = _parts(network, data)[1]
    if factors is not None:
        weight = weight[:, None] * factors
    if weight.size:
        return {"sample_weight": weight}
    return {}


def _rows(source: Any, rows: NDArray[np.int64] | None) -> Array:
    """A host copy of the rows in use, shape (n_rows, ...)."""
    on_device = hasattr(source, "copy_to_host")
    if on_device:
        array = source.copy_to_host()
    else:
        array = np.array(source)
    return array if rows is None or not array.size else array[rows]


def _scored(
    scorer: Function,
    loss: Loss,
    targets: Array,
    predictions: Array,
    weight: Mapping[str, Array],
) -> Callable[[], Any]:
    """A function without arguments that scores predictions by a scorer.

    The scorer gets an estimator of these classes, with predictions in the place of X.
    """
    n_outputs = predictions.shape[1]
    if loss.targets in ("classes", "unit"):
        classes = np.arange(max(n_outputs, 2))
    else:
        classes = None
    if loss.targets == "unit" and n_outputs > 1:
        classes = np.eye(n_outputs, dtype=np.int64)
    elif classes is not None and targets.ndim == 2:
        targets = targets.argmax(axis=1)
    estimator = estimator_of(classes)

    def score() -> Any:
        X = predictions[:, 0] if n_outputs == 1 else predictions
        if classes is not None and n_outputs == 1:
            X = np.column_stack([1 - X, X])
        return scorer(estimator, X, targets, **weight)

    return score


def estimator_of(classes: Array | None) -> Any:
    """An estimator for scorers, whose X are its predictions.

    Parameters
    ----------
    classes : (n_classes,) labels, whose probabilities X are; None: X are numbers.
        A matrix: X are the probabilities of its columns, several labels at once.
    """
    regressor, classifier = _estimators()
    if classes is None:
        return regressor()
    return classifier(classes)


@cache
def _estimators() -> tuple[Any, Any]:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    # scikit-learn's messages show these names.
    class Regressor(RegressorMixin, BaseEstimator):
        def predict(self, X: Array) -> Array:
            return X

    class Classifier(ClassifierMixin, BaseEstimator):
        def __init__(self, classes_: Array) -> None:
            self.classes_ = classes_

        def predict_proba(self, X: Array) -> Array:
            return X

        def predict(self, X: Array) -> Array:
            several = self.classes_.ndim == 2
            labels: Array = (
                (X > 0.5).astype(int) if several else self.classes_[X.argmax(axis=1)]
            )
            return labels

    return Regressor, Classifier


@final
class OnePass:
    def __init__(self, engine: Engine[Any], held_out: Data, metrics: Metrics) -> None:
        self._evaluation: Any = engine.evaluation(held_out)
        self._measures = (
            Measures(metrics, engine.network, held_out) if metrics else None
        )

    @property
    def head_losses(self) -> Array:
        """The mean loss of each head, of the last call, shape (n_heads,)."""
        return self._evaluation.head_losses

    @property
    def derivative_loss(self) -> float:
        """The last call's mean square of the residuals of derivatives."""
        return float(self._evaluation.derivative_loss)

    def __call__(self, parameters: NDArray[Any]) -> tuple[float, dict[str, float]]:
        measures = self._measures
        if measures is None:
            return float(self._evaluation(parameters)), {}
        return float(self._evaluation(parameters, measures.predictions)), measures()
