"""What the columns of a table are,
its rows as numbers and codes; dates, times and durations.
"""

import datetime
import io
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.csv
import pytest

from fastmlp import TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import Schema, Values
from fastmlp.tabular.dates import DATE_PARTS, Parts, all_of, of_texts
from fastmlp.tabular.in_memory import ROWS_IN_PYTHON

NAN = float("nan")
DAY = datetime.date(2024, 1, 2)
NUMBERS = [1.5, None, -2.0, 4.0]
WHOLE = [3, 1, 2, 2]
TEXTS = ["red", None, "blue", "red"]
FLAGS = [True, False, True, True]
COLUMNS = {"size": NUMBERS, "color": TEXTS, "rooms": WHOLE, "new": FLAGS}
CODES = [[1, 1], [-1, 0], [0, 1], [1, 1]]


def rows() -> list[list[Any]]:
    return [list(row) for row in zip(*COLUMNS.values(), strict=True)]


def pandas_frame(**kinds: Any) -> Any:
    return pandas.DataFrame(COLUMNS).astype(kinds)


TABLES: dict[str, Any] = {
    "pandas": pandas_frame(),
    "pandas, objects": pandas_frame(
        size=object, color=object, rooms=object, new=object
    ),
    "pandas, nullable": pandas_frame(
        size="Float64", color="string", rooms="Int64", new="boolean"
    ),
    "pandas, category": pandas_frame(color="category"),
    "pandas of pyarrow": pyarrow.table(COLUMNS).to_pandas(
        types_mapper=pandas.ArrowDtype
    ),
    "polars": polars.DataFrame(COLUMNS),
    "polars, categorical": polars.DataFrame(COLUMNS).with_columns(
        polars.col("color").cast(polars.Categorical)
    ),
    "arrow": pyarrow.table(COLUMNS),
    "arrow, dictionary": pyarrow.table(
        {**COLUMNS, "color": pyarrow.array(TEXTS).dictionary_encode()}
    ),
    "arrow, decimals": pyarrow.table(
        {**COLUMNS, "size": [None if x is None else Decimal(x) for x in NUMBERS]}
    ),
    "list": rows(),
    "array of objects": np.array(rows(), dtype=object),
}
if hasattr(pyarrow, "string_view"):  # from pyarrow 16 on
    views = pyarrow.array(TEXTS, pyarrow.string_view())
    TABLES["arrow, views"] = pyarrow.table({**COLUMNS, "color": views})


JOINS: dict[str, Any] = {
    "pandas": pandas.concat,
    "polars": polars.concat,
    "pyarrow": pyarrow.concat_tables,
}
UNNAMED = ("list", "array of objects")


def table_of(kind: str, repeated: int) -> Any:
    """A table of the four rows, which stand in it that often."""
    table = TABLES[kind]
    if repeated == 1:
        return table
    library = type(table).__module__.split(".")[0]
    return JOINS.get(library, np.concatenate)([table] * repeated)


each_length = pytest.mark.parametrize("repeated", [1, 30], ids=["short", "long"])


@each_length
@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_has_its_columns(kind: str, repeated: int) -> None:
    schema = Schema.learn(table_of(kind, repeated))
    names = tuple(COLUMNS)
    if kind in UNNAMED:
        names = ("x0", "x1", "x2", "x3")
    assert schema.columns == names
    assert schema.named == (kind not in UNNAMED)
    assert schema.numeric_names == names[::2]
    assert schema.categorical_names == names[1::2]
    assert schema.levels == {names[1]: ("blue", "red"), names[3]: (False, True)}
    assert schema.dropped == {}


@each_length
@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_is_read(kind: str, repeated: int) -> None:
    table = table_of(kind, repeated)
    values = Schema.learn(table).read(table)
    expected = np.tile([[1.5, 3], [NAN, 1], [-2, 2], [4, 2]], (repeated, 1))
    np.testing.assert_array_equal(values.numbers, expected)
    np.testing.assert_array_equal(values.codes, np.tile(CODES, (repeated, 1)))
    assert values.numbers.dtype == np.float64
    assert values.codes.dtype == np.int32


@each_length
@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind not in UNNAMED])
def test_a_column_that_is_not_read_may_be_missing(kind: str, repeated: int) -> None:
    schema = Schema.learn(pandas_frame().assign(one=1))
    codes = schema.read(table_of(kind, repeated)).codes
    np.testing.assert_array_equal(codes, np.tile(CODES, (repeated, 1)))


def test_numbers_of_an_array_are_numeric() -> None:
    X = np.array([[1, 0], [2, 1], [3, 0]], np.int8)
    schema = Schema.learn(X)
    assert schema.numeric_names == ("x0", "x1")
    values = schema.read(X[:, ::-1])
    np.testing.assert_array_equal(values.numbers, X[:, ::-1])
    assert values.codes.shape == (3, 0)
    assert schema.read([[1.0, 2.0]]).numbers.tolist() == [[1, 2]]


UNKNOWN = {"size": [None], "color": ["green"], "rooms": [None], "new": [None]}


@pytest.mark.parametrize("make", [pandas.DataFrame, polars.DataFrame, pyarrow.table])
def test_unknown_levels_are_missing(make: Any) -> None:
    values = Schema.learn(pandas_frame()).read(make(UNKNOWN))
    np.testing.assert_array_equal(values.numbers, [[NAN, NAN]])
    assert values.codes.tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    "missing", [None, NAN, pandas.NA, pandas.NaT, np.float32("nan")]
)
def test_every_missing_value(missing: Any) -> None:
    frame = pandas.DataFrame(
        {"a": [1, missing, 2], "b": ["u", missing, "v"], "c": [True, missing, False]},
        dtype=object,
    )
    schema = Schema.learn(frame)
    assert schema.levels == {"b": ("u", "v"), "c": (False, True)}
    values = schema.read(frame)
    np.testing.assert_array_equal(values.numbers, [[1], [NAN], [2]])
    assert values.codes.tolist() == [[0, 1], [-1, -1], [1, 0]]


def test_columns_are_found_by_name() -> None:
    schema = Schema.learn(pandas_frame())
    other = pandas_frame()[["new", "rooms", "color", "size"]]
    other["date"] = pandas.Timestamp(0)
    expected = schema.read(pandas_frame())
    assert_equal(schema.read(other), expected)
    assert_equal(schema.read(polars.from_pandas(other)), expected)


def test_no_rows_have_no_values() -> None:
    values = Schema.learn(pandas_frame()).read(pandas_frame()[:0])
    assert values.numbers.shape == (0, 2)
    assert values.codes.shape == (0, 2)


@pytest.mark.parametrize("seed", range(6))
def test_names_that_are_no_texts_are_found_too(seed: int) -> None:
    """Integers, the tuples of a MultiIndex and others,
    in any order; those of pandas, 0 to n.
    """
    g = np.random.default_rng(seed)
    n = 5
    kinds: list[Any] = [
        pandas.RangeIndex(n),
        pandas.MultiIndex.from_product([["a", "b"], [1, 2, 3]])[:n],
        pandas.Index(g.permutation(9)[:n]),
        pandas.Index([1.5, "a", 3, ("a", 1), None], dtype=object),
    ]
    columns = kinds[seed % len(kinds)]
    frame = pandas.DataFrame(g.normal(size=(8, n)), columns=columns)
    frame = frame.iloc[:, g.permutation(n)]
    frame.isetitem(0, [*"uvuvuvuv"])
    schema = Schema.learn(frame)
    expected = schema.read(frame)
    order = g.permutation(n)
    assert_equal(schema.read(frame.iloc[:, order]), expected)
    # Arrays have no names, and a frame that pandas has numbered has none beside other
    # names.
    assert_equal(schema.read(frame.to_numpy(object)), expected)
    plain = frame.to_numpy(object)
    rows = [dict(zip(frame.columns, row, strict=True)) for row in plain]
    backwards = [dict(reversed(row.items())) for row in rows]
    assert_equal(Schema.learn(rows).read(backwards), expected)
    words = r"me: (there is no column|X must have 5 columns)"
    with pytest.raises(ValueError, match=words):
        schema.read(frame.iloc[:, 1:], "me")


def test_numbered_columns_beside_names_go_by_place() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    schema = Schema.learn(pandas.DataFrame(rows, columns=[*"abc"]))
    numbered = pandas.DataFrame(rows)
    assert_equal(schema.read(numbered), schema.read(rows))
    of_places = Schema.learn(numbered)
    assert not of_places.named
    assert_equal(of_places.read(numbered[[2, 0, 1]]), of_places.read(rows))
    reversed_ = Schema.learn(numbered[[2, 1, 0]])
    assert_equal(reversed_.read(numbered), reversed_.read(numbered[[1, 0, 2]]))


def assert_equal(one: Values, other: Values) -> None:
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_array_equal(one.codes, other.codes)


IDS = [f"id {i}" for i in range(60)]
ARE_IDS = "has 60 texts in 60 rows, free text or ids"
ONE = "has one value only"
UNREAD = "neither numbers, dates nor texts"
# Columns of 60 rows of which nothing is learned, and why.
DROPPED: dict[str, tuple[Any, str]] = {
    "constant": (7, ONE),
    "constant text": ("a", ONE),
    "empty": (NAN, "is empty"),
    "empty text": (pandas.Series([None] * 60, dtype="string"), "is empty"),
    "null": ([None] * 60, "is empty"),
    "id": (IDS, ARE_IDS),
    "ids of numbers": (
        [f"{i}.5" for i in range(60)],
        f"{ARE_IDS}; all are numbers: make floats of them",
    ),
    "ids of most numbers": ([*(f"{i}.5" for i in range(1, 60)), "x"], ARE_IDS),
    "comma": (
        [f"{i},5" for i in range(60)],
        "holds numbers with a decimal comma: write them with a point",
    ),
    "list": ([[1]] * 60, f"holds list, {UNREAD}"),
    "mixed": ([DAY, "a"] * 30, f"holds date and str, {UNREAD}"),
    "bytes": ([b"a", None] * 30, f"holds bytes, {UNREAD}"),
    "id as levels": (pandas.Series(IDS, dtype="category"), ARE_IDS),
    "months": (
        pandas.period_range("2020-01", periods=60, freq="M"),
        f"holds period[M], {UNREAD}: make dates of it by .dt.to_timestamp()",
    ),
    "far": (2**53 + np.arange(60) % 2, f"{ONE} in float64: subtract the least one"),
}


@pytest.mark.parametrize("name", DROPPED)
def test_columns_that_are_dropped(name: str) -> None:
    values, reason = DROPPED[name]
    frame = pandas.DataFrame({name: values, "kept": [0.0, 1.0] * 30})
    schema = Schema.learn(frame)
    assert schema.dropped == {name: reason}
    assert schema.read_names == ("kept",)


def test_columns_of_one_value_or_none_are_kept() -> None:
    columns = {"number": [1.0, NAN] * 30, "text": ["a", None] * 30}
    schema = Schema.learn(pandas.DataFrame(columns))
    assert schema.dropped == {}
    assert schema.numeric_names == ("number",)
    assert schema.categorical_names == ("text",)


def test_levels_that_stand_twice_are_kept() -> None:
    levels = pandas.Series(IDS[:30] * 2, dtype="category")
    assert Schema.learn(pandas.DataFrame({"levels": levels})).dropped == {}


def test_ids_that_are_asked_to_be_categories_are_kept() -> None:
    schema = Schema.learn(pandas.DataFrame({"id": IDS}), ["id"])
    assert schema.levels["id"] == tuple(sorted(IDS))


@pytest.mark.parametrize(
    "kind", [polars.Categorical, polars.Enum(IDS)], ids=["levels", "enum"]
)
def test_ids_of_polars_are_dropped(kind: Any) -> None:
    frame = polars.DataFrame({"id": IDS, "x": range(60)}, schema_overrides={"id": kind})
    assert Schema.learn(frame).dropped == {"id": ARE_IDS}


@pytest.mark.parametrize(
    "asked",
    [
        ["rooms"],
        [2],
        [-2],
        [False, False, True, False],
        np.array([2]),
        ("rooms", "color"),
    ],
)
@pytest.mark.parametrize("kind", ["pandas", "pandas, objects", "polars", "arrow"])
def test_numbers_that_are_asked_to_be_categories(asked: Any, kind: str) -> None:
    schema = Schema.learn(TABLES[kind], asked)
    assert schema.levels["rooms"] == (1, 2, 3)
    assert schema.categorical_names == ("color", "rooms", "new")
    # Also where whole numbers are floats, as beside a missing value.
    other = pandas.DataFrame({**COLUMNS, "rooms": [2.0, NAN, 7.0, 1.0]})
    assert schema.read(other).codes[:, 1].tolist() == [1, -1, -1, 0]


def test_many_levels_have_their_codes() -> None:
    texts = [f"level {i:05}" for i in range(10_000)]
    frame = pandas.DataFrame({"many": texts * 2, "n": range(20_000)})
    schema = Schema.learn(frame)
    np.testing.assert_array_equal(schema.read(frame).codes[:, 0], [*range(10_000)] * 2)


def test_many_columns_are_read() -> None:
    names = [f"c{j}" for j in range(2000)]
    wide = pandas.DataFrame(np.arange(4000.0).reshape(2, 2000), columns=names)
    values = Schema.learn(wide.assign(text=["a", "b"])).read(wide.assign(text="b"))
    np.testing.assert_array_equal(values.numbers, wide)
    assert values.codes.tolist() == [[1], [1]]


@pytest.mark.parametrize("dated", [False, True])
def test_it_is_plain_data(dated: bool) -> None:
    frame = pandas_frame().assign(constant=1)
    dates = ""
    if dated:
        frame["day"] = ["2024-01-02", None, "2024-03-01", None]
        dates = ", 1 date"
    schema = Schema.learn(frame, ["rooms"])
    content = json.loads(json.dumps(schema.to_json()))
    back = Schema.from_json(content)
    assert back == schema
    assert back.dates == schema.dates
    assert_equal(back.read(frame), schema.read(frame))
    assert repr(back) == f"<Schema: 1 numeric, 3 categorical{dates}, 1 dropped>"
    assert len(content["dates"]) == dated


TIME = {"parts": ["time"], "origin": None, "zone": None}


def from_days(**wrong: Any) -> dict[str, Any]:
    """The content of a date that counts days, which is wrong in one thing."""
    day = {**TIME, "parts": ["days"], "origin": "2024-01-01", **wrong}
    return {"dates": {"a": day}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": ["a", "a"]},
        {"columns": [1, 2]},
        {"levels": {"c": ["u"]}},
        {"levels": {"b": ["u", "u"]}},
        {"levels": {"b": ["u", 1]}},
        {"levels": {"b": []}},
        {"levels": {"b": [None]}},
        {"dropped": {"b": "why"}},
        {"dropped": {"a": 1}},
        {"named": 1},
        {"dates": {"b": TIME}},
        {"dates": {"c": TIME}},
        {"dates": [TIME]},
        {"dates": {"a": TIME}, "dropped": {"a": "why"}},
        {"dates": {"a": ["time"]}},
        {"dates": {"a": {"parts": ["time"]}}},
        {"dates": {"a": TIME | {"parts": []}}},
        {"dates": {"a": TIME | {"parts": 5}}},
        {"dates": {"a": TIME | {"parts": ["day", "time"]}}},
        {"dates": {"a": TIME | {"origin": "2024-01-01"}}},
        from_days(origin=None),
        from_days(origin="2024-13-01"),
        from_days(origin=5),
        from_days(parts=["days", "year"]),
        from_days(parts=["era", "days"]),
        from_days(zone="UTC"),
    ],
)
def test_plain_data_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError)):
        Schema.from_json({**CONTENT, **wrong})


CONTENT: dict[str, Any] = {
    "columns": ["a", "b"],
    "levels": {"b": ["u", "v"]},
    "dropped": {},
    "named": True,
    "dates": {},
}


@pytest.mark.parametrize("dates", [{}, {"a": TIME}, from_days()["dates"]])
def test_plain_data_is_taken(dates: dict[str, Any]) -> None:
    schema = Schema.from_json({**CONTENT, "dates": dates})
    assert schema.read_names == ("a", "b")
    assert schema.categorical_names == ("b",)


@pytest.mark.parametrize("seed", range(6))
def test_few_rows_of_a_frame_are_read_as_in_many(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = 2 * ROWS_IN_PYTHON
    whole = random.integers(0, 5, n)
    gaps = np.where(whole, whole, np.array(None))
    flags = np.where(whole, whole > 2, np.array(None))
    texts = np.array([*TEXTS, *"abcdefgh"], object)[random.integers(0, 12, n)]
    spells = whole * np.timedelta64(10**13 + 1, "ns")
    columns = {
        "double": random.normal(size=n),
        "single": random.normal(size=n).astype(np.float32),
        "byte": whole.astype(np.int8),
        "large": whole.astype(np.uint64) + 2**60 + 1,
        "nullable": pandas.array(gaps, "Int64"),
        "objects": gaps,
        "decimals": [Decimal(int(number)) / 2 for number in whole],
        "flag": whole > 2,
        "flags": pandas.array(flags, "boolean"),
        "text": texts,
        "string": pandas.array(texts, "string"),
        "category": pandas.Categorical(texts),
        "code": pandas.Categorical(whole),
        "day": np.datetime64("2024-01-01", "ns") + spells,
        "spell": whole * np.timedelta64(1, "s"),
    }
    names = random.permutation([*columns])[:10].tolist()
    frame = pandas.DataFrame({name: columns[name] for name in names})
    asked = random.choice(names, 3, replace=False)
    schema = Schema.learn(frame[random.random(n) < 0.3], asked)
    first = int(random.integers(n - ROWS_IN_PYTHON))
    for n_rows in (1, 3, ROWS_IN_PYTHON):
        rows = slice(first, first + n_rows)
        expected = schema.read(frame).part(rows)
        few = schema.read(frame[rows])
        np.testing.assert_array_equal(few.numbers, expected.numbers)
        np.testing.assert_array_equal(few.codes, expected.codes)


def test_numbers_stand_for_texts() -> None:
    schema = Schema.learn(pandas.DataFrame({"zip": ["8000", "9000", "8000"]}))
    codes = schema.read(pandas.DataFrame({"zip": [9000.0, 8000, 1]})).codes
    assert codes[:, 0].tolist() == [1, 0, -1]


compiled = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
ZONE = "Europe/Zurich"
UNITS = ("s", "ms", "us", "ns")


def drawn(seed: int, unit: str = "us", n: int = 80) -> pandas.DataFrame:
    """Columns of all kinds that a file of CSV has too, in a drawn order, with holes."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(-86_400 * 400, 86_400 * 90, n)
    moment = pandas.Series(np.datetime64("2024-02-28T00:00", "s") + seconds)
    moment = moment.astype(f"M8[{unit}]")
    if unit != "s":
        moment += pandas.to_timedelta(rng.integers(0, 1000, n), unit="ms")
    frame = pandas.DataFrame(
        {
            "number": rng.normal(size=n),
            "whole": rng.integers(0, 9, n),
            "flag": rng.random(n) < 0.5,
            "word": rng.choice(["red", "green", "blue"], n),
            "moment": moment,
            "day": moment.dt.floor("D"),
            # In October an hour there is twice.
            "zoned": moment.dt.tz_localize("UTC").dt.tz_convert(ZONE),
            "clock": moment.dt.floor("s").dt.time,
        }
    )
    for name in ("number", "word", "moment", "day", "zoned", "clock"):
        frame.loc[rng.random(n) < 0.1, name] = None
    return frame[rng.permutation(frame.columns)]


def forms(frame: pandas.DataFrame) -> dict[str, Any]:
    table = pyarrow.Table.from_pandas(frame)
    text = frame.to_csv(index=False)
    nulls = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    return {
        "objects": frame.astype(object),
        "arrow": table,
        "polars": polars.from_arrow(table),
        "pandas of Arrow": table.to_pandas(types_mapper=pandas.ArrowDtype),
        "CSV by pyarrow": pyarrow.csv.read_csv(
            io.BytesIO(text.encode()), convert_options=nulls
        ),
        "CSV by pandas": pandas.read_csv(io.StringIO(text)),
        "array": frame.astype(object).to_numpy(),
    }


@pytest.mark.parametrize("unit", UNITS)
def test_one_table_in_every_form_gives_the_same_numbers(unit: str) -> None:
    frame = drawn(UNITS.index(unit), unit)
    schema = Schema.learn(frame)
    assert {*schema.dates} == {"moment", "day", "zoned", "clock"}
    assert {*schema.categorical_names} == {"flag", "word"}
    assert not schema.dropped
    expected = schema.read(frame)
    for form, X in forms(frame).items():
        content = Schema.learn(X)
        assert content == schema or form == "array"
        assert list(content.dates.values()) == list(schema.dates.values())
        for values in (content.read(X), schema.read(X)):
            np.testing.assert_array_equal(values.numbers, expected.numbers, form)
            np.testing.assert_array_equal(values.codes, expected.codes, form)
    one = schema.read(frame[:1])
    np.testing.assert_array_equal(one.numbers, expected.numbers[:1])


@pytest.mark.parametrize("unit", UNITS)
def test_parts_are_those_of_pandas(unit: str) -> None:
    days = np.random.default_rng(0).integers(-(10**9) * 4, 10**9 * 4, 300)
    moments = pandas.Series(days.astype("M8[s]").astype(f"M8[{unit}]"))
    moments[7] = pandas.NaT
    schema = Schema.learn(pandas.DataFrame({"when": moments}))
    parts = schema.dates["when"]
    first = moments.min().floor("D")
    assert parts == Parts(DATE_PARTS["dates"], str(first.date()), zone=False)
    assert schema.number_names == ("when",) * 6
    values = moments.dt
    peers = [values.year, values.month, values.day, values.day_of_week, values.hour]
    since = (moments - first) / pandas.Timedelta(days=1)
    expected = np.column_stack([*peers, since]).astype(float)
    result = schema.read(pandas.DataFrame({"when": moments})).numbers
    np.testing.assert_array_equal(result[:, :5], expected[:, :5])
    np.testing.assert_allclose(result[:, 5], expected[:, 5], rtol=1e-15)
    assert np.isnan(result[7]).all()


def test_parts_that_do_not_vary_are_left_out() -> None:
    def parts(*texts: Any) -> Any:
        schema = Schema.learn(pandas.DataFrame({"a": [1.0, 2.0, 3.0], "when": texts}))
        return schema.dates.get("when", schema.dropped.get("when"))

    daily = ("day", "weekday", "days")
    assert parts("2024-03-01", "2024-03-02", "2024-03-02").names == daily
    weekly = Parts(("day", "days"), "2024-03-01", zone=False)
    assert parts("2024-03-08", "2024-03-01", None) == weekly
    assert parts("2024-03-01T10:00", "2024-03-01T10:30", None).names == ("days",)
    # As a number, or nothing: a mark tells which.
    assert parts("2024-03-01", None, None) == Parts(("days",), "2024-03-01", zone=False)
    assert parts(*["2024-03-01"] * 3) == "has one value only"
    assert parts(None, None, None) == "is empty"


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024-03-01", "2024-03-01T00:00"),
        ("2024-03-01 10", "2024-03-01T10:00"),
        ("2024-03-01T10:30", "2024-03-01T10:30"),
        ("2024-03-01 10:30:05.1234567", "2024-03-01T10:30:05.123456"),
        ("2024-03-01T10:30Z", "2024-03-01T10:30"),
        ("2024-03-01 00:30+02", "2024-02-29T22:30"),
        ("2024-03-01T00:30:00+0530", "2024-02-29T19:00"),
        ("2024-03-01T00:30-03:30", "2024-03-01T04:00"),
        ("2024-03-01+01:00", "2024-02-29T23:00"),
        (" 2024-03-01 ", "2024-03-01T00:00"),
        ("2024-02-30", None),
        ("2024-3-1", None),
        ("20240301", None),
        ("2024-03-01-07", None),
        ("2024-03-01 24:00", None),
        ("2024-03-01 10:30+24:00", None),
        ("01.03.2024", None),
        ("२०२४-03-01", None),
    ],
)
def test_texts_that_are_dates(text: str, utc: str | None) -> None:
    result = of_texts(["", text, None])
    if utc is None:
        assert result is None
        return
    assert result is not None
    assert np.isnat(result).tolist() == [True, False, True]
    assert result[1] == np.datetime64(utc)
    # pyarrow takes them for the same date, or for a text.
    file = io.BytesIO(f"a,b\n{text},1\n".encode())
    values = pyarrow.csv.read_csv(file).column(0)
    if not pyarrow.types.is_string(values.type):
        parts = all_of("dates")
        expected = parts.numbers(values.to_numpy())
        np.testing.assert_array_equal(parts.numbers(result[1:2]), expected)


@pytest.mark.parametrize("wrong", ["soon", "2024-02-30", 5])
def test_texts_some_of_which_are_dates_are_levels(wrong: Any) -> None:
    values = ["2024-03-01", "2024-03-02", wrong] * 2
    frame = pandas.DataFrame({"when": values}, dtype=object)
    assert len(Schema.learn(frame).levels["when"]) == 3


def test_texts_some_of_which_are_times_are_levels() -> None:
    assert Schema.learn(pandas.DataFrame({"at": ["10:30", "24:30"] * 2})).levels


def test_objects_of_several_types_are_dates() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-3))
    mixed = [
        datetime.date(2024, 3, 2),
        datetime.datetime(2024, 3, 1, 22, tzinfo=zone),
        np.datetime64("2024-03-03", "ns"),
        None,
        pandas.NaT,
    ]
    frame = pandas.DataFrame({"when": pandas.Series(mixed, dtype=object)})
    schema = Schema.learn(frame)
    assert schema.dates["when"].origin == "2024-03-02"
    expected = [0, 1 / 24, 1, NAN, NAN]
    np.testing.assert_array_equal(schema.read(frame).numbers[:, -1], expected)


@pytest.mark.parametrize("unit", UNITS)
def test_durations_are_seconds(unit: str) -> None:
    # 64 bits hold 10**8 days in microseconds, 10**5 in nanoseconds.
    days = {"us": 10**8, "ns": 10**5}.get(unit, 10**9)
    spans = np.array([-90_000_001, 5, days * 86_400], "m8[s]").astype(f"m8[{unit}]")
    frame = pandas.DataFrame({"span": spans})
    schema = Schema.learn(frame)
    assert schema.dates == {"span": Parts(("duration",))}
    expected = frame[["span"]].apply(lambda column: column.dt.total_seconds())
    table = pyarrow.Table.from_pandas(frame)
    for X in (frame, table, polars.from_arrow(table)):
        np.testing.assert_allclose(schema.read(X).numbers, expected, rtol=1e-9)


def test_times_are_seconds() -> None:
    clock = [datetime.time(23, 59, 59, 500_000), None, datetime.time(0)]
    frame = pandas.DataFrame({"at": clock})
    schema = Schema.learn(frame)
    assert schema.dates == {"at": Parts(("time",))}
    table = pyarrow.Table.from_pandas(frame)
    for X in (frame, table, polars.from_arrow(table), frame.astype({"at": object})):
        numbers = schema.read(X).numbers
        np.testing.assert_array_equal(numbers, [[86_399.5], [NAN], [0]])


def test_durations_of_nanoseconds_are_seconds() -> None:
    tiny = pandas.DataFrame({"span": np.array([350, 700], "m8[ns]")})
    assert Schema.learn(tiny).read(tiny).numbers[:, 0].tolist() == [3.5e-7, 7e-7]


DATED = Schema.learn(pandas.DataFrame({"when": ["2024-03-01", "2024-03-05"] * 40}))
NOON = np.array(["2024-03-04T12", "NaT"], "M8[ns]")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "values",
    [
        NOON,
        pandas.Series(NOON).dt.tz_localize("UTC"),
        ["2024-03-04 12:00Z", None],
        [NOON[0], None],
    ],
    ids=["datetime64", "zoned", "texts", "objects"],
)
def test_dates_of_other_types_are_read(values: Any) -> None:
    result = DATED.read(pandas.DataFrame({"when": values})).numbers
    np.testing.assert_array_equal(result[:, [0, 2]], [[4, 3.5], [NAN, NAN]])


@pytest.mark.parametrize(
    "values",
    [[None, None], [NAN, NAN], ["", ""], pandas.array([None] * 2, "string")],
    ids=["None", "NaN", "empty texts", "strings"],
)
def test_dates_may_be_missing(values: Any) -> None:
    numbers = DATED.read(pandas.DataFrame({"when": values})).numbers
    assert np.isnan(numbers).all()


def test_dates_may_be_nulls_of_arrow() -> None:
    numbers = DATED.read(pyarrow.table({"when": pyarrow.nulls(2)})).numbers
    assert np.isnan(numbers).all()


def test_no_dates_have_no_numbers() -> None:
    numbers = DATED.read(pandas.DataFrame({"when": NOON[:0]})).numbers
    assert numbers.shape == (0, 3)


@pytest.mark.parametrize("zoned", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_zones_that_training_had_not_are_warned_of(seed: int, zoned: bool) -> None:
    """From every form of a table to every other one, and from a file."""
    frame = drawn(seed)
    other = frame.assign(zoned=frame["zoned"].dt.tz_localize(None))
    zones = {"zoned"}
    words = "^me: the dates of 'zoned' had a zone in training, and have none"
    if not zoned:
        frame, other = other, frame
        zones = set()
        words = "^me: the dates of 'zoned' had no zone .* have one"
    # All but the array, whose columns have no names.
    known = list(forms(frame).values())[:-1]
    schema = Schema.from_json(Schema.learn(known[seed]).to_json())
    assert {name for name, parts in schema.dates.items() if parts.zone} == zones
    for rows in known:
        schema.read(rows)
    for rows in list(forms(other).values())[:-1]:
        with pytest.warns(UserWarning, match=words):
            schema.read(rows, "me")


def test_dates_that_are_asked_to_be_categories() -> None:
    frame = drawn(5, n=90)
    # Of a few days, and of hours in them.
    first = pandas.Timestamp("2024-03-01")
    frame["day"] = first + pandas.to_timedelta(np.arange(90) % 3, "D")
    frame["moment"] = first + pandas.to_timedelta(np.arange(90) % 4, "h")
    frame["clock"] = frame["moment"].dt.time
    frame["zoned"] = frame["moment"].dt.tz_localize(ZONE)
    asked = ["day", "moment", "clock", "zoned"]
    schema = Schema.learn(frame, asked)
    assert not schema.dates
    assert schema.levels["day"] == ("2024-03-01", "2024-03-02", "2024-03-03")
    hours = [f"2024-03-01T0{h}:00:00" for h in range(1, 4)]
    assert schema.levels["moment"] == ("2024-03-01", *hours)
    assert schema.levels["clock"] == tuple(f"0{h}:00:00" for h in range(4))
    assert schema.levels["zoned"][0] == "2024-02-29T23:00:00"
    expected = schema.read(frame).codes
    places = [schema.categorical_names.index(name) for name in asked]
    assert (expected[:, places] >= 0).all()
    for form, X in forms(frame).items():
        if form != "array":
            assert Schema.learn(X, asked) == schema, form
            np.testing.assert_array_equal(schema.read(X).codes, expected, form)


@pytest.mark.slow
@compiled
def test_models_learn_from_dates_in_every_form() -> None:
    frame = drawn(6, n=200)
    rng = np.random.default_rng(0)
    since = frame["moment"] - frame["moment"].min()
    days = since.dt.total_seconds().fillna(0) / 86_400
    y = days / 50 + rng.normal(size=200) / 10
    model = TabularMLPRegressor(n_members=2, max_iter=10, cv=2, random_state=0)
    model.fit(frame, y)
    expected = model.predict(frame)
    for X in list(forms(frame).values())[:-1]:
        np.testing.assert_array_equal(model.predict(X), expected)
    assert "2 numbers, 2 categories, 1 time, 3 dates" in model.summary()
    # One importance for a column, whose parts are shuffled as one.
    assert model.feature_importances_.shape == (len(frame.columns),)
    best = model.schema_.columns[model.feature_importances_.argmax()]
    assert best in ("moment", "day", "zoned")
