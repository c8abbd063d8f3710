"""Columns of a table, learned batch by batch: ranges of numbers, levels, and texts of dates."""

from collections import Counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmlp.tabular.schema import dates, in_memory, rule
from fastmlp.tabular.schema.in_memory import Level
from fastmlp.tabular.schema.rule import Kind

Array = NDArray[Any]


class NumberStatistics:
    """Numbers so far, of a column of them or of a part of dates.

    Attributes
    ----------
    n : how many there are
    low, high : the least and the greatest
    """

    def __init__(self) -> None:
        self.n, self.low, self.high = 0, np.inf, -np.inf

    def add(self, values: Array) -> None:
        """Learn from float64, NaN where values are missing."""
        missing = np.isnan(values)
        there = values[~missing] if missing.any() else values
        if not len(there):
            return
        self.n += len(there)
        self.low = min(self.low, float(there.min()))
        self.high = max(self.high, float(there.max()))


class ColumnLearner:
    """A column so far, of any library's table.

    Parameters
    ----------
    kind, type_name : of its type; the latter for others than numbers, texts and dates
    asked : True if it is to be categories, however many levels it has

    Attributes
    ----------
    n_rows : rows, those without a value too
    counts : how many rows each level has
    numbers : what was learned of the numbers, or of each part of dates
    """

    def __init__(self, name: str, kind: Kind, type_name: str = "", *, asked: bool = False) -> None:
        self._name, self._type_name, self._asked = name, type_name, asked
        # Without a value in a first batch there may be some in others.
        self._kind: Kind = "numbers" if kind == "nothing" else kind
        self._by_levels = asked or kind in ("texts", "levels")
        # Texts are dates if those of the first batch with a value are, and of all later ones.
        self._temporal = kind if dates.is_kind(kind) else None
        self._may_be_dates = kind == "texts"
        self._zone: bool | None = None
        self.numbers = [NumberStatistics()]
        self._n = self.n_rows = 0
        self.counts: Counter[Any] = Counter()

    def add(self, values: Any, where: str) -> None:
        """Learn from values: an array, a series of pandas or a column of Arrow.

        Raises
        ------
        TypeError, ValueError
            If they are not of the column's kind, or a number is infinite.
        """
        self.n_rows += len(values)
        if self._by_levels or self._may_be_dates:
            self._add_levels(*in_memory.levels_in(values, self._name, where))
        if self._zone is None and self._temporal == "dates":
            self._zone = in_memory.has_zone(values)
        if self._asked or self._may_be_dates:
            return
        if self._temporal is not None and self._kind == self._temporal:
            self._add_moments(in_memory.moments(values, self._kind, self._name, where))
        elif self._kind == "numbers":
            numbers = self.numbers[0]
            numbers.add(in_memory.numbers(values, self._name, where))
            if numbers.n and np.isinf([numbers.low, numbers.high]).any():
                raise in_memory.infinite(values, self._name, where)

    def _add_levels(self, codes: Array, levels: list[Any]) -> None:
        times = np.bincount(codes[codes >= 0], minlength=len(levels)).tolist()
        if self._by_levels:
            self._n += sum(times)
            self.counts.update({level: n for level, n in zip(levels, times, strict=True) if n})
        if self._may_be_dates:
            there = [level if n else None for level, n in zip(levels, times, strict=True)]
            self._add_texts(codes, there)

    def _add_texts(self, codes: Array, texts: list[Any]) -> None:
        """Learn from texts that have been dates so far, or times of day; None is missing."""
        if not any(texts):
            return
        moments = dates.of_texts(texts)
        kind = None if moments is None else dates.kind_of(moments)
        if moments is None or kind is None or self._temporal not in (None, kind):
            self._may_be_dates, self._temporal = False, None
            return
        self._temporal = kind
        if not self._asked:
            self._add_moments(np.append(moments, dates.missing(1, kind))[codes])

    def _add_moments(self, values: Array) -> None:
        assert self._temporal is not None
        parts = dates.all_of(self._temporal)
        more = parts.names[len(self.numbers) :]
        self.numbers += [NumberStatistics() for _ in more]
        for so_far, part in zip(self.numbers, parts.numbers(values).T, strict=True):
            so_far.add(part)

    def decided(self) -> Literal["number", "levels"] | dates.Parts | rule.LeftOut:
        """The outcome of the rule for the column."""
        kind, by_levels = self._temporal or self._kind, self._by_levels
        if kind != self._kind:  # of texts
            by_levels = self._asked
            # Of ISO texts of several forms, such as a day with and without a time.
            counts, self.counts = self.counts, Counter()
            for text, n in counts.items() if self._asked else ():
                self.counts[dates.as_level(text)] += n
        n = self._n if by_levels else self.numbers[-1].n
        lows, highs = np.array([(one.low, one.high) for one in self.numbers]).T
        levels = [str(level) for level in self.levels] if by_levels else ()
        facts = (self._asked, n, self.n_rows, lows, highs, levels, self._type_name)
        decision = rule.decided(rule.Facts(kind, *facts))
        if isinstance(decision, dates.Parts):
            return decision._replace(zone=self._zone)
        return decision

    @property
    def levels(self) -> set[Level]:
        """All levels: texts, or numbers and truth where no value is of another type."""
        if all(type(value) is str for value in self.counts):
            return {*self.counts}
        numeric = not any(isinstance(value, str) for value in self.counts)
        levels = {*in_memory.as_levels(self.counts, numeric=numeric)}
        if any(isinstance(level, str) for level in levels):
            levels = {*in_memory.as_levels(self.counts, numeric=False)}
        return levels
