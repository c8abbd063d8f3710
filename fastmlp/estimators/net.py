"""The net of an estimator: its state,
the `MLP` that shares it, copies, pickles and rows.

The public lists `coefs_` and `intercepts_` hold views of its parameters. Arrays that a
user puts into them are gathered for each call, and written back after training.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from numbers import Integral
from operator import is_not
from typing import Any, NamedTuple, Self, final

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastmlp._process import random_state
from fastmlp.backends.protocol import Data, Engine
from fastmlp.estimators import to_core
from fastmlp.estimators.common import n_threads_of
from fastmlp.estimators.sklearn_bases import SklearnMLP
from fastmlp.estimators.to_core import checking, data_of
from fastmlp.model import MLP, net_on
from fastmlp.network.spec import make_layout
from fastmlp.network.state import NetState
from fastmlp.rules import updates
from fastmlp.rules.optimizers import Custom
from fastmlp.training.metrics import Measures, Metrics, check
from fastmlp.validation import Array

# Before its fit, the optimizer of a net has the solver's settings, also with L-BFGS.
NO_OPTIMIZER = Custom(updates.sgd)
RowIndex = NDArray[np.int64]


def state_from(lists: Mapping[str, Any]) -> NetState:
    coefs = lists["coefs_"]
    intercepts = lists["intercepts_"]
    layout = make_layout(sizes_of(coefs))
    dtype = dtype_of(*coefs, *intercepts)
    biases = biases_of(intercepts, layout.sizes[1:])
    return NetState(
        layout, flat_of(coefs, biases).astype(dtype, copy=False), NO_OPTIMIZER
    )


def flat_of(coefs: Sequence[Array], intercepts: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(part) for part in (*coefs, *intercepts)])


def set_writeable(state: NetState, flag: bool) -> None:
    for view in (*state.weights, *state.biases):
        view.flags.writeable = flag


def stand_in(state: NetState, lists: Mapping[str, Any]) -> bool:
    """True if these lists hold the views of the state, and nothing else."""
    views = state.weights + state.biases
    arrays = (*lists["coefs_"], *lists["intercepts_"])
    return len(views) == len(arrays) and not any(map(is_not, views, arrays))


def write_back(state: NetState, lists: Mapping[str, Any]) -> None:
    """Write the parameters into the arrays of these lists;
    a view replaces an array that is too small.
    """
    for views, arrays in (
        (state.weights, lists["coefs_"]),
        (state.biases, lists["intercepts_"]),
    ):
        for i, view in enumerate(views):
            old = arrays[i]
            fits = isinstance(old, np.ndarray) and (old.dtype, old.size) == (
                view.dtype,
                view.size,
            )
            if old is not view and fits and old.flags.writeable:
                old[...] = view
            else:
                arrays[i] = view


def take_slots(state: NetState, before: NetState | None) -> None:
    """Copy the optimizer's state of another net with the same layers."""
    if before is not None and before is not state and before.layout == state.layout:
        state.optimizer = before.optimizer
        state.averaged_from = before.averaged_from
        state.set_slots(before.slots())


def sizes_of(coefs: Sequence[Array]) -> tuple[int, ...]:
    """Sizes of the layers that these matrices connect.

    Shapes that do not fit together raise:
    kernels would read past the end of the flat vector.
    """
    shapes = [np.shape(coef) for coef in coefs]
    for i, shape in enumerate(shapes):
        if len(shape) != 2:
            raise ValueError(
                f"coefs_[{i}] must be an array of two dimensions, got {coefs[i]!r}"
            )
        if i and shape[0] != shapes[i - 1][1]:
            raise ValueError(
                f"coefs_[{i}] has {shape[0]} rows, but coefs_[{i - 1}] has "
                f"{shapes[i - 1][1]} columns"
            )
    return (shapes[0][0], *(shape[1] for shape in shapes))


def biases_of(intercepts: Sequence[Array], widths: Sequence[int]) -> list[Array]:
    """Biases of layers of these widths; one number counts for all units of a layer."""
    if len(intercepts) != len(widths):
        raise ValueError(
            f"there are {len(widths)} arrays in coefs_, but {len(intercepts)} in "
            f"intercepts_"
        )
    biases = []
    for i, (bias, width) in enumerate(zip(intercepts, widths, strict=True)):
        shape = np.shape(bias)
        if shape not in ((width,), (1, width), (1,), ()):
            raise ValueError(
                f"intercepts_[{i}] has the shape {shape}, but coefs_[{i}] has {width} "
                f"columns"
            )
        biases.append(bias if shape == (width,) else np.broadcast_to(bias, (1, width)))
    return biases


def dtype_of(*arrays: Array) -> np.dtype[Any]:
    """The dtype to compute in: float32 if no array is wider, else float64."""
    kind = np.result_type(*arrays)
    if kind in (np.dtype(np.float16), np.dtype(np.float32)):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


@final
class SharedNet(NamedTuple):
    """A net that shares an estimator's parameters,
    with the settings it is valid for.
    """

    net: MLP
    state: NetState
    settings: list[Any]


# Attributes of the estimator that its net depends on.
SETTINGS_OF_NET = (
    "activation",
    "out_activation_",
    "alpha",
    "solver",
    "n_jobs",
    "dropout",
    "input_dropout",
    "input_noise",
    "average",
    "compute_dtype",
    "monotonic_cst",
)


def net_around(estimator: Any, state: NetState) -> MLP:
    """A net with the parameters of an estimator's state; made once for the state."""
    settings = [getattr(estimator, name) for name in SETTINGS_OF_NET]
    made: SharedNet | None = estimator.__dict__.get("_shared_net")
    if (
        made is not None
        and made.state is state
        and not any(map(is_not, settings, made.settings))
    ):
        return made.net
    loss, share = loss_for_net(estimator, state.layout.sizes[-1])
    network = to_core.network_of(estimator, state.layout.sizes, state.parameters.dtype)
    seed = estimator.random_state
    net = net_on(
        state,
        activation=estimator.activation,
        loss=loss,
        label_smoothing=getattr(estimator, "label_smoothing", 0.0),
        optimizer=to_core.for_net(estimator),
        l2=share * float(estimator.alpha),
        dropout=estimator.dropout,
        input_dropout=estimator.input_dropout,
        input_noise=estimator.input_noise,
        compute_dtype=estimator.compute_dtype
        if state.parameters.dtype == np.float32
        else None,
        monotonic_cst=to_core.signs_of_estimator(estimator, network) or None,
        seed=int(seed) if isinstance(seed, Integral) else None,
        n_threads=n_threads_of(estimator.n_jobs),
    )
    estimator._shared_net = SharedNet(net, state, settings)
    return net


def loss_for_net(estimator: Any, n_outputs: int) -> tuple[Any, float]:
    """An estimator's loss for `MLP` with `n_outputs`, and the factor of the penalty.

    `MLP` takes means over outputs, estimators sums.
    """
    match estimator.out_activation_:
        case "softmax":
            return "cross_entropy", 1.0
        case "logistic":
            return "binary_cross_entropy", 1 / n_outputs
    match estimator.loss:
        case "squared_error":
            # The estimator's gradient is the gradient of half the sum over outputs.
            return "mse", 2 / n_outputs
        case "poisson":
            return "poisson", 1 / n_outputs
    return estimator.loss, 1.0


# Attributes of training that predictions do not need.
TRAINING_STATE = ("_optimizer", "_best_coefs", "_best_intercepts", "_random_state")
# Attributes that are not copied: net, buffers, lock, and objects of a running fit.
NOT_COPIED = (
    "_state",
    "_cache",
    "_lock",
    "_held_out",
    "_shared_net",
    "_seeded",
    "_checked_values",
    "_engine",
)
# Name of the optimizer's state in a pickle.
SLOTS = "_slots_of_optimizer"
# Name of the step after which the average counts.
AVERAGED = "_averaged_from"


class Copies(SklearnMLP):
    """An estimator that can be pickled and copied during its fit, as scorers may do."""

    _state: NetState
    _random_state: Any

    def _adopt(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        left_out = NOT_COPIED if self.pickle_state else (*NOT_COPIED, *TRAINING_STATE)
        kept = {name: value for name, value in state.items() if name not in left_out}
        random = kept.get("_random_state")
        # A RandomState that the user passed stays the parameter's object.
        if random is not None and random is not self.random_state:
            kept["_random_state"] = random_state.pickled(random)
        return kept | self._slots() if self.pickle_state else kept

    def _slots(self) -> dict[str, Any]:
        state: NetState | None = self.__dict__.get("_state")
        slots = None if state is None else state.slots()
        if slots is None or state is None:
            return {}
        return {SLOTS: slots, AVERAGED: state.averaged_from}

    def __setstate__(self, state: dict[str, Any]) -> None:
        slots = state.get(SLOTS)
        others = (SLOTS, AVERAGED)
        super().__setstate__(
            {name: value for name, value in state.items() if name not in others}
        )
        if "_random_state" in state:
            self._random_state = random_state.unpickled(state["_random_state"])
        if "coefs_" in state:
            # A user's arrays that do not fit together raise in later calls.
            with suppress(ValueError):
                self._adopt()
                if (
                    slots is not None
                    and slots.shape[1:] == self._state.parameters.shape
                ):
                    self._state.optimizer = to_core.averaged(self)
                    self._state.set_slots(slots)
                    self._state.averaged_from = state.get(AVERAGED, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy with the state of training, which a pickle may leave out."""
        memo[id(self)] = other = type(self).__new__(type(self))
        other.__setstate__(deepcopy(self.whole_state(), memo))
        return other

    def whole_state(self) -> dict[str, Any]:
        """The argument of `__setstate__` with the state of training,
        for a copy elsewhere.
        """
        state = {
            name: value for name, value in vars(self).items() if name not in NOT_COPIED
        }
        return state | self._slots()


class RowSubset(NamedTuple):
    """Some rows of checked data, or all rows.

    Attributes
    ----------
    X : (n_samples, n_features) array or sparse matrix
    y : (n_samples, n_outputs) array, binarized
    weight : (n_samples,) array, or None
    rows : (n,) array of int64, in any order; None: all rows
    """

    X: Any
    y: Array
    weight: Any = None
    rows: RowIndex | None = None

    def of(self, array: Any) -> Any:
        if array is None or self.rows is None:
            return array
        return array[self.rows]

    def data(self, engine: Engine[Any]) -> Data:
        return data_of(engine, self.X, self.y, self.weight)._replace(rows=self.rows)

    def shares(self, other: "RowSubset") -> bool:
        return all(a is b for a, b in zip(self[:3], other[:3], strict=True))

    def split(self, estimator: Any) -> tuple[Self, Self]:
        """Return the rows to train on, and the rows that early stopping holds out.

        Only a binary target is stratified, as in scikit-learn:
        several classes have several columns here.
        """
        if self.rows is None:
            rows = np.arange(len(self.y), dtype=np.int64)
        else:
            rows = self.rows
        binary = is_classifier(estimator) and estimator.n_outputs_ == 1
        # The draw depends on the number of rows alone.
        train, test = train_test_split(
            rows,
            random_state=estimator._random_state,
            test_size=estimator.validation_fraction,
            stratify=self.of(self.y) if binary else None,
        )
        if len(test) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or "
                "the size of your dataset."
            )
        return self._replace(rows=train), self._replace(rows=test)


class HeldOutRows:
    """The rows on which an estimator is validated during training.

    Attributes
    ----------
    X, labels, weight : arguments of a scorer; X is None without a scorer of scikit-learn's
    metrics : Measures, of the predictions at the last call of `loss`
    """

    weight: Any
    labels: Any

    def __init__(
        self,
        estimator: Any,
        part: RowSubset,
        data: Data,
        state: NetState,
        engine: Engine[Any],
        metrics: Metrics,
    ) -> None:
        self._targets, self.weight = part.of(part.y), part.of(part.weight)
        if self.weight is not None and not self.weight.any():
            # scikit-learn's message.
            raise ValueError(
                "Sample weights must contain at least one non-zero number."
            )
        self.labels = estimator._labels_of(self._targets)
        if estimator.scoring in (None, "loss"):
            self.X = None
        else:
            self.X = part.of(part.X)
        self._metric = estimator._metric
        self._flat = state.parameters
        of_classes = estimator.n_outputs_ == 1 or estimator.out_activation_ == "softmax"
        self._has_common_class = of_classes and hasattr(estimator, "classes_")
        self._evaluation = engine.evaluation(data)
        check(metrics, engine.network, data, f"{type(estimator).__name__}.fit")
        self.metrics = Measures(metrics, engine.network, data)
        self._outputs = self.metrics.predictions

    def loss(self) -> float:
        return self._evaluation(self._flat, self._outputs)

    def score(self) -> float:
        """The metric at the parameters of the last call of `loss`."""
        return float(self._metric(self._outputs, self._targets, self.weight))

    def common_share(self) -> float:
        """Share of the most common class;
        0 for other targets, and for several labels.
        """
        if not self._has_common_class:
            return 0.0
        shares = np.average(self._targets, axis=0, weights=self.weight)
        return float(max(shares.max(), 1 - shares[0] if len(shares) == 1 else 0.0))


def validation_rows(estimator: Any, X: Any, y: Any, weight: Any) -> RowSubset | None:
    """Checked validation data of `fit` with binarized targets, or None."""
    if X is None and y is None:
        return None
    if X is None or y is None:
        present, lacks = ("y_val", "X_val") if X is None else ("X_val", "y_val")
        raise ValueError(f"{present} is provided, but {lacks} was not provided.")
    form: Any = {"accept_sparse": ["csr", "csc"], "dtype": (np.float64, np.float32)}
    with checking(estimator, X, y_val=y, sample_weight_val=weight):
        X, y = validate_data(estimator, X, y, multi_output=True, reset=False, **form)
    weight = None if weight is None else _check_sample_weight(weight, X)
    targets = estimator._binarized(y)
    if estimator._outputs_for(targets) != estimator.n_outputs_:
        raise ValueError(
            f"y_val has {targets.shape[1]} columns, but there are "
            f"{estimator.n_outputs_} outputs"
        )
    return RowSubset(X, targets, weight)
