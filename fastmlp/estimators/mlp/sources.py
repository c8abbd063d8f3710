"""Fits of an estimator over a source: its blocks, checked, with binarized targets."""

from collections import Counter
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import _check_sample_weight, check_X_y

from fastmlp.backends.protocol import Engine
from fastmlp.data.feed import Feed, check_source, tabled
from fastmlp.data.rows import Reading, Rows, all_rows
from fastmlp.data.sources import Opened, Piece, is_source, opened, parts_of, targets_of
from fastmlp.estimators.mlp.advice import checking
from fastmlp.estimators.mlp.losses import checked_targets
from fastmlp.estimators.mlp.row_subset import RowSubset
from fastmlp.estimators.mlp.to_core import data_of
from fastmlp.network.state import NetState
from fastmlp.training.loop import ByBuffers
from fastmlp.training.rows import check_length
from fastmlp.validation import unnamed
from fastmlp.validation.suggestions import count


class Over(NamedTuple):
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
        for name, given in self._asdict().items():
            if given is not None:
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


ARRAYS = Over()


def feed_of(
    estimator: Any, X: Any, y: Any, sample_weight: Any, over: Over, *, first_pass: bool
) -> Feed:
    """Return the feed of a source, its first buffer filled.

    Parameters
    ----------
    first_pass : bool
        The estimator learns labels, width and dtype, from `classes` and the first block.

    Raises
    ------
    TypeError, ValueError, ImportError
        If the source, or what is in its blocks, is not what it must be.
    """
    who = f"{type(estimator).__name__}.fit"
    known = None if first_pass else getattr(estimator, "feature_names_in_", None)
    X = tabled(X, y, over.target, who, None if known is None else list(known))
    batch = 200 if estimator.batch_size == "auto" else int(estimator.batch_size)
    reading = Reading(int(estimator.max_iter), batch, bool(estimator.shuffle), over.buffer_rows)
    check_source(X, y, sample_weight, reading, who)
    first = _first(opened(X, who), who)
    # An iterator has lost it.
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
    """Return all rows of a source, to validate on, checked and with binarized targets.

    Raises
    ------
    TypeError, ValueError, MemoryError
        If they are not what they must be, or do not fit into memory.
    """
    who = f"{type(estimator).__name__}.fit: X_val"
    x, y, weight = all_rows(opened(X, who), _Conversion(estimator, who), who)
    targets = y.astype(bool) if is_classifier(estimator) else y
    return RowSubset(x, targets, weight if weight.size else None)


def part_of(feed: Feed, *, boolean: bool) -> RowSubset:
    """Return the rows of a feed's first buffer, as a fit on arrays has them."""
    x, y, weight = feed.rows
    return RowSubset(x, y.astype(bool) if boolean else y, weight if weight.size else None)


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
    """The way of a fit over all buffers of a feed; None if its rows are in memory."""
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
        """Note the weights of classes; return the labels, None for several of a row.

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
        found, counts = list[Any](), Counter[Any]()
        for y in targets_of(source, self._who):
            present, n = np.unique(y, return_counts=True)
            found.append(present)
            counts.update(dict(zip(present.tolist(), n.tolist(), strict=True)))
        if weight == "balanced":
            n_rows = counts.total()
            self._class_weight = {one: n_rows / (len(counts) * n) for one, n in counts.items()}
        return np.unique(np.concatenate(found)) if classes is None else classes

    def first(self, first: Piece, classes: Any) -> Rows | None:
        """Set on the estimator what a fit derives from its first block; return its rows."""
        estimator, y = self._estimator, parts_of(first.content, self._who)[1]
        if is_classifier(estimator):
            labels = y if classes is None else classes
            if type_of_target(labels).startswith("continuous"):
                value = next(one for one in np.ravel(labels) if one % 1)
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
            If they are not what they must be; a note names the block.
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
        how: dict[str, Any] = {"multi_output": True, "dtype": kinds, "y_numeric": numeric}
        # Blocks have no names of columns, which `validate_data` would warn of.
        X, y = check_X_y(X, y, estimator=estimator, **how)
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
