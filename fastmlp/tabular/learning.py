"""What a pass over a table learns of its columns: kinds, scales, levels and classes."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastmlp.data.places import Place, lacking, missing_in
from fastmlp.scaling.standardizer import Standardizer
from fastmlp.tabular import left_out
from fastmlp.tabular.batches import Batch, Batches, Mask, Places, made
from fastmlp.tabular.columns import (
    Column,
    Target,
    kind_of,
    numbers,
    texts,
)
from fastmlp.tabular.model import Task
from fastmlp.validation.suggestions import count

# The most levels of a category; rarer ones are as unknown ones.
MOST_LEVELS = 100
# Levels beyond which none are counted: 10 MB.
MOST_COUNTED = 100_000
# Integers with more values are numbers, where no task is asked for.
MOST_CLASSES = 20
Say = Callable[[str], Any]


class Wanted(NamedTuple):
    """What the columns of a table are to be.

    Attributes
    ----------
    task : None: by the target's values
    features : names of the columns to learn from
    chosen : True if the user has named them
    categorical : columns whose values are levels, whatever they are
    """

    target: str
    task: Task | None
    features: tuple[str, ...]
    chosen: bool
    categorical: tuple[str, ...]


class Learned(NamedTuple):
    """What a pass has learned.

    Attributes
    ----------
    sizes : rows of each batch that are trained on, by the batch's number
    n_rows : of all batches, those that are held out too
    kept : the first row of each class whose rows would all be held out; no column is learned
        from it, but it is trained on
    single : the classes of one row
    """

    columns: tuple[Column, ...]
    target: Target
    sizes: dict[int, int]
    n_rows: int
    kept: Places
    single: tuple[Any, ...]


class Numbers:
    """A column of numbers so far."""

    def __init__(self, name: str) -> None:
        self._name, self._scaler, self._n_missing = name, Standardizer(), 0
        self._low, self._high = np.inf, -np.inf

    def add(self, column: Any, where: str) -> None:
        """Learn from an Arrow column."""
        values = numbers(column, self._name, where)
        there = values[~np.isnan(values)]
        self._n_missing += len(values) - len(there)
        if len(there):
            self._low = min(self._low, float(there.min()))
            self._high = max(self._high, float(there.max()))
            with np.errstate(over="ignore"):
                self._scaler.partial_fit(there[:, None])

    @property
    def is_constant(self) -> bool:
        """True if all values so far are one."""
        return self._low >= self._high

    @property
    def moments(self) -> tuple[float, float]:
        """The mean and the standard deviation."""
        return float(self._scaler.center[0]), float(self._scaler.scale[0])

    def column(self) -> Column | str:
        """Return the column, or why it is none."""
        if self.is_constant and not (self._n_missing and self._scaler.n_rows):
            return left_out.ONE_VALUE if self._scaler.n_rows else left_out.EMPTY
        return Column(self._name, None, *self.moments, self._n_missing > 0)


class Levels:
    """A column of categories so far; `asked`: it is to be one, however many levels it has."""

    def __init__(self, name: str, *, asked: bool) -> None:
        self._name, self._asked = name, asked
        self._n = self._n_rows = 0
        self._counts: Counter[str] = Counter()
        self.n_rare = 0

    def add(self, column: Any, where: str) -> None:
        """Learn from an Arrow column."""
        import pyarrow.compute as compute

        self._n_rows += len(column)
        if len(self._counts) > MOST_COUNTED:
            return
        self._n += len(column) - column.null_count
        pairs = compute.value_counts(texts(column).drop_null()).to_pylist()
        self._counts.update({pair["values"]: pair["counts"] for pair in pairs if pair["values"]})

    def column(self) -> Column | str:
        """Return the column, or why it is none."""
        n = len(self._counts)
        # Of empty texts, which are no levels, there may be some among the n.
        n_told = self._counts.total() if n == 1 else self._n
        why = left_out.reason(self._counts, n_told, self._n_rows, asked=self._asked)
        if why is not None:
            return why
        # Of equally frequent ones the first of the alphabet.
        order = sorted(self._counts, key=lambda level: (-self._counts[level], level))
        self.n_rare = max(0, n - MOST_LEVELS)
        return Column(self._name, tuple(sorted(order[:MOST_LEVELS])))


class Targets:
    """The target so far: the rows of each class, and the moments of those trained on."""

    def __init__(self, name: str, task: Task | None) -> None:
        self._name, self._task, self._moments = name, task, Numbers(name)
        self._counts, self._trained = Counter[Any](), set[Any]()
        # The batch and the row of the first of a class that was not trained on then.
        self._first: dict[Any, tuple[int, int]] = {}
        self._kind: Any = None
        self._n = self._n_missing = 0
        self._first_missing = ""

    def add(self, batch: Batch, part: Batch) -> None:
        """Learn from a batch, and from its part that is trained on."""
        import pyarrow.types as kinds

        column, trained_on = batch.column(self._name), part.column(self._name)
        if self._kind is None or kinds.is_null(self._kind):
            self._kind = column.type
        n_missing, first = missing_in(column)
        if n_missing and not self._n_missing:
            place = batch.where if isinstance(batch.where, Place) else Place(batch.where)
            self._first_missing = f"{place.row(first)}{place.of}"
        self._n, self._n_missing = self._n + len(column), self._n_missing + n_missing
        if len(self._counts) <= MOST_COUNTED:
            self._count(column, trained_on, batch.number)
        if kind_of(column.type) == "number":
            self._moments.add(trained_on, batch.where)

    def _count(self, column: Any, trained_on: Any, number: int) -> None:
        import pyarrow.compute as compute
        import pyarrow.types as kinds

        values, counts = compute.value_counts(column).flatten()
        labels = values.to_pylist()
        self._counts.update(dict(zip(labels, counts.to_pylist(), strict=True)))
        if self._task == "regression" or (self._task is None and kinds.is_floating(column.type)):
            return
        self._trained.update(compute.unique(trained_on).to_pylist())
        new = {*labels} - self._trained - self._first.keys()
        for row, label in enumerate(column.to_pylist() if new else ()):
            if label in new:
                new.remove(label)
                self._first[label] = number, row

    @property
    def kept(self) -> Places:
        """The first rows of classes that are not trained on."""
        places: Places = {}
        for label, (number, row) in self._first.items():
            if label not in self._trained:
                places.setdefault(number, []).append(row)
        return places

    @property
    def single(self) -> tuple[Any, ...]:
        """The classes of one row."""
        return tuple(label for label, n in self._counts.items() if n == 1)

    def target(self, task: Task | None, say: Say, who: str) -> Target:
        """Return the target; without a task it is guessed, and said.

        Raises
        ------
        TypeError, ValueError
            If values are missing, there is but one, or they do not suit the task.
        """
        import pyarrow.types as kinds

        if self._n_missing:
            told = lacking(self._name, self._n_missing, self._first_missing)
            raise ValueError(f"{who}: {told} ({count(self._n, 'row')} in all)")
        classes = self._counts
        if len(classes) == 1:
            raise ValueError(
                f"{who}: the target {self._name!r} has one value, {next(iter(classes))!r}"
            )
        is_number = kind_of(self._kind) == "number"
        if task is None:
            few = kinds.is_integer(self._kind) and len(classes) <= MOST_CLASSES
            as_classes = few or kinds.is_boolean(self._kind) or not is_number
            task = "classification" if as_classes else "regression"
            other = "regression" if as_classes else "classification"
            into = f", {len(classes)} classes" if as_classes else ""
            hint = f" (guessed; else --task {other})" if is_number else ""
            say(f"task: {task} of {self._name!r}{into}{hint}")
        if task == "classification":
            self._check_number_of_classes(who)
            labels = [label for label in classes if isinstance(label, str | bool | int | float)]
            if len(labels) < len(classes):
                raise TypeError(f"{who}: the target {self._name!r} holds {self._kind}, no classes")
            return Target(self._name, tuple(sorted(labels)))
        if not is_number:
            raise TypeError(
                f"{who}: the target {self._name!r} holds {self._kind}; a regression needs numbers"
            )
        return Target(self._name, None, *self._moments.moments)

    def _check_number_of_classes(self, who: str) -> None:
        n = len(self._counts)
        if n > min(MOST_COUNTED, max(left_out.ID_LEVELS, left_out.ID_SHARE * self._n)):
            of_numbers = "; of numbers: --task regression" * (kind_of(self._kind) == "number")
            raise ValueError(
                f"{who}: the target {self._name!r} has {n} classes in {self._n} rows, as an id or "
                f"free text has: name another column to predict{of_numbers}"
            )


def learn(batches: Batches, wanted: Wanted, mask: Mask, say: Say, who: str) -> Learned:
    """Return what one pass learns; `mask` has the rows that are trained on.

    Raises
    ------
    TypeError, ValueError
        If columns are not what they must be, or none is left.
    """
    target, sizes, n_rows = Targets(wanted.target, wanted.task), dict[int, int](), 0
    so_far: dict[str, Numbers | Levels] | None = None

    def add(columns: dict[str, Numbers | Levels], batch: Batch, part: Batch) -> int:
        target.add(batch, part)
        for name, column in columns.items():
            column.add(part.column(name), part.where)
        return int(part.rows.num_rows)

    for batch in batches:
        n_rows += batch.rows.num_rows
        if so_far is None:
            so_far = _begun(batch.rows.schema, wanted, say, who)
        sizes[batch.number] = made(partial(add, so_far, batch), batch, mask(batch))
    if so_far is None:
        raise ValueError(f"{who}: there are no rows, but a header or a schema")
    found = target.target(wanted.task, say, who)
    kept, single = ({}, ()) if found.classes is None else (target.kept, target.single)
    for number, rows in kept.items():
        sizes[number] += len(rows)
    return Learned(_columns(so_far, say, who), found, sizes, n_rows, kept, single)


def _begun(schema: Any, wanted: Wanted, say: Say, who: str) -> dict[str, Numbers | Levels]:
    """Return what learns of each column, by its kind."""
    found: dict[str, Numbers | Levels] = {}
    for name in wanted.features:
        kind = schema.field(name).type
        if name in wanted.categorical or kind_of(kind) == "text":
            found[name] = Levels(name, asked=name in wanted.categorical)
        elif kind_of(kind) == "number" or str(kind) == "null":
            found[name] = Numbers(name)
        elif wanted.chosen:
            raise TypeError(f"{who}: the column {name!r} holds {kind}, neither numbers nor text")
        else:
            say(f"note: column {name!r} is left out: it holds {kind}, neither numbers nor text")
    return found


def _columns(so_far: dict[str, Numbers | Levels], say: Say, who: str) -> tuple[Column, ...]:
    columns = []
    for name, learned in so_far.items():
        column = learned.column()
        if isinstance(column, str):
            say(f"note: column {name!r} is left out: it {column}")
            continue
        columns.append(column)
        if isinstance(learned, Levels) and learned.n_rare:
            rare = f"the {learned.n_rare} rarest are taken as unknown"
            say(f"note: column {name!r}: {MOST_LEVELS} levels are kept; {rare}")
    if not columns:
        raise ValueError(f"{who}: no column is left to learn from")
    return tuple(columns)
