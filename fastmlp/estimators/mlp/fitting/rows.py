"""The rows of a fit: subsets of arrays, blocks of a source, and rows held out to validate on."""

from collections import Counter
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import _safe_indexing
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    check_X_y,
    validate_data,
)

from fastmlp.backends.protocol import Data, Engine
from fastmlp.data.feed import Feed, check_source, tabled
from fastmlp.data.rows import Reading, Rows, all_rows
from fastmlp.data.sources import Opened, Piece, is_source, opened, parts_of, targets_of
from fastmlp.estimators.mlp.fitting.advice import checking
from fastmlp.estimators.mlp.fitting.to_core import checked_targets, data_of
from fastmlp.network.state import NetState
from fastmlp.training.loop import ByBuffers
from fastmlp.training.rows import check_length
from fastmlp.validation import balanced, unnamed
from fastmlp.validation.suggestions import count

Array = NDArray[Any]
RowIndex = NDArray[np.int64]


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
        """Return these rows of an array with a row for each row of X."""
        return array if array is None or self.rows is None else array[self.rows]

    def data(self, engine: Engine[Any]) -> Data:
        """Return the subset in the core's form."""
        return data_of(engine, self.X, self.y, self.weight)._replace(rows=self.rows)

    def shares(self, other: "RowSubset") -> bool:
        """Return True if both are subsets of the same data."""
        return all(a is b for a, b in zip(self[:3], other[:3], strict=True))

    def weighted(self, weight: Array | None) -> Self:
        """Return these rows with weights, shape (n,), one for each; other rows get the weight 0."""
        if weight is None or self.rows is None:
            return self._replace(weight=weight)
        of_all = np.zeros(len(self.y), weight.dtype)
        of_all[self.rows] = weight
        return self._replace(weight=of_all)

    def split(self, estimator: Any) -> tuple[Self, Self]:
        """Return the rows to train on, and the rows that early stopping holds out.

        As in scikit-learn only a binary target is stratified: targets of several classes have
        several columns here.
        """
        rows = np.arange(len(self.y), dtype=np.int64) if self.rows is None else self.rows
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
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        return self._replace(rows=train), self._replace(rows=test)


def derive_form(estimator: Any, X: Any, y: Any, rows: RowIndex) -> tuple[np.dtype[Any], Array]:
    """Set labels, names and width on an unfitted estimator, as its `fit` on some rows would.

    X is valid already, and read for its dtype, width and names alone: a slice of its first rows,
    which is no copy, stands for `rows`.

    Returns
    -------
    dtype : in which the estimator takes X
    targets : (n_samples, n_outputs) array, binarized; zeros in other rows

    Raises
    ------
    TypeError, ValueError
        If the estimator does not take such targets.
    """
    n, n_samples = len(rows), _num_samples(X)
    subset = X if n == n_samples else _safe_indexing(X, slice(n) if n < n_samples else rows)
    checked, targets = estimator._validate_input(subset, _safe_indexing(y, rows), False, reset=True)
    table = np.zeros((n_samples, targets.size // n), targets.dtype)
    table[rows] = targets.reshape(n, -1)
    return checked.dtype, table


class SourceOptions(NamedTuple):
    """Arguments of a fit that are for a source."""

    target: Any = None
    buffer_rows: Any = None
    classes: Any = None

    def covers(self, X: Any, y: Any, who: str) -> bool:
        """Return True if X is a source, or is made one by `target`.

        Raises
        ------
        ValueError
            If the arguments do not go together.
        """
        if self.target is not None or (y is None and is_source(X)):
            return True
        unnamed(y, who)
        for name, value in self._asdict().items():
            if value is not None:
                raise ValueError(f"{who}: {name} is for a source, such as Blocks; X is none")
        return False

    def of_table(self, estimator: Any, validation: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """Return the validation data; files, or a table with y, as a source."""
        X, y, weight = validation
        if X is None or y is not None or self.target is None or is_source(X):
            return validation
        names = getattr(estimator, "feature_names_in_", None)
        known = None if names is None else list(names)
        who = f"{type(estimator).__name__}.fit: X_val"
        return tabled(X, None, self.target, who, known), None, weight


ARRAYS = SourceOptions()


def feed_of(
    estimator: Any, X: Any, y: Any, sample_weight: Any, over: SourceOptions, *, first_pass: bool
) -> Feed:
    """Return the feed of a source, its first buffer filled.

    Parameters
    ----------
    first_pass : bool
        The estimator learns labels, width and dtype, from `classes` and the first block.

    Raises
    ------
    TypeError, ValueError, ImportError
        If the source, or a block, has another type, shape or values than `fit` takes.
    """
    who = f"{type(estimator).__name__}.fit"
    known = None if first_pass else getattr(estimator, "feature_names_in_", None)
    X = tabled(X, y, over.target, who, None if known is None else list(known))
    batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
    reading = Reading(int(estimator.max_iter), batch, bool(estimator.shuffle), over.buffer_rows)
    check_source(X, y, sample_weight, reading, who)
    first = _first(opened(X, who), who)
    # An iterator cannot be read twice: its first block goes before the others.
    whole = chain([first.content], X) if hasattr(X, "__next__") else X
    classes = estimator.classes_ if not first_pass and is_classifier(estimator) else over.classes
    convert = _Conversion(estimator, who)
    if is_classifier(estimator):
        classes = convert.look_at_labels(X, first, classes)
    rows = convert.first(first, classes) if first_pass else convert(first)
    assert rows is not None
    names = getattr(X, "feature_names", None)
    if first_pass and names is not None:
        estimator.feature_names_in_ = np.array(names, object)
    return Feed(opened(whole, who), convert, rows.row_bytes(), reading, who)


def rows_of_source(estimator: Any, X: Any) -> RowSubset:
    """All rows of a source, to validate on, checked and with binarized targets.

    Raises
    ------
    TypeError, ValueError, MemoryError
        If they have other types, shapes or values than `fit` takes, or do not fit into memory.
    """
    who = f"{type(estimator).__name__}.fit: X_val"
    return subset_of(estimator, all_rows(opened(X, who), _Conversion(estimator, who), who))


def subset_of(estimator: Any, rows: Rows) -> RowSubset:
    """Rows of a source as a fit on arrays has them."""
    x, y, weight = rows
    targets = y.astype(bool) if is_classifier(estimator) else y
    return RowSubset(x, targets, weight if weight.size else None)


def check_whole(estimator: Any, feed: Feed | None, what: str, instead: str) -> None:
    """Check that all rows of a source are in one buffer.

    Raises
    ------
    ValueError
        If they are not.
    """
    if feed is not None and not feed.is_whole:
        raise ValueError(
            f"{type(estimator).__name__}.fit: {what} needs all rows of a source in one buffer: "
            f"give {instead}, or a larger buffer_rows"
        )


def by_buffers(
    request: Any, feed: Feed | None, engine: Engine[Any], state: NetState
) -> ByBuffers | None:
    """Epochs over all buffers of a feed; None if its rows are in memory."""
    if feed is None or feed.is_whole:
        return None
    if feed.n_rows is None:
        check_length(engine, state)
    return ByBuffers(request, feed, lambda rows: data_of(engine, *rows))


def _first(source: Opened, who: str) -> Piece:
    """Return the first block that has rows."""
    for piece in source.blocks(0, mixed=False):
        if len(parts_of(piece.content, f"{who}: {piece.name}")[0]):
            return piece
    raise ValueError(f"{who}: the source has no rows")


class _Conversion:
    """Makes rows of an estimator's dtype from blocks, with binarized targets."""

    def __init__(self, estimator: Any, who: str) -> None:
        self._estimator, self._who = estimator, who
        self._dtype: Any = None
        self._class_weight: Any = None

    def look_at_labels(self, source: Any, first: Piece, classes: Any) -> Any:
        """Set the weights of classes; return the labels, or None if rows have several.

        Without `classes`, and for weights that are "balanced", it takes a pass over the labels.
        """
        weight = self._class_weight = self._estimator.class_weight
        several = type_of_target(parts_of(first.content, self._who)[1]).startswith("multilabel")
        if several and weight == "balanced":
            raise ValueError(
                f"{self._who}: class_weight='balanced' needs one label a row in a source: give "
                "weights of rows"
            )
        if several or (classes is not None and weight != "balanced"):
            return None if several else classes
        labels, counts = list[Any](), Counter[Any]()
        for y in targets_of(source, self._who):
            present, n = np.unique(y, return_counts=True)
            labels.append(present)
            counts.update(dict(zip(present.tolist(), n.tolist(), strict=True)))
        if weight == "balanced":
            self._class_weight = balanced(counts)
        return np.unique(np.concatenate(labels)) if classes is None else classes

    def first(self, first: Piece, classes: Any) -> Rows | None:
        """Set labels, names and width on the estimator by the first block; return its rows."""
        estimator, y = self._estimator, parts_of(first.content, self._who)[1]
        if is_classifier(estimator):
            labels = y if classes is None else classes
            if type_of_target(labels).startswith("continuous"):
                value = next(number for number in np.ravel(labels) if number % 1)
                raise ValueError(
                    f"{self._who}: the target holds numbers with fractions, such as {value:.6g}, "
                    "no classes; of numbers use MLPRegressor"
                )
            estimator._label_binarizer = LabelBinarizer().fit(labels)
            estimator.classes_ = estimator._label_binarizer.classes_
        return self._converted(first, reset=True)

    def __call__(self, piece: Piece) -> Rows | None:
        """Return the rows of a block; None if it has none.

        Raises
        ------
        TypeError, ValueError
            If they are of a wrong type or value; a note names the block.
        """
        return self._converted(piece, reset=False)

    def _converted(self, piece: Piece, *, reset: bool) -> Rows | None:
        X, y, sample_weight = parts_of(piece.content, f"{self._who}: {piece.name}")
        n = len(X)
        if piece.n_rows is not None and n != piece.n_rows:
            raise ValueError(
                f"{self._who}: {piece.name} has {n} rows, but block_sizes has {piece.n_rows}"
            )
        if n == 0:
            return None
        try:
            with checking(self._estimator, X, y=y, sample_weight=sample_weight):
                return self._rows(X, y, sample_weight, reset=reset)
        except (TypeError, ValueError) as error:
            error.add_note(f"in {piece.name} of the source")
            raise

    def _rows(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Rows:
        estimator, classifies = self._estimator, is_classifier(self._estimator)
        kinds, numeric = (np.float64, np.float32), not classifies
        options: dict[str, Any] = {"multi_output": True, "dtype": kinds, "y_numeric": numeric}
        # Blocks have no names of columns, which `validate_data` would warn of.
        X, y = check_X_y(X, y, estimator=estimator, **options)
        if reset:
            vars(estimator).pop("feature_names_in_", None)
            estimator.n_features_in_ = X.shape[1]
        elif X.shape[1] != estimator.n_features_in_:
            expected = count(estimator.n_features_in_, "feature")
            raise ValueError(f"X has {count(X.shape[1], 'feature')}, but {expected} were expected")
        self._dtype = self._dtype or X.dtype
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if classifies:
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            unknown = np.setdiff1d(y, estimator.classes_).tolist() if y.ndim == 1 else []
            if unknown:
                raise ValueError(f"y has classes that are not in classes: {unknown}")
            if self._class_weight is not None:
                by_class = compute_sample_weight(self._class_weight, y).astype(X.dtype)
                weight = by_class if weight is None else weight * by_class
            table = estimator._label_binarizer.transform(y)
        else:
            table = checked_targets(estimator, y).reshape(len(y), -1)
        weights = np.empty(0) if weight is None else weight
        arrays = (np.ascontiguousarray(array, self._dtype) for array in (X, table, weights))
        return Rows(*arrays)


class HeldOutRows:
    """The rows on which an estimator is validated during training.

    Parameters
    ----------
    part : RowSubset
    data : Data, the same rows in the core's form

    Attributes
    ----------
    X, labels, weight : arguments of a scorer; X is None if no scorer of scikit-learn's is used

    Raises
    ------
    ValueError
        If all weights are 0.
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
    ) -> None:
        self._targets, self.weight = part.of(part.y), part.of(part.weight)
        if self.weight is not None and not self.weight.any():
            # The message of scikit-learn's metrics.
            raise ValueError("Sample weights must contain at least one non-zero number.")
        self.labels = estimator._labels_of(self._targets)
        self.X = None if estimator.scoring in (None, "loss") else part.of(part.X)
        self._metric, self._flat = estimator._metric, state.parameters
        of_classes = estimator.n_outputs_ == 1 or estimator.out_activation_ == "softmax"
        self._has_common_class = of_classes and hasattr(estimator, "classes_")
        self._evaluation = engine.evaluation(data)
        self._outputs = np.empty((data.n_rows, state.layout.sizes[-1]), self._flat.dtype)

    def loss(self) -> float:
        """Return the mean loss, without penalty, at the current parameters."""
        return self._evaluation(self._flat, self._outputs)

    def score(self) -> float:
        """Return the metric at the parameters of the last call of `loss`."""
        return float(self._metric(self._outputs, self._targets, self.weight))

    def common_share(self) -> float:
        """Return the share of the most common class; 0 of other targets, and of several labels."""
        if not self._has_common_class:
            return 0.0
        shares = np.average(self._targets, axis=0, weights=self.weight)
        return float(max(shares.max(), 1 - shares[0] if len(shares) == 1 else 0.0))


def validation_rows(estimator: Any, X: Any, y: Any, weight: Any) -> RowSubset | None:
    """Return the validation data given to `fit`, checked and with binarized targets, or None.

    X may be a source.
    """
    if X is None and y is None:
        return None
    if y is None and weight is None and is_source(X):
        return rows_of_source(estimator, X)
    if X is None or y is None:
        present, lacks = ("y_val", "X_val") if X is None else ("X_val", "y_val")
        raise ValueError(f"{present} is provided, but {lacks} was not provided.")
    dtype = (np.float64, np.float32)
    with checking(estimator, X, y_val=y, sample_weight_val=weight):
        X, y = validate_data(
            estimator,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=dtype,
            reset=False,
        )
    weight = None if weight is None else _check_sample_weight(weight, X)
    targets = estimator._binarized(y)
    if estimator._outputs_for(targets) != estimator.n_outputs_:
        raise ValueError(
            f"y_val has {targets.shape[1]} columns, but there are {estimator.n_outputs_} outputs"
        )
    return RowSubset(X, targets, weight)


def hold_out(
    estimator: Any,
    held_out: RowSubset | None,
    part: RowSubset,
    data: Data,
    state: NetState,
    engine: Engine[Any],
) -> HeldOutRows | None:
    """Return the rows to validate on, or None if there are none."""
    if held_out is None:
        return None
    if estimator.validation_loss_curve_ is None:
        estimator.validation_loss_curve_ = []
    estimator._best_coefs = [coef.copy() for coef in state.weights]
    estimator._best_intercepts = [intercept.copy() for intercept in state.biases]
    # If both are subsets of one table, targets and weights in the core's form are shared too.
    own = data._replace(rows=held_out.rows) if held_out.shares(part) else held_out.data(engine)
    return HeldOutRows(estimator, held_out, own, state, engine)
