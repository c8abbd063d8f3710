"""Columns of a table learned by one pass: kinds, scales, levels and classes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.data.columns import Place, lacking, missing_in
from fastmlp.tabular.plain.model import Column, Target, columns_of
from fastmlp.tabular.schema import Schema, dates, rule
from fastmlp.tabular.schema.arrow_columns import is_number, kind_of, numbers
from fastmlp.tabular.schema.batches import Mask, Places, TableBatch, made
from fastmlp.tabular.schema.learning import MOST_COUNTED, ColumnLearner, NumberStatistics
from fastmlp.tabular.schema.rule import Task
from fastmlp.validation.suggestions import count

Array = NDArray[Any]
# The most levels of a category; rarer ones are as unknown ones.
MOST_LEVELS = 100
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
    schema : of all columns, those that are left out too
    """

    columns: tuple[Column, ...]
    target: Target
    sizes: dict[int, int]
    n_rows: int
    kept: Places
    single: tuple[Any, ...]
    schema: Schema

    @property
    def report(self) -> dict[str, Any]:
        """The columns that are left out, for a model's `training`; nothing if there are none."""
        return {"left_out": self.schema.dropped} if self.schema.dropped else {}


class TargetLearner:
    """The target so far: the rows of each class, and the moments of those trained on."""

    def __init__(self, name: str, task: Task | None) -> None:
        self._name, self._task, self._moments = name, task, NumberStatistics(scaled=True)
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
        """Return the target; without a task it is guessed, with a note.

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
    batches: Iterable[TableBatch],
    settings: ColumnSettings,
    mask: Mask,
    say: Say,
    who: str,
    *,
    as_schema: bool = False,
) -> LearnedColumns:
    """The columns and the target, by one pass; `mask` has the rows that are trained on.

    Parameters
    ----------
    as_schema : the columns are those of the schema, learned from the kept rows of classes too,
        which takes batches in memory; False: they are the inputs of a plain model

    Raises
    ------
    TypeError, ValueError
        If columns are not what they must be, or none is left.
    """
    target, sizes, n_rows = TargetLearner(settings.target, settings.task), dict[int, int](), 0
    learners: dict[str, ColumnLearner] = {}

    def add(batch: TableBatch, part: TableBatch) -> int:
        target.add(batch, part)
        _add(learners, part)
        return int(part.rows.num_rows)

    for batch in batches:
        n_rows += batch.rows.num_rows
        learners = learners or _begun(batch.rows.schema, settings, who, as_schema=as_schema)
        sizes[batch.number] = made(partial(add, batch), batch, mask(batch))
    if not sizes:
        raise ValueError(f"{who}: there are no rows, but a header or a schema")
    learned_target = target.target(settings.task, say, who)
    kept, single = ({}, ()) if learned_target.classes is None else (target.kept, target.single)
    for number, rows in kept.items():
        sizes[number] += len(rows)
    for batch in batches if as_schema and kept else ():
        rows_of_batch = np.arange(batch.rows.num_rows)
        _add(learners, batch.part(np.isin(rows_of_batch, kept.get(batch.number, []))))
    schema = Schema.of(learners)
    _say_of(schema, say, who)
    columns = columns_of(schema) if as_schema else _columns(schema, learners)
    return LearnedColumns(columns, learned_target, sizes, n_rows, kept, single, schema)


def _begun(
    types: Any, settings: ColumnSettings, who: str, *, as_schema: bool
) -> dict[str, ColumnLearner]:
    """A learner for each column, by its type in Arrow."""
    learners: dict[str, ColumnLearner] = {}
    for name in settings.features:
        type_, asked = types.field(name).type, name in settings.categorical
        # To a plain model truth is a number.
        kind = "numbers" if is_number(type_) and not as_schema else kind_of(type_)
        if kind == "others" and (settings.chosen or asked):
            reason = f"holds {type_}, neither numbers, dates nor texts"
            raise TypeError(f"{who}: the column {name!r} {reason}; leave it out")
        learners[name] = ColumnLearner(name, kind, str(type_), asked=asked, plain=not as_schema)
    return learners


def _add(learners: Mapping[str, ColumnLearner], part: TableBatch) -> None:
    for name, learner in learners.items():
        learner.add(part.column(name), part.where)


def _say_of(schema: Schema, say: Say, who: str) -> None:
    """Say which columns are left out, and of which some levels are unknown to nets."""
    for name in schema.columns:
        if name in schema.dropped:
            say(f"note: column {name!r} is left out: it {schema.dropped[name]}")
        elif (n_rare := len(schema.levels.get(name, ())) - MOST_LEVELS) > 0:
            rare = f"the {n_rare} rarest are taken as unknown"
            say(f"note: column {name!r}: {MOST_LEVELS} levels are kept; {rare}")
    if len(schema.dropped) == len(schema.columns):
        raise ValueError(f"{who}: no column is left to learn from")


def _columns(schema: Schema, learners: Mapping[str, ColumnLearner]) -> tuple[Column, ...]:
    """The inputs of a plain model: frequent levels, scaled numbers, and scaled parts of dates."""
    columns = list[Column]()
    for name in schema.columns:
        learner = learners[name]
        if name in schema.levels:
            counts = learner.counts
            # Of equally frequent ones the first of the alphabet.
            order = sorted(counts, key=lambda level: (-counts[level], level))
            columns.append(Column(name, tuple(sorted(order[:MOST_LEVELS]))))
        elif name not in schema.dropped:
            columns += _numbers(name, schema.dates.get(name), learner.numbers)
            # Of the parts of a date the last one has the input for missing values.
            columns[-1] = columns[-1]._replace(indicates=learner.lacks_values)
    return tuple(columns)


def _numbers(
    name: str, parts: dates.Parts | None, numbers: Sequence[NumberStatistics]
) -> list[Column]:
    """The inputs of a column of numbers, or of dates: one for each part that varies."""
    if parts is None:
        return [Column(name, None, *numbers[0].moments)]
    of_all = dict(zip(dates.PARTS[parts.kind], numbers, strict=True))
    *columns, last = [Column(name, None, *of_all[part].moments, part=part) for part in parts.names]
    if parts.origin is not None:
        center = last.center - dates.days_of(parts.origin)
        last = last._replace(center=center, origin=parts.origin)
    return [*columns, last]
