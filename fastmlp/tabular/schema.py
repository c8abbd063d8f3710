"""Schemas: the columns of a table as numbers and as codes of levels,
learned from the table.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp.extend import messages, warn
from fastmlp.tabular import dates, in_memory
from fastmlp.tabular.dates import Parts, are_levels
from fastmlp.tabular.in_memory import Kind, Level, MemoryTable, require
from fastmlp.typing import Array

# Types of values of a row that is read at once.
BOOLEANS = {bool, np.bool_}
NUMBER_TYPES_EXACT = {
    *(float, int, type(None), np.float64, np.float32, np.int64, np.int32),
    *BOOLEANS,
}
PLAIN = {*NUMBER_TYPES_EXACT, str, date, time, datetime, timedelta}
# Types of the values of columns of pandas that may hold texts.
HOLD_TEXTS = {np.object_, str}
# From this number on floats skip integers.
LARGEST_EXACT = 2**53
# "from_dtype" is scikit-learn's word.
BY_TYPE = ("auto", "from_dtype")
MISSING = -1
# Arrow's spelling of numbers and booleans.
FROM_NUMBERS = re.compile(r"true|false|-?(0|[1-9]\d*)(\.\d*[1-9])?(e[-+]\d+)?")


class Values(NamedTuple):
    """The rows of a table.

    Attributes
    ----------
    numbers : (n_rows, n_numbers) array of float64, NaN where a value is missing
        Numeric columns, then the parts of each column of dates.
    codes : (n_rows, n_categorical) array of int32
        Indices of levels; -1 for a missing value or an unknown level.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import Values
    >>> values = Values(np.array([[1.5], [np.nan]]), np.array([[0], [-1]], np.int32))
    >>> values.part([1]).codes
    array([[-1]], dtype=int32)
    """

    numbers: NDArray[np.float64]
    codes: NDArray[np.int32]

    def part(self, rows: Any) -> "Values":
        """Return some of the rows, by a slice, a mask or indices."""
        return Values(self.numbers[rows], self.codes[rows])


class Schema:
    """The columns of a table: numbers, dates, or categories with their levels.

    `Schema.learn` learns it from a table;
    `read` returns the rows of tables with such columns.

    Attributes
    ----------
    columns : tuple of str
        All columns of the table, in its order, as texts;
        "x0", "x1" and so on for an array.
    named : bool
        True if columns are found by name,
        in any order and among others; else by position.
    levels : dict of str to tuple of str, bool, int or float
        Sorted levels of each category, by column.
    dates : dict of str to Parts
        Columns of dates, times of day and durations,
        with the numbers that each becomes.
    dropped : dict of str to str
        Columns that are not read, and the reason.
    numeric_names, categorical_names : tuple of str
        Columns of numbers, and of categories.
    read_names : tuple of str
        Columns that are read: numbers, then dates, then categories.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import Schema
    >>> X = np.array([[3.5, "red", 1], [None, "blue", 1], [1.0, None, 1]], dtype=object)
    >>> schema = Schema.learn(X)
    >>> schema.levels, schema.dropped
    ({'x1': ('blue', 'red')}, {'x2': 'has one value only'})
    >>> values = schema.read([[2, "red", 1], [None, "green", 1]], "predict")
    >>> values.numbers
    array([[ 2.],
           [nan]])
    >>> values.codes
    array([[ 1],
           [-1]], dtype=int32)
    """

    columns: tuple[str, ...]
    named: bool
    levels: dict[str, tuple[Level, ...]]
    dropped: dict[str, str]
    dates: dict[str, Parts]
    numeric_names: tuple[str, ...]
    categorical_names: tuple[str, ...]
    read_names: tuple[str, ...]

    def __init__(
        self,
        columns: Sequence[str],
        levels: Mapping[str, Sequence[Level]],
        dropped: Mapping[str, str],
        *,
        named: bool = True,
        dates: Mapping[str, Parts] | None = None,
    ) -> None:
        # Names by kind and codes by level keep the order of the table's columns.
        self.columns = tuple(columns)
        self.named = named
        self.levels = {name: tuple(each) for name, each in levels.items()}
        self.dropped = dict(dropped)
        self.dates = dict(dates or {})
        kept = [name for name in self.columns if name not in self.dropped]
        others = {*self.levels, *self.dates}
        self.numeric_names = tuple(name for name in kept if name not in others)
        self.categorical_names = tuple(name for name in kept if name in self.levels)
        self.dates = {name: self.dates[name] for name in kept if name in self.dates}
        self.read_names = (*self.numeric_names, *self.dates, *self.categorical_names)
        self._codes = {
            name: {level: code for code, level in enumerate(each)}
            for name, each in self.levels.items()
        }
        self._dated = {name for name, each in self.levels.items() if are_levels(each)}
        self._numeric = {
            name: not isinstance(each[0], str) for name, each in self.levels.items()
        }
        self._known = {*self.columns}
        place = {name: j for j, name in enumerate(self.columns)}
        self._read_places = [place[name] for name in self.read_names]

    @property
    def number_names(self) -> tuple[str, ...]:
        """Names of the columns of `Values.numbers`; a date has one for each part."""
        parts = ([name] * len(of_date.names) for name, of_date in self.dates.items())
        return (*self.numeric_names, *(name for some in parts for name in some))

    @property
    def places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The index in `read_names` of the column of each number,
        and of each code, of `Values`.
        """
        place = {name: j for j, name in enumerate(self.read_names)}
        numbers, codes = (
            np.array([place[name] for name in names], np.intp)
            for names in (self.number_names, self.categorical_names)
        )
        return numbers, codes

    @classmethod
    def learn(
        cls, X: Any, categorical_features: Any = "auto", who: str = "Schema.learn"
    ) -> Self:
        """Return the schema of a table's columns.

        Texts, booleans and categorical types become categories; dates and times, also
        as ISO texts, their parts; durations seconds; other columns numbers. Left out
        are empty columns, columns of one value or of objects, and ids or free text.
        Such columns have over 20 levels, more than half as many as rows.

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            None, NaN, ``pd.NA`` and nulls are missing values.
        categorical_features : "auto", "from_dtype", or names, places or a mask of columns
            Columns that become categories whatever their type.
            "auto" and "from_dtype" mean no such column.

        Raises
        ------
        ImportError
            If pyarrow is needed, and not installed.
        TypeError, ValueError
            If a requested category holds objects, two columns share a name,
            a number is infinite, there are no rows, or all columns are left out.
        """
        table = in_memory.table_of(X, who)
        _check(table, who)
        names = None if table.numbered else table.names
        columns = names or tuple(f"x{j}" for j in range(table.n_columns))
        asked = _asked(categorical_features, columns, who)
        levels = {}
        dropped = {}
        parts = {}
        for j, name in enumerate(columns):
            decision, of_column = learn(name, table.column(j), who, asked=name in asked)
            if isinstance(decision, LeftOut):
                dropped[name] = decision.why
            elif isinstance(decision, Parts):
                parts[name] = decision
            elif decision == "levels":
                levels[name] = sorted(of_column)
        if len(dropped) == len(columns):
            left_out = messages.listed(reasons(dropped))
            raise ValueError(f"{who}: no column is left to learn from: {left_out}")
        return cls(columns, levels, dropped, named=names is not None, dates=parts)

    @property
    def text_names(self) -> list[str]:
        """Columns that CSV holds as texts:
        levels that are not all numbers, or dates.
        """
        texts = [name for name, each in self.levels.items() if not _are_numbers(each)]
        return texts + [
            name for name, each in self.dates.items() if each.kind != "durations"
        ]

    def read(self, X: Any, who: str = "Schema.read") -> Values:
        """Return the rows of a table.

        Parameters
        ----------
        X : (n_rows, n_columns) frame of pandas or polars, table of Arrow, array or list
            Columns are found by name, in any order and among others;
            by position if either table has no names.

        Raises
        ------
        ImportError
            If pyarrow is needed, and not installed.
        TypeError, ValueError
            If columns are missing, or hold values of another kind,
            or a number is infinite.
        """
        table = in_memory.table_of(X, who)
        places = self._places(table, who)
        numbers = self._numbers(table, places, who)
        of_dates = list[Array]()
        for name, parts in self.dates.items():
            column = table.column(places[name])
            _compare_zones(column, parts, name, who)
            of_dates.append(
                parts.numbers(in_memory.moments(column, parts.kind, name, who))
            )
        if of_dates:
            numbers = np.concatenate([numbers, *of_dates], axis=1)
        return Values(numbers, self._coded(table, places, who))

    def row(self, X: Any) -> Values | None:
        """Return the only row of X, as `read` does, if its values are plain; else None.

        X is then a list of a dict, list or tuple,
        an array of numbers, or a frame of pandas.
        """
        if hasattr(X, "iloc") and hasattr(X, "columns"):
            X = self._of_frame(X)
        values = self._plain(X)
        if values is None:
            return None
        n, n_dates = len(self.numeric_names), len(self.dates)
        numbers = values[:n]
        moments = values[n : n + n_dates]
        kinds = {*map(type, numbers)}
        if not kinds <= NUMBER_TYPES_EXACT or np.inf in numbers or -np.inf in numbers:
            return None
        for parts, moment in zip(self.dates.values(), moments, strict=True):
            of_moment = parts.of_value(moment)
            if of_moment is None:
                return None
            numbers += of_moment
        pairs = zip(self.categorical_names, values[n + n_dates :], strict=True)
        codes = [self._code(name, value) for name, value in pairs]
        if None in codes:
            return None
        # None becomes NaN.
        return Values(np.array([numbers], np.float64), np.array([codes], np.int32))

    def _of_frame(self, frame: Any) -> list[dict[str, Any]] | None:
        """The row of a frame of pandas that has all columns,
        without dates; else None.
        """
        if len(frame) != 1 or self.dates:
            return None
        names = frame.columns.tolist()
        kinds = frame.dtypes.tolist()
        of_numbers = {
            name
            for name, kind in zip(names, kinds, strict=True)
            if isinstance(kind, np.dtype) and kind.kind in "fiu"
        }
        if not of_numbers.issuperset(self.numeric_names):
            return None
        # iloc is the faster beside texts; without them it casts integers to floats.
        if HOLD_TEXTS.isdisjoint(kind.type for kind in kinds):
            values = frame.to_numpy(object)[0].tolist()
        else:
            values = frame.iloc[0].tolist()
        row = dict(zip(names, values, strict=True))
        is_whole = len(row) == len(names) and row.keys() >= {*self.read_names}
        return [row] if is_whole else None

    def _plain(self, X: Any) -> list[Any] | None:
        """Values of the columns that are read,
        in the order of `read_names`; None: see `row`.
        """
        if type(X) is np.ndarray and X.ndim == 2 and X.dtype.kind in "fiu":
            X = X.tolist() if len(X) == 1 else None
        if type(X) is not list or len(X) != 1:
            return None
        row = X[0]
        if type(row) is dict and self.named:
            others = not self._known.issuperset(row)
            if others and not all(type(name) is str for name in row):
                return None
            if not row or (others and self._known.isdisjoint(row)):
                return None
            return [*map(row.get, self.read_names)]
        if type(row) not in (list, tuple) or len(row) != len(self.columns):
            return None
        kinds = {*map(type, row)}
        # NumPy makes numbers of booleans where all others are numbers.
        are_numbers = kinds <= NUMBER_TYPES_EXACT and type(None) not in kinds
        if not kinds <= PLAIN or (are_numbers and not kinds.isdisjoint(BOOLEANS)):
            return None
        return [row[place] for place in self._read_places]

    def _code(self, name: str, value: Any) -> int | None:
        """The code of a plain value; None: the value takes `_codes_of`."""
        numeric = self._numeric[name]
        is_dated = name in self._dated
        if value is None:
            return MISSING
        if type(value) is str and not numeric:
            code = self._codes[name].get(value)
            return MISSING if code is None and not is_dated else code
        if (
            type(value) not in NUMBER_TYPES_EXACT
            or is_dated
            or abs(value) > LARGEST_EXACT
        ):
            return None
        if value != value:
            return MISSING
        (level,) = in_memory.as_levels([value], numeric=numeric)
        return self._codes[name].get(level, MISSING)

    def _places(self, table: MemoryTable, who: str) -> Mapping[str, int]:
        at = {name: place for place, name in enumerate(table.names or ())}
        # Names given by pandas match such names only.
        given_by_pandas = table.numbered and at.keys().isdisjoint(self.columns)
        if self.named and table.names and not given_by_pandas:
            if table.names != self.columns:
                try:
                    require(self.read_names, table.names, who)
                except ValueError as error:
                    own = messages.listed([*map(repr, self.read_names)], 20)
                    raise ValueError(f"{error}; columns of the model: {own}") from None
            return at
        if table.n_columns != len(self.columns):
            n = messages.count(len(self.columns), "column")
            if self.named:
                own = f": {messages.listed([*map(repr, self.columns)], 20)}"
            else:
                own = ""
            raise ValueError(
                f"{who}: X must have {n}, as in training, got {table.n_columns}{own}"
            )
        numbered = [*map(str, range(len(self.columns)))]
        if not self.named and at.keys() == {*numbered}:
            return {
                name: at[text]
                for name, text in zip(self.columns, numbered, strict=True)
            }
        return {name: place for place, name in enumerate(self.columns)}

    def _numbers(
        self, table: MemoryTable, places: Mapping[str, int], who: str
    ) -> Array:
        of_all = [places[name] for name in self.numeric_names]
        rows = table.block(of_all) if of_all else None
        if rows is None:
            rows = np.empty((table.n_rows, len(of_all)))
            for j, (place, name) in enumerate(
                zip(of_all, self.numeric_names, strict=True)
            ):
                rows[:, j] = in_memory.numbers(table.column(place), name, who)
        if (infinite := np.isinf(rows).any(axis=0)).any():
            first = int(infinite.argmax())
            raise in_memory.infinite(rows[:, first], self.numeric_names[first], who)
        return rows

    def _coded(
        self, table: MemoryTable, places: Mapping[str, int], who: str
    ) -> NDArray[np.int32]:
        codes = np.empty((table.n_rows, len(self.categorical_names)), np.int32)
        for j, name in enumerate(self.categorical_names):
            column = table.levels(places[name])
            levels = self.levels[name]
            if name in self._dated:
                own = None
            else:
                own = in_memory.places_in(column, levels)
            if own is None:
                codes[:, j] = self._codes_of(column, name, who)
            else:
                codes[:, j] = own
        return codes

    def _codes_of(self, column: Any, name: str, who: str) -> NDArray[np.int32]:
        """Codes of a column's values, each distinct value looked up once."""
        known, numeric = self._codes[name], self._numeric[name]
        in_column = in_memory.levels_in(column, name, who)
        values = in_memory.as_levels(in_column.values, numeric=numeric)
        if name in self._dated:
            values = [dates.as_level(str(each)) for each in values]
        if numeric and any(isinstance(value, str) for value in in_column.values):
            raise TypeError(
                f"{who}: the column {name!r} held numbers in training, not texts"
            )
        # The last entry is for -1.
        of_values = np.array(
            [*(known.get(each, MISSING) for each in values), MISSING], np.int32
        )
        codes: NDArray[np.int32] = of_values[in_column.codes]
        return codes

    def to_json(self) -> dict[str, Any]:
        """Return values of JSON, for `from_json`."""
        return {
            "columns": list(self.columns),
            "levels": {name: list(each) for name, each in self.levels.items()},
            "dropped": dict(self.dropped),
            "named": self.named,
            "dates": {name: each.to_json() for name, each in self.dates.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the schema of values of JSON, checked, which may come from a file.

        Raises
        ------
        TypeError, ValueError, LookupError
            If the content does not fit a schema.
        """
        columns = content["columns"]
        levels = content["levels"]
        dropped = content["dropped"]
        parts = {name: Parts.from_json(each) for name, each in content["dates"].items()}
        texts = [*columns, *levels, *dropped, *dropped.values()]
        if not all(isinstance(one, str) for one in texts) or len({*columns}) != len(
            columns
        ):
            raise ValueError("columns must be texts that differ")
        known = [*levels, *dropped, *parts]
        if not {*known} <= {*columns} or len({*known}) != len(known):
            raise ValueError(
                "levels, dropped and dates must be of columns, and each of others"
            )
        for name, each in levels.items():
            kinds = {isinstance(level, str) for level in each}
            valid = all(isinstance(level, str | bool | int | float) for level in each)
            if not valid or len(kinds) != 1 or len({*each}) != len(each):
                raise ValueError(
                    f"levels of {name!r} must be texts or numbers that differ"
                )
        if type(content["named"]) is not bool:
            raise ValueError("named must be true or false")
        return cls(columns, levels, dropped, named=content["named"], dates=parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        kinds = f"{len(self.numeric_names)} numeric, {len(self.categorical_names)} categorical"
        return f"<Schema: {kinds}{self.moments}, {len(self.dropped)} dropped>"

    @property
    def moments(self) -> str:
        """Numbers of columns of dates, times and durations, for reports."""
        kinds = Counter(parts.kind.removesuffix("s") for parts in self.dates.values())
        return "".join(f", {messages.count(n, kind)}" for kind, n in kinds.items())


def _are_numbers(levels: Sequence[Level]) -> bool:
    return all(
        not isinstance(one, str) or FROM_NUMBERS.fullmatch(one) for one in levels
    )


def reasons(dropped: Mapping[str, str]) -> list[str]:
    return [f"{name!r} {why}" for name, why in dropped.items()]


def _compare_zones(column: Any, parts: Parts, name: str, who: str) -> None:
    """Warn if dates had a time zone in training only, or have one now only."""
    if parts.zone is not None and in_memory.has_zone(column) not in (None, parts.zone):
        was, now = ("a zone", "none") if parts.zone else ("no zone", "one")
        message = (
            f"the dates of {name!r} had {was} in training, and have {now}: UTC is taken"
        )
        warn(f"{who}: {message}", UserWarning)


def _check(table: MemoryTable, who: str) -> None:
    if not table.n_rows or not table.n_columns:
        lacking = "rows" if table.n_columns else "columns"
        raise ValueError(f"{who}: X has no {lacking}")


def _asked(categorical: Any, columns: tuple[str, ...], who: str) -> set[str]:
    """Names of the columns in `categorical_features`, by name, place or mask."""
    expected = "'auto', 'from_dtype', or names, places or a mask of columns"
    if isinstance(categorical, str):
        if categorical not in BY_TYPE:
            if categorical in columns:
                one = f"; for one column use [{categorical!r}]"
            else:
                one = ""
            raise ValueError(
                f"{who}: categorical_features must be {expected}, got "
                f"{categorical!r}{one}"
            )
        return set()
    try:
        each = np.asarray(
            categorical if hasattr(categorical, "dtype") else list(categorical)
        )
    except TypeError:
        each = np.empty((), object)
    if each.ndim != 1 or (each.size and each.dtype.kind not in "biuUOT"):
        raise TypeError(
            f"{who}: categorical_features must be {expected}, got {categorical!r}"
        )
    if each.dtype.kind == "b":
        if len(each) != len(columns):
            got = f"{len(each)} for {messages.count(len(columns), 'column')}"
            raise ValueError(
                f"{who}: the mask categorical_features has a length of {got}"
            )
        return {name for name, asked in zip(columns, each, strict=True) if asked}
    if each.dtype.kind in "iu":
        if ((each < -len(columns)) | (each >= len(columns))).any():
            got = f"{messages.count(len(columns), 'column')}, got {categorical!r}"
            raise ValueError(f"{who}: categorical_features must be places of {got}")
        return {columns[place] for place in each}
    require(each.tolist(), columns, f"{who}: categorical_features")
    return set(each.tolist())


Task = Literal["classification", "regression"]
# A text column with more levels,
# which number more than this share of the rows, is like an id.
ID_LEVELS, ID_SHARE = 20, 0.5
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
ONE_VALUE = "has one value only"
IS_EMPTY = "is empty"


class LeftOut(NamedTuple):
    why: str


Decision = Literal["number", "levels"] | Parts | LeftOut


def _decided(
    kind: Kind,
    asked: bool,
    n: int,
    n_rows: int,
    lows: Array,
    highs: Array,
    levels: Collection[str],
    type_name: str,
) -> Decision:
    """Return the decision for a column.

    Parameters
    ----------
    kind : by type; texts that are all ISO dates or times have their kind
    asked : True if it is to be categories
    n, n_rows : rows with a value, and all
    lows, highs : (n_parts,) arrays, of numbers and of the parts of dates
    levels : texts of distinct levels
    type_name : of the type, where it is of others
    """
    if kind == "others":
        encoding = " in UTF-8" if "binary" in type_name else ""
        if type_name[:6] == "period":
            cure = ": make dates of it by .dt.to_timestamp()"
        else:
            cure = ""
        return LeftOut(
            f"holds {type_name}, neither numbers, dates nor texts{encoding}{cure}"
        )
    if asked or kind in ("levels", "texts"):
        why = _no_levels(levels, n, n_rows, asked=asked)
        return "levels" if why is None else LeftOut(why)
    if not n:
        return LeftOut(IS_EMPTY)
    if lows[-1] == highs[-1] and n == n_rows:
        if abs(lows[-1]) >= 2**53:
            far = " in float64: subtract the least one"
        else:
            far = ""
        return LeftOut(ONE_VALUE + far)
    if dates.is_kind(kind):
        return dates.learned(kind, lows, highs)
    return "number"


def _no_levels(
    levels: Collection[str], n: int, n_rows: int, *, asked: bool
) -> str | None:
    """The reason to leave out a column of texts,
    or None; asked columns may be like ids.
    """
    if not asked and levels and all(map(DECIMAL_COMMA.fullmatch, levels)):
        return "holds numbers with a decimal comma: write them with a point"
    if not asked and len(levels) > max(ID_LEVELS, ID_SHARE * n):
        if all(map(_is_number, levels)):
            numbers = "; all are numbers: make floats of them"
        else:
            numbers = ""
        return f"has {len(levels)} texts in {messages.count(n, 'row')}, free text or ids{numbers}"
    if not levels:
        return IS_EMPTY
    return ONE_VALUE if len(levels) == 1 and n == n_rows else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def learn(
    name: str, values: Any, who: str, *, asked: bool = False
) -> tuple[Decision, set[Level]]:
    """Return the decision for a column, and its levels if any.

    An `asked` column becomes categories, however many levels it has.
    """
    kind = in_memory.kind_of(values)
    type_name = in_memory.type_of(values) if kind == "others" else ""
    if type_name and asked:
        raise TypeError(f"{who}: {in_memory.refused(name, type_name)}")
    kind = "numbers" if kind == "nothing" else kind
    temporal = kind if dates.is_kind(kind) else None
    counts = Counter[Any]()
    # Shape (n_rows, n_parts).
    parts = np.empty((0, 1))
    if asked or kind in ("texts", "levels"):
        codes, in_column = in_memory.levels_in(values, name, who)
        times = np.bincount(codes[codes >= 0], minlength=len(in_column)).tolist()
        counts.update(
            {level: n for level, n in zip(in_column, times, strict=True) if n}
        )
        used = [level if n else None for level, n in zip(in_column, times, strict=True)]
        if kind == "texts" and any(used):
            moments = dates.of_texts(used)
        else:
            moments = None
        temporal = temporal if moments is None else dates.kind_of_moments(moments)
        if moments is not None and temporal is not None and not asked:
            moments = np.append(moments, dates.missing(1, temporal))[codes]
            parts = dates.all_of(temporal).numbers(moments)
    if not asked and temporal is not None and temporal == kind:
        parts = dates.all_of(temporal).numbers(
            in_memory.moments(values, temporal, name, who)
        )
    elif not asked and kind == "numbers":
        parts = in_memory.numbers(values, name, who)[:, None]
    by_levels = asked or (kind in ("texts", "levels") and temporal is None)
    if asked and temporal not in (None, kind):
        # ISO texts in several forms, such as days with and without a time.
        texts = counts
        counts = Counter()
        for text, n in texts.items():
            counts[dates.as_level(text)] += n
    if by_levels:
        levels = _levels(counts)
    else:
        levels = set[Level]()
    # NaN differs from itself.
    there = [part if (known := part == part).all() else part[known] for part in parts.T]
    if by_levels:
        n = counts.total()
    else:
        n = len(there[-1])
    lows = np.array([part.min(initial=np.inf) for part in there])
    highs = np.array([part.max(initial=-np.inf) for part in there])
    if kind == "numbers" and len(there[0]) and np.isinf([lows, highs]).any():
        raise in_memory.infinite(values, name, who)
    texts_of = [str(level) for level in levels]
    decision = _decided(
        temporal or kind, asked, n, len(values), lows, highs, texts_of, type_name
    )
    if isinstance(decision, dates.Parts) and temporal == "dates":
        decision = decision._replace(zone=in_memory.has_zone(values))
    return decision, levels


def _levels(counts: Collection[Any]) -> set[Level]:
    """Texts, or numbers and booleans where all values are."""
    if all(type(value) is str for value in counts):
        return {*counts}
    numeric = not any(isinstance(value, str) for value in counts)
    levels = {*in_memory.as_levels(counts, numeric=numeric)}
    if any(isinstance(level, str) for level in levels):
        levels = {*in_memory.as_levels(counts, numeric=False)}
    return levels
