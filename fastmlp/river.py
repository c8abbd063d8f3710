"""Nets for river: rows one at a time, with features and classes that come later."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from inspect import cleandoc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import MLP, Adagrad
from fastmlp.extend import explained, messages
from fastmlp.typing import Activation, Array, LossLike, Optimizer

try:
    from river import base
    from river.utils import dataframe
except ModuleNotFoundError as error:
    raise ImportError(messages.needs("fastmlp.river", "river")) from error

__all__ = ["MLPClassifier", "MLPRegressor"]

Row = Mapping[Any, Any]
Numbers = NDArray[np.float64]
DEFAULT_RATE = 0.1
# Scaled numbers end here: a wild one does not ruin the net.
LARGEST_SCALED = 10.0
ENCODED = "encode it before the net, as river's preprocessing.OneHotEncoder does"
LABELS = "for labels take fastmlp.river.MLPClassifier"
LEAVE_OUT = "leave the row out"


class RunningScales:
    """Means and spreads of columns over the rows so far; NaN is a missing number.

    Attributes
    ----------
    counts, means, squares : (n_columns,) arrays
        Known numbers, their means, and the sums of squared distances from the means.
    deviations : (n_columns,) array
        Standard deviations; infinite, and so without effect, in constant columns.
    """

    def __init__(self) -> None:
        self.counts: Numbers = np.empty(0)
        self.means: Numbers = np.empty(0)
        self.squares: Numbers = np.empty(0)
        self.deviations: Numbers = np.empty(0)

    def add(self, firsts: Sequence[float]) -> None:
        """Append columns, with a number of each, which does not count yet."""
        zeros = np.zeros(len(firsts))
        self.counts = np.append(self.counts, zeros)
        self.means = np.append(self.means, firsts)
        self.squares = np.append(self.squares, zeros)
        self.deviations = np.append(self.deviations, zeros + np.inf)

    def learn(self, row: Numbers) -> None:
        """Add a row without gaps, shape (n_columns,): Welford's update."""
        self.counts += 1.0
        change = row - self.means
        self.means += change / self.counts
        self.squares += change * (row - self.means)
        self._spread()

    def learn_many(self, rows: Numbers) -> None:
        """Add rows, shape (n_rows, n_columns): Chan's update."""
        known = rows == rows
        changes = np.where(known, rows - self.means, 0.0)
        self.counts += known.sum(axis=0)
        shifts = changes.sum(axis=0) / self.counts
        self.means += shifts
        self.squares += (changes * changes).sum(axis=0)
        self.squares -= self.counts * shifts * shifts
        np.maximum(self.squares, 0.0, out=self.squares)
        self._spread()

    def _spread(self) -> None:
        self.deviations = np.sqrt(self.squares / self.counts)
        self.deviations[self.deviations == 0] = np.inf

    def scaled(self, rows: Numbers) -> Numbers:
        """Distances from the means in deviations, NaN at gaps."""
        numbers = (rows - self.means) / self.deviations
        np.maximum(numbers, -LARGEST_SCALED, out=numbers)
        return np.minimum(numbers, LARGEST_SCALED, out=numbers)


class StreamModel(base.Estimator):
    """A stream's features, their scales, and a net that grows with them.

    Column 0 of the moments is the target, which a classifier leaves at 0.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Units of each hidden layer.
    activation : str or callable
        As for `MLP`.
    optimizer : Optimizer, optional
        None: ``Adagrad(0.1)``.
    l2 : float
        Strength of the penalty on weights.
    seed : int, optional
        Seed of the weights. None: random.
    """

    hidden_layer_sizes: Sequence[int]
    activation: Activation
    loss: LossLike = "cross_entropy"
    optimizer: Optimizer | None
    l2: float
    seed: int | None
    # Outputs of a net that has seen one row.
    _n_first = 1

    def __init_subclass__(cls) -> None:
        """Add the parameters above to the docstring of a model."""
        shared, own = (cleandoc(k.__doc__ or "") for k in (StreamModel, cls))
        shared = shared.partition("----------")[2]
        cls.__doc__ = own.replace("\n\nAttributes", f"{shared}\n\nAttributes", 1)

    def _begin(self) -> None:
        self.net: MLP | None = None
        self._columns: dict[Hashable, int] = {}
        self._moments = RunningScales()
        self._moments.add([0.0])
        # Settings are checked before the first row.
        link = self._new_net(1, self._n_first)._link
        if self._n_first == 1 and link is not None:
            raise ValueError(
                f"MLPRegressor: the target is scaled, and the loss {self.loss!r} takes no "
                "negative number; take 'mse', 'mae', 'huber' or Quantile(0.9)"
            )

    def _unit_test_skips(self) -> set[str]:
        # A batch is one step, as of river's linear models.
        return {"check_learn_many_matches_learn_one"}

    def _new_net(self, n_inputs: int, n_outputs: int) -> MLP:
        return MLP(
            (n_inputs, *self.hidden_layer_sizes, n_outputs),
            activation=self.activation,
            loss=self.loss,
            optimizer=self.optimizer or Adagrad(DEFAULT_RATE),
            l2=self.l2,
            seed=self.seed,
        )

    def _grown(self, n_outputs: int) -> MLP:
        """The net, with an input for each feature and an output for each class.

        A larger net takes the weights of the old one, and its optimizer starts anew.
        Inputs double: a stream of new words is not a stream of new nets.
        """
        net = self.net
        n_inputs = max(len(self._columns), 1)
        if net is None:
            self.net = self._new_net(n_inputs, n_outputs)
            return self.net
        room = net.layer_sizes[0]
        if n_inputs <= room and n_outputs <= net.layer_sizes[-1]:
            return net
        grown = self._new_net(
            max(room, 2 * (n_inputs > room) * room, n_inputs), n_outputs
        )
        pairs = zip(
            [*grown.weights, *grown.biases], [*net.weights, *net.biases], strict=True
        )
        for part, known in pairs:
            part[tuple(map(slice, known.shape))] = known
        self.net = grown
        return grown

    def _learn(self, x: Row, y: float, who: str) -> Numbers:
        """Meet a row's features, and learn the scales;
        return the scaled target and row.
        """
        row = self._complete(x, y)
        if row is not None:
            self._moments.learn(row)
            return self._moments.scaled(row)
        y = _target(y, f"{type(self).__name__}.{who}")
        numbers = self._numbers(x, who)
        self._meet({name: z for name, z in numbers.items() if z == z})
        row = self._in_order(numbers, y)
        self._moments.learn_many(row[None])
        return np.nan_to_num(self._moments.scaled(row))

    def _scaled(self, x: Row, who: str) -> Numbers:
        row = self._complete(x, 0.0)
        if row is not None:
            return self._moments.scaled(row)
        row = self._in_order(self._numbers(x, who), 0.0)
        return np.nan_to_num(self._moments.scaled(row))

    def _complete(self, x: Row, y: float) -> Numbers | None:
        """The target and the row, or None if it has other features or odd numbers."""
        try:
            values = [y, *map(x.__getitem__, self._columns)]
            if len(x) == len(self._columns) and math.isfinite(sum(values)):
                return np.array(values, np.float64)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            pass
        return None

    def _in_order(self, numbers: Mapping[Any, float], y: float) -> Numbers:
        ordered = (numbers.get(name, math.nan) for name in self._columns)
        return np.array([y, *ordered], np.float64)

    def _numbers(self, x: Row, who: str) -> dict[Any, float]:
        who = f"{type(self).__name__}.{who}"
        if not hasattr(x, "items"):
            raise TypeError(
                f"{who}: x must be a dict of features, got {messages.a_kind(x)}; for a "
                "row of an array dict(enumerate(row))"
            )
        return {
            name: _number(value, f"feature {name!r}", who) for name, value in x.items()
        }

    def _meet(self, firsts: Mapping[Any, float]) -> None:
        """Add the features that are new, in an order that rows do not set."""
        new = sorted(firsts.keys() - self._columns.keys(), key=str)
        if new:
            for name in new:
                self._columns[name] = len(self._columns) + 1
            self._moments.add([firsts[name] for name in new])

    def _table(self, X: Any, y: Sequence[float] | None, who: str) -> Numbers:
        """Scaled targets and rows of a frame;
        with targets, new features and scales too.
        """
        who = f"{type(self).__name__}.{who}"
        frame = dataframe.into_frame(X)
        if y is not None and len(y) != len(frame):
            raise ValueError(f"{who}: X has {len(frame)} rows, but y has {len(y)}")
        columns = {}
        for name in frame.columns:
            values = [
                _number(v, f"feature {name!r}", who) for v in frame[name].to_list()
            ]
            columns[name] = np.array(values, np.float64)
        if y is not None:
            known = {name: column[column == column] for name, column in columns.items()}
            self._meet(
                {name: column[0] for name, column in known.items() if len(column)}
            )
        rows = np.full((len(frame), len(self._columns) + 1), np.nan)
        rows[:, 0] = 0.0 if y is None else y
        for name in columns.keys() & self._columns.keys():
            rows[:, self._columns[name]] = columns[name]
        if y and len(rows):
            self._moments.learn_many(rows)
        return np.nan_to_num(self._moments.scaled(rows))

    def _inputs(self, scaled: Numbers, net: MLP) -> Array:
        """Scaled rows in the net's inputs, of which later features have some."""
        rows = scaled if scaled.ndim == 2 else scaled[None]
        inputs = np.zeros((len(rows), net.layer_sizes[0]), np.float32)
        inputs[:, : rows.shape[1] - 1] = rows[:, 1:]
        return inputs


MISSING_TYPES = ("NoneType", "NAType", "NaTType")


def _number(value: Any, name: str, who: str, remedy: str = ENCODED) -> float:
    """A number; NaN where it is missing."""
    if type(value).__name__ in MISSING_TYPES:
        return math.nan
    number = None
    if not isinstance(value, str | bytes):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if number is None:
        if isinstance(value, str | bytes):
            got = repr(value)
        else:
            got = messages.a_kind(value)
        raise TypeError(f"{who}: {name} must be a number, got {got[:50]}; {remedy}")
    if math.isinf(number):
        raise ValueError(f"{who}: {name} must be finite, got {number}; {LEAVE_OUT}")
    return number


def _target(value: Any, who: str) -> float:
    number = _number(value, "the target", who, LABELS)
    if math.isnan(number):
        raise ValueError(f"{who}: the target is missing; {LEAVE_OUT}")
    return number


class MLPRegressor(StreamModel, base.MiniBatchRegressor):
    """A net for regression that learns row by row.

    Parameters
    ----------
    loss : str or callable
        A loss of `MLP` without a link, such as "mse",
        "mae", "huber" or ``Quantile(0.9)``.

    Attributes
    ----------
    net : MLP, or None before the first row
        Takes scaled features, and predicts the scaled target.

    Notes
    -----
    Features and the target are scaled by their means and deviations so far, up to 10
    deviations. A feature that a row lacks, or whose value is None or NaN, is at its
    mean. A feature that is new gets an input.

    Examples
    --------
    >>> from fastmlp.river import MLPRegressor
    >>> model = MLPRegressor(seed=0)
    >>> for hour in range(200):
    ...     model.learn_one({"hour": hour % 24}, 15.0 + (hour % 24) / 2)
    >>> abs(model.predict_one({"hour": 12}) - 21) < 1
    True
    """

    @explained
    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (32, 32),
        activation: Activation = "relu",
        loss: LossLike = "mse",
        optimizer: Optimizer | None = None,
        l2: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.l2 = l2
        self.seed = seed
        self._begin()

    def learn_one(self, x: Row, y: float) -> None:
        """Learn the scales, then take a step on a row; y is a finite number."""
        self._step(self._learn(x, y, "learn_one")[None])

    def learn_many(self, X: Any, y: Any) -> None:
        """Take one step on the rows of a frame, of pandas or another library."""
        who = "MLPRegressor.learn_many"
        targets = [_target(one, who) for one in dataframe.into_series(y).to_list()]
        rows = self._table(X, targets, "learn_many")
        if len(rows):
            self._step(rows)

    def _step(self, scaled: Numbers) -> None:
        net = self._grown(1)
        targets = scaled[:, :1].astype(np.float32)
        net.train_on_batch(self._inputs(scaled, net), targets)

    def predict_one(self, x: Row) -> float:
        """Return the prediction of a row, 0 before the first that was learned."""
        return self._predicted(self._scaled(x, "predict_one")[None]).item()

    def predict_many(self, X: Any) -> Any:
        """Return the predictions of a frame's rows, as a series of its library."""
        rows = self._table(X, None, "predict_many")
        frame = dataframe.into_frame(X)
        return dataframe.to_native_series(self._predicted(rows), name=None, like=frame)

    def _predicted(self, scaled: Numbers) -> Numbers:
        net, moments = self.net, self._moments
        if net is None or not len(scaled):
            return np.zeros(len(scaled))
        deviation = math.sqrt(moments.squares[0] / moments.counts[0])
        outputs = net.predict(self._inputs(scaled, net))[:, 0].astype(np.float64)
        return outputs * deviation + moments.means[0]


class MLPClassifier(StreamModel, base.MiniBatchClassifier):
    """A net for classification that learns row by row, with classes that come later.

    Parameters
    ----------

    Attributes
    ----------
    net : MLP, or None before the first row
        Takes scaled features, and predicts the probabilities of the classes.

    Notes
    -----
    Features are as for `MLPRegressor`. A class that is new gets an output.

    Examples
    --------
    >>> from fastmlp.river import MLPClassifier
    >>> model = MLPClassifier(seed=0)
    >>> for i in range(300):
    ...     model.learn_one({"weight": 10 + i % 7}, "light" if i % 7 < 3 else "heavy")
    >>> model.predict_one({"weight": 10})
    'light'
    """

    _n_first = 2

    @explained
    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (32, 32),
        activation: Activation = "relu",
        optimizer: Optimizer | None = None,
        l2: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.l2 = l2
        self.seed = seed
        self._classes: dict[Hashable, int] = {}
        self._begin()

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: Row, y: Hashable) -> None:
        """Learn the scales, then take a step on a row; y is a label of any kind."""
        self._refuse_missing([y], "learn_one")
        self._step(self._learn(x, 0.0, "learn_one")[None], [y])

    def learn_many(self, X: Any, y: Any) -> None:
        """Take one step on the rows of a frame, of pandas or another library."""
        labels = dataframe.into_series(y).to_list()
        self._refuse_missing(labels, "learn_many")
        rows = self._table(X, [0.0] * len(labels), "learn_many")
        if labels:
            self._step(rows, labels)

    def _refuse_missing(self, labels: Iterable[Hashable], who: str) -> None:
        for y in labels:
            if type(y).__name__ in MISSING_TYPES or (type(y) is float and y != y):
                raise ValueError(
                    f"MLPClassifier.{who}: the label is missing; {LEAVE_OUT}"
                )

    def _step(self, scaled: Numbers, labels: Iterable[Hashable]) -> None:
        """Take a step; a class that is new gets the next output."""
        classes = self._classes
        targets = [classes.setdefault(y, len(classes)) for y in labels]
        net = self._grown(max(len(classes), 2))
        net.train_on_batch(self._inputs(scaled, net), np.array(targets))

    def predict_proba_one(self, x: Row, **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each class so far."""
        scaled = self._scaled(x, "predict_proba_one")[None]
        return dict(
            zip(self._classes, self._probabilities(scaled)[0].tolist(), strict=True)
        )

    def predict_proba_many(self, X: Any) -> Any:
        """Return the probabilities of a frame's rows,
        a column for each class so far.
        """
        rows = self._table(X, None, "predict_proba_many")
        columns = dict(zip(self._classes, self._probabilities(rows).T, strict=True))
        return dataframe.to_native_frame(columns, like=dataframe.into_frame(X))

    def predict_many(self, X: Any) -> Any:
        """Return the likeliest class of a frame's rows, as a series of its library."""
        rows = self._table(X, None, "predict_many")
        frame = dataframe.into_frame(X)
        classes = [*self._classes]
        places: list[int] = []
        if classes:
            places = self._probabilities(rows).argmax(axis=1).tolist()
        labels = [classes[place] for place in places] or [None] * len(rows)
        return dataframe.to_native_series(labels, name=None, like=frame)

    def _probabilities(self, scaled: Numbers) -> Numbers:
        n_classes = len(self._classes)
        if n_classes < 2 or not len(scaled):
            return np.ones((len(scaled), n_classes))
        net: Any = self.net
        outputs = net.predict(self._inputs(scaled, net)).astype(np.float64)
        return outputs / outputs.sum(axis=1, keepdims=True)
