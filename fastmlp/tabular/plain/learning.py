"""Columns of a table learned by one pass: kinds, scales, levels and classes."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.columns import Place, lacking, missing_in
from fastmlp.scaling.standardizer import Standardizer
from fastmlp.tabular.plain.columns import Column, Target
from fastmlp.tabular.schema import dates, rule
from fastmlp.tabular.schema.arrow_columns import (
    dictionary,
    is_number,
    kind_of,
    moments,
    numbers,
    texts,
)
from fastmlp.tabular.schema.batches import Mask, Places, TableBatch, made
from fastmlp.tabular.schema.rule import Task
from fastmlp.validation.suggestions import count

Array = NDArray[Any]
# The most levels of a category; rarer ones are as unknown ones.
MOST_LEVELS = 100
# Levels beyond which none are counted: 10 MB.
MOST_COUNTED = 100_000
# Integers with more values are numbers, where no task is asked for.
MOST_CLASSES = 20
Say = Callable[[str], Any]


class ColumnSettings(NamedTuple):
    """The choice of a table's target and features.

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


class LearnedColumns(NamedTuple):
    """The columns and the target as a pass has learned them.

    Attributes
    ----------
    sizes : rows of each batch that are trained on, by the batch's number
    n_rows : of all batches, those that are held out too
    kept : the first row of each class whose rows would all be held out; no column is learned
        from it, but it is trained on
    single : the classes of one row
    dropped : the columns that are left out, and why
    """

    columns: tuple[Column, ...]
    target: Target
    sizes: dict[int, int]
    n_rows: int
    kept: Places
    single: tuple[Any, ...]
    dropped: dict[str, str]

    @property
    def told(self) -> dict[str, Any]:
        """The columns that are left out, for a model's `training`; nothing if there are none."""
        return {"left_out": self.dropped} if self.dropped else {}


class NumberStatistics:
    """Numbers so far: a column of them, or a part of dates."""

    def __init__(self) -> None:
        self._scaler = Standardizer()
        self.low, self.high = np.inf, -np.inf

    def add(self, values: Array) -> None:
        """Learn from float64, NaN where values are missing."""
        there = values[~np.isnan(values)]
        if len(there):
            self.low = min(self.low, float(there.min()))
            self.high = max(self.high, float(there.max()))
            with np.errstate(over="ignore"):
                self._scaler.partial_fit(there[:, None])

    @property
    def n(self) -> int:
        """How many there are."""
        return self._scaler.n_rows

    @property
    def moments(self) -> tuple[float, float]:
        """The mean and the standard deviation."""
        return float(self._scaler.center[0]), float(self._scaler.scale[0])


class FeatureLearner:
    """A column so far; `asked`: it is to be categories, however many levels it has."""

    def __init__(self, name: str, type_: Any, *, asked: bool) -> None:
        self._name, self._type, self._asked = name, str(type_), asked
        kind = kind_of(type_)
        # Without a value in a first file there may be some in others.
        self._kind = "numbers" if is_number(type_) or kind == "nothing" else kind
        self._by_levels = asked or self._kind in ("texts", "levels")
        # Of texts the first batch with a value tells, and none after one that are no dates.
        self._temporal = kind if dates.is_kind(kind) else None
        self._may_be_dates = kind == "texts"
        self._numbers = [NumberStatistics()]
        self._n = self._n_rows = self.n_rare = 0
        self._counts: Counter[str] = Counter()

    def add(self, column: Any, where: str) -> None:
        """Learn from an Arrow column."""
        self._n_rows += len(column)
        if self._by_levels and len(self._counts) <= MOST_COUNTED:
            self._n += len(column) - column.null_count
            self._add_levels(texts(column).drop_null())
        if self._may_be_dates:
            self._add_texts(column)
        elif self._asked:
            return
        elif self._temporal is not None:
            values = moments(column, self._temporal, self._name, where)
            self._add_moments(values, self._temporal)
        elif self._kind == "numbers":
            self._numbers[0].add(numbers(column, self._name, where))

    def _add_levels(self, column: Any) -> None:
        import pyarrow.compute as compute

        pairs = compute.value_counts(column).to_pylist()
        self._counts.update({pair["values"]: pair["counts"] for pair in pairs})

    def _add_texts(self, column: Any) -> None:
        """Learn from texts that have been dates so far, or times of day."""
        codes, values = dictionary(column)
        if not any(values):
            return
        moments_of_values = dates.of_texts(values)
        kind = None if moments_of_values is None else dates.kind_of(moments_of_values)
        if moments_of_values is None or kind is None or self._temporal not in (None, kind):
            self._may_be_dates, self._temporal = False, None
            return
        self._temporal = kind
        self._add_moments(np.append(moments_of_values, dates.missing(1, kind))[codes], kind)

    def _add_moments(self, values: Array, kind: dates.Kind) -> None:
        parts = dates.all_of(kind)
        self._numbers += [NumberStatistics() for _ in parts.names[len(self._numbers) :]]
        for so_far, part in zip(self._numbers, parts.numbers(values).T, strict=True):
            so_far.add(part)

    def becomes(self) -> tuple[Column, ...] | rule.LeftOut:
        """Return the inputs, or why there are none."""
        kind, by_levels = self._temporal or self._kind, self._by_levels
        if kind != self._kind:  # of texts
            by_levels, self._counts = self._asked, _iso(self._counts) if self._asked else Counter()
        n = self._n if by_levels else self._numbers[-1].n
        lows, highs = np.array([(one.low, one.high) for one in self._numbers]).T
        facts = (self._asked, n, self._n_rows, lows, highs, self._counts, self._type)
        decision = rule.decided(rule.Facts(kind, *facts))
        if decision == "levels":
            return (self._categories(),)
        if decision == "number":
            return (Column(self._name, None, *self._numbers[0].moments, n < self._n_rows),)
        return self._parts(decision, n) if isinstance(decision, dates.Parts) else decision

    def _categories(self) -> Column:
        # Of equally frequent ones the first of the alphabet.
        order = sorted(self._counts, key=lambda level: (-self._counts[level], level))
        self.n_rare = max(0, len(order) - MOST_LEVELS)
        return Column(self._name, tuple(sorted(order[:MOST_LEVELS])))

    def _parts(self, parts: dates.Parts, n: int) -> tuple[Column, ...]:
        """Return a column for each part that varies; the last also tells of missing values."""
        of_all = dict(zip(dates.PARTS[parts.kind], self._numbers, strict=True))
        columns = [
            Column(self._name, None, *of_all[part].moments, part=part) for part in parts.names
        ]
        last = columns[-1]
        if parts.origin is not None:
            center = last.center - dates.days_of(parts.origin)
            last = last._replace(center=center, origin=parts.origin)
        return (*columns[:-1], last._replace(indicates=n < self._n_rows))


def _iso(counts: Counter[str]) -> Counter[str]:
    """Return how often there is each date or time, of ISO texts of several forms."""
    iso_counts: Counter[str] = Counter()
    for text, n in counts.items():
        iso_counts[dates.as_level(text)] += n
    return iso_counts


class TargetLearner:
    """The target so far: the rows of each class, and the moments of those trained on."""

    def __init__(self, name: str, task: Task | None) -> None:
        self._name, self._task, self._moments = name, task, NumberStatistics()
        self._counts, self._trained = Counter[Any](), set[Any]()
        # The batch and the row of the first of a class that was not trained on then.
        self._first: dict[Any, tuple[int, int]] = {}
        self._kind: Any = None
        self._n = self._n_missing = 0
        self._first_missing = ""

    def add(self, batch: TableBatch, part: TableBatch) -> None:
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
        if is_number(column.type):
            self._moments.add(numbers(trained_on, self._name, batch.where))

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
            lack = lacking(self._name, self._n_missing, self._first_missing)
            raise ValueError(f"{who}: {lack} ({count(self._n, 'row')} in all)")
        classes = self._counts
        if len(classes) == 1:
            raise ValueError(
                f"{who}: the target {self._name!r} has one value, {next(iter(classes))!r}"
            )
        of_numbers = is_number(self._kind)
        if task is None:
            few = kinds.is_integer(self._kind) and len(classes) <= MOST_CLASSES
            as_classes = few or kinds.is_boolean(self._kind) or not of_numbers
            task = "classification" if as_classes else "regression"
            other = "regression" if as_classes else "classification"
            into = f", {len(classes)} classes" if as_classes else ""
            hint = f" (guessed; else --task {other})" if of_numbers else ""
            say(f"task: {task} of {self._name!r}{into}{hint}")
        if task == "classification":
            self._check_number_of_classes(who)
            labels = [label for label in classes if isinstance(label, str | bool | int | float)]
            if len(labels) < len(classes):
                raise TypeError(f"{who}: the target {self._name!r} holds {self._kind}, no classes")
            return Target(self._name, tuple(sorted(labels)))
        if not of_numbers:
            raise TypeError(
                f"{who}: the target {self._name!r} holds {self._kind}; a regression needs numbers"
            )
        return Target(self._name, None, *self._moments.moments)

    def _check_number_of_classes(self, who: str) -> None:
        n = len(self._counts)
        if n > min(MOST_COUNTED, max(rule.ID_LEVELS, rule.ID_SHARE * self._n)):
            of_numbers = "; of numbers: --task regression" * is_number(self._kind)
            raise ValueError(
                f"{who}: the target {self._name!r} has {n} classes in {self._n} rows, as an id or "
                f"free text has: name another column to predict{of_numbers}"
            )


def learn(
    batches: Iterable[TableBatch], settings: ColumnSettings, mask: Mask, say: Say, who: str
) -> LearnedColumns:
    """The columns and the target, by one pass; `mask` has the rows that are trained on.

    Raises
    ------
    TypeError, ValueError
        If columns are not what they must be, or none is left.
    """
    target, sizes, n_rows = TargetLearner(settings.target, settings.task), dict[int, int](), 0
    so_far: dict[str, FeatureLearner] | None = None

    def add(columns: dict[str, FeatureLearner], batch: TableBatch, part: TableBatch) -> int:
        target.add(batch, part)
        for name, column in columns.items():
            column.add(part.column(name), part.where)
        return int(part.rows.num_rows)

    for batch in batches:
        n_rows += batch.rows.num_rows
        if so_far is None:
            so_far = _begun(batch.rows.schema, settings, who)
        sizes[batch.number] = made(partial(add, so_far, batch), batch, mask(batch))
    if so_far is None:
        raise ValueError(f"{who}: there are no rows, but a header or a schema")
    learned_target = target.target(settings.task, say, who)
    kept, single = ({}, ()) if learned_target.classes is None else (target.kept, target.single)
    for number, rows in kept.items():
        sizes[number] += len(rows)
    columns, dropped = _columns(so_far, say, who)
    return LearnedColumns(columns, learned_target, sizes, n_rows, kept, single, dropped)


def _begun(schema: Any, settings: ColumnSettings, who: str) -> dict[str, FeatureLearner]:
    """A learner for each column, by its kind."""
    learners: dict[str, FeatureLearner] = {}
    for name in settings.features:
        kind, asked = schema.field(name).type, name in settings.categorical
        if kind_of(kind) == "others" and (settings.chosen or asked):
            reason = f"holds {kind}, neither numbers, dates nor texts"
            raise TypeError(f"{who}: the column {name!r} {reason}; leave it out")
        learners[name] = FeatureLearner(name, kind, asked=asked)
    return learners


def _columns(
    so_far: dict[str, FeatureLearner], say: Say, who: str
) -> tuple[tuple[Column, ...], dict[str, str]]:
    """Return the inputs, and why other columns are left out."""
    columns, dropped = list[Column](), dict[str, str]()
    for name, feature in so_far.items():
        inputs = feature.becomes()
        if isinstance(inputs, rule.LeftOut):
            dropped[name] = inputs.why
            say(f"note: column {name!r} is left out: it {inputs.why}")
            continue
        columns.extend(inputs)
        if feature.n_rare:
            rare = f"the {feature.n_rare} rarest are taken as unknown"
            say(f"note: column {name!r}: {MOST_LEVELS} levels are kept; {rare}")
    if not columns:
        raise ValueError(f"{who}: no column is left to learn from")
    return tuple(columns), dropped
