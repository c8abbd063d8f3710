"""What a pass over a table learns of its columns: kinds, scales, levels and classes."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.scaling.standardizer import Standardizer
from fastmlp.tabular import left_out
from fastmlp.tabular.batches import Batches, Mask
from fastmlp.tabular.columns import (
    Column,
    Target,
    kind_of,
    lacking,
    missing_in,
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
    """

    columns: tuple[Column, ...]
    target: Target
    sizes: dict[int, int]
    n_rows: int


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
    """The target so far: the classes of all rows, and the moments of those trained on."""

    def __init__(self, name: str) -> None:
        self._name, self._classes, self._moments = name, set[Any](), Numbers(name)
        self._kind: Any = None
        self._n = self._n_missing = 0

    def add(self, column: Any, trained_on: Any, where: str) -> None:
        """Learn from an Arrow column, and from its part that is trained on."""
        import pyarrow.compute as compute
        import pyarrow.types as kinds

        if self._kind is None or kinds.is_null(self._kind):
            self._kind = column.type
        self._n, self._n_missing = self._n + len(column), self._n_missing + missing_in(column)
        if len(self._classes) <= MOST_COUNTED:
            self._classes.update(compute.unique(column).to_pylist())
        if kind_of(column.type) == "number":
            self._moments.add(trained_on, where)

    def target(self, task: Task | None, say: Say, who: str) -> Target:
        """Return the target; without a task it is guessed, and said.

        Raises
        ------
        TypeError, ValueError
            If values are missing, there is but one, or they do not suit the task.
        """
        import pyarrow.types as kinds

        if self._n_missing:
            told = f"{lacking(self._n_missing)} ({count(self._n, 'row')} in all)"
            raise ValueError(f"{who}: the target {self._name!r} has {told}")
        classes = self._classes
        if len(classes) == 1:
            raise ValueError(f"{who}: the target {self._name!r} has one value, {classes.pop()!r}")
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
            labels = [label for label in classes if isinstance(label, str | bool | int | float)]
            if len(labels) < len(classes):
                raise TypeError(f"{who}: the target {self._name!r} holds {self._kind}, no classes")
            return Target(self._name, tuple(sorted(labels)))
        if not is_number:
            raise TypeError(
                f"{who}: the target {self._name!r} holds {self._kind}; a regression needs numbers"
            )
        return Target(self._name, None, *self._moments.moments)


def learn(batches: Batches, wanted: Wanted, mask: Mask, say: Say, who: str) -> Learned:
    """Return what one pass learns; `mask` has the rows that are trained on.

    Raises
    ------
    TypeError, ValueError
        If columns are not what they must be, or none is left.
    """
    target, sizes, n_rows = Targets(wanted.target), dict[int, int](), 0
    so_far: dict[str, Numbers | Levels] | None = None
    for batch in batches:
        n_rows += batch.rows.num_rows
        part = batch.part(mask(batch))
        sizes[batch.number] = part.rows.num_rows
        if so_far is None:
            so_far = _begun(batch.rows.schema, wanted, say, who)
        target.add(batch.column(wanted.target), part.column(wanted.target), batch.where)
        for name, column in so_far.items():
            column.add(part.column(name), batch.where)
    if so_far is None:
        raise ValueError(f"{who}: there are no rows, but a header or a schema")
    found = target.target(wanted.task, say, who)
    return Learned(_columns(so_far, say, who), found, sizes, n_rows)


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
            why = f"holds {kind}, neither numbers nor text"
            if "binary" in str(kind):
                why += " in UTF-8"
            say(f"note: column {name!r} is left out: it {why}")
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
