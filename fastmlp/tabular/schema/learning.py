"""The decision about a column of a table: its numbers, its levels, or its parts of dates."""

from collections import Counter
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import numpy as np

from fastmlp.tabular.schema import dates, in_memory, rule
from fastmlp.tabular.schema.in_memory import Level


class LearnedColumn(NamedTuple):
    """The outcome of the rule for a column, and all its levels, if it has levels."""

    decision: Literal["number", "levels"] | dates.Parts | rule.LeftOut
    levels: set[Level]


def learn(name: str, values: Any, who: str, *, asked: bool = False) -> LearnedColumn:
    """Learn a column: an array, a series of pandas or a column of Arrow.

    Parameters
    ----------
    asked : True if it is to be categories, however many levels it has

    Raises
    ------
    TypeError, ValueError
        If it is asked for and holds objects, or a number is infinite.
    """
    kind = in_memory.kind_of(values)
    type_name = in_memory.type_of(values) if kind == "others" else ""
    if type_name and asked:
        raise TypeError(f"{who}: {in_memory.refused(name, type_name)}")
    kind = "numbers" if kind == "nothing" else kind
    temporal, counts = kind if dates.is_kind(kind) else None, Counter[Any]()
    # Numbers, or parts of dates, shape (n_rows, n_parts).
    parts = np.empty((0, 1))
    if asked or kind in ("texts", "levels"):
        codes, in_column = in_memory.levels_in(values, name, who)
        times = np.bincount(codes[codes >= 0], minlength=len(in_column)).tolist()
        used = [level if n else None for level, n in zip(in_column, times, strict=True)]
        counts.update({level: n for level, n in zip(in_column, times, strict=True) if n})
        moments = dates.of_texts(used) if kind == "texts" and any(used) else None
        temporal = temporal if moments is None else dates.kind_of(moments)
        if moments is not None and temporal is not None and not asked:
            moments = np.append(moments, dates.missing(1, temporal))[codes]
            parts = dates.all_of(temporal).numbers(moments)
    if not asked and temporal is not None and temporal == kind:
        parts = dates.all_of(temporal).numbers(in_memory.moments(values, temporal, name, who))
    elif not asked and kind == "numbers":
        parts = in_memory.numbers(values, name, who)[:, None]
    by_levels = asked or (kind in ("texts", "levels") and temporal is None)
    if asked and temporal not in (None, kind):
        # ISO texts of several forms, such as a day with and without a time.
        texts, counts = counts, Counter()
        for text, n in texts.items():
            counts[dates.as_level(text)] += n
    levels = _levels(counts) if by_levels else set[Level]()
    # NaN is not itself.
    there = [part if (known := part == part).all() else part[known] for part in parts.T]
    n = counts.total() if by_levels else len(there[-1])
    lows = np.array([part.min(initial=np.inf) for part in there])
    highs = np.array([part.max(initial=-np.inf) for part in there])
    if kind == "numbers" and len(there[0]) and np.isinf([lows, highs]).any():
        raise in_memory.infinite(values, name, who)
    texts_of = [str(level) for level in levels]
    facts = rule.Facts(temporal or kind, asked, n, len(values), lows, highs, texts_of, type_name)
    decision = rule.decided(facts)
    if isinstance(decision, dates.Parts) and temporal == "dates":
        decision = decision._replace(zone=in_memory.has_zone(values))
    return LearnedColumn(decision, levels)


def _levels(counts: Collection[Any]) -> set[Level]:
    """Return texts, or numbers and truth where no value is of another type."""
    if all(type(value) is str for value in counts):
        return {*counts}
    numeric = not any(isinstance(value, str) for value in counts)
    levels = {*in_memory.as_levels(counts, numeric=numeric)}
    if any(isinstance(level, str) for level in levels):
        levels = {*in_memory.as_levels(counts, numeric=False)}
    return levels
