"""What the columns of a table are, and its rows as numbers and codes."""

import datetime
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from fastmlp.tabular import Schema, Values
from fastmlp.tabular.in_memory import FEW_ROWS

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
    "pandas, objects": pandas_frame(size=object, color=object, rooms=object, new=object),
    "pandas, nullable": pandas_frame(size="Float64", color="string", rooms="Int64", new="boolean"),
    "pandas, category": pandas_frame(color="category"),
    "pandas of pyarrow": pyarrow.table(COLUMNS).to_pandas(types_mapper=pandas.ArrowDtype),
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


@pytest.mark.parametrize("repeated", [1, 30], ids=["short", "long"])
@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table(kind: str, repeated: int) -> None:
    table = TABLES[kind]
    if repeated > 1:
        join = {"pandas": pandas.concat, "polars": polars.concat, "pyarrow": pyarrow.concat_tables}
        library = type(table).__module__.split(".")[0]
        table = join.get(library, np.concatenate)([table] * repeated)
    schema = Schema.learn(table)
    names = tuple(COLUMNS) if schema.named else ("x0", "x1", "x2", "x3")
    assert schema.columns == names
    assert schema.named == (kind not in ("list", "array of objects"))
    assert (schema.numeric_names, schema.categorical_names) == (names[::2], names[1::2])
    assert schema.levels == {names[1]: ("blue", "red"), names[3]: (False, True)}
    assert schema.dropped == {}
    values = schema.read(table)
    np.testing.assert_array_equal(
        values.numbers, np.tile([[1.5, 3], [NAN, 1], [-2, 2], [4, 2]], (repeated, 1))
    )
    np.testing.assert_array_equal(values.codes, np.tile(CODES, (repeated, 1)))
    assert values.numbers.dtype == np.float64
    assert values.codes.dtype == np.int32


@pytest.mark.parametrize("other", TABLES)
def test_what_one_table_taught_reads_another(other: str) -> None:
    schema = Schema.learn(TABLES["pandas"])
    np.testing.assert_array_equal(schema.read(TABLES[other]).codes, CODES)


def test_numbers_of_an_array_are_numeric() -> None:
    X = np.array([[1, 0], [2, 1], [3, 0]], np.int8)
    schema = Schema.learn(X)
    assert schema.numeric_names == ("x0", "x1")
    values = schema.read(X[:, ::-1])
    np.testing.assert_array_equal(values.numbers, X[:, ::-1])
    assert values.codes.shape == (3, 0)
    assert schema.read([[1.0, 2.0]]).numbers.tolist() == [[1, 2]]


@pytest.mark.parametrize("missing", [None, NAN, pandas.NA, pandas.NaT, np.float32("nan")])
def test_every_missing_value(missing: Any) -> None:
    frame = pandas.DataFrame(
        {"a": [1, missing, 2], "b": ["u", missing, "v"], "c": [True, missing, False]}, dtype=object
    )
    schema = Schema.learn(frame)
    assert schema.levels == {"b": ("u", "v"), "c": (False, True)}
    values = schema.read(frame)
    np.testing.assert_array_equal(values.numbers, [[1], [NAN], [2]])
    assert values.codes.tolist() == [[0, 1], [-1, -1], [1, 0]]


def test_unknown_levels_and_columns_without_a_value() -> None:
    schema = Schema.learn(pandas_frame())
    unknown = {"size": [None], "color": ["green"], "rooms": [None], "new": [None]}
    for X in (pandas.DataFrame(unknown), polars.DataFrame(unknown), pyarrow.table(unknown)):
        values = schema.read(X)
        np.testing.assert_array_equal(values.numbers, [[NAN, NAN]])
        assert values.codes.tolist() == [[-1, -1]]


def test_columns_are_found_by_name() -> None:
    schema = Schema.learn(pandas_frame())
    other = pandas_frame()[["new", "rooms", "color", "size"]].assign(date=pandas.Timestamp(0))
    assert_equal(schema.read(other), schema.read(pandas_frame()))
    assert_equal(schema.read(polars.from_pandas(other)), schema.read(pandas_frame()))


@pytest.mark.parametrize("seed", range(6))
def test_names_that_are_no_texts_are_found_too(seed: int) -> None:
    """Integers, the tuples of a MultiIndex and others, in any order; those of pandas, 0 to n."""
    g, n = np.random.default_rng(seed), 5
    kinds: list[Any] = [
        pandas.RangeIndex(n),
        pandas.MultiIndex.from_product([["a", "b"], [1, 2, 3]])[:n],
        pandas.Index(g.permutation(9)[:n]),
        pandas.Index([1.5, "a", 3, ("a", 1), None], dtype=object),
    ]
    columns = kinds[seed % len(kinds)]
    frame = pandas.DataFrame(g.normal(size=(8, n)), columns=columns).iloc[:, g.permutation(n)]
    frame.isetitem(0, [*"uvuvuvuv"])
    schema = Schema.learn(frame)
    expected, order = schema.read(frame), g.permutation(n)
    assert_equal(schema.read(frame.iloc[:, order]), expected)
    # Arrays have no names, and a frame that pandas has numbered has none beside other names.
    assert_equal(schema.read(frame.to_numpy(object)), expected)
    rows = [dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy(object)]
    assert_equal(Schema.learn(rows).read([dict(reversed(row.items())) for row in rows]), expected)
    with pytest.raises(ValueError, match=r"me: (there is no column|X must have 5 columns)"):
        schema.read(frame.iloc[:, 1:], "me")
    with pytest.raises(ValueError, match=r"X has several columns of the name '1' \(2 times\)"):
        Schema.learn(pandas.DataFrame([[1, 2]], columns=[1, "1"]))


def test_numbered_columns_beside_names_go_by_place() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    schema, numbered = (
        Schema.learn(pandas.DataFrame(rows, columns=[*"abc"])),
        pandas.DataFrame(rows),
    )
    assert_equal(schema.read(numbered), schema.read(rows))
    of_places = Schema.learn(numbered)
    assert not of_places.named
    assert_equal(of_places.read(numbered[[2, 0, 1]]), of_places.read(rows))
    reversed_ = Schema.learn(numbered[[2, 1, 0]])
    assert_equal(reversed_.read(numbered), reversed_.read(numbered[[1, 0, 2]]))


def assert_equal(one: Values, other: Values) -> None:
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_array_equal(one.codes, other.codes)


def test_columns_that_are_missing_are_listed() -> None:
    schema = Schema.learn(pandas_frame().assign(constant=1))
    message = r"me: 2 columns are missing: 'rooms', did you mean 'room'\?, 'new'; known"
    with pytest.raises(ValueError, match=message):
        schema.read(pandas.DataFrame({"size": [1], "color": ["red"], "room": [1]}), "me")
    # One that is not read may be missing.
    assert len(schema.read(pandas_frame()).codes) == 4
    with pytest.raises(ValueError, match="me: X must have 5 columns, as in training, got 2"):
        schema.read(np.zeros((1, 2)), "me")


def test_columns_that_are_dropped() -> None:
    n = 60
    frame = pandas.DataFrame(
        {
            "kept": [0.0, 1.0] * 30,
            "constant": 7,
            "constant text": "a",
            "empty": NAN,
            "empty text": pandas.Series([None] * n, dtype="string"),
            "null": [None] * n,
            "id": [f"id {i}" for i in range(n)],
            "ids of numbers": [f"{i}.5" for i in range(n)],
            "ids of most numbers": [*(f"{i}.5" for i in range(1, n)), "x"],
            "comma": [f"{i},5" for i in range(n)],
            "one or missing": [1.0, NAN] * 30,
            "a or missing": ["a", None] * 30,
            "list": [[1]] * n,
            "mixed": [DAY, "a"] * 30,
            "bytes": [b"a", None] * 30,
            "id as levels": pandas.Series([f"level {i}" for i in range(n)], dtype="category"),
            "levels": pandas.Series([f"level {i % 30}" for i in range(n)], dtype="category"),
            "months": pandas.period_range("2020-01", periods=n, freq="M"),
            "far": 2**53 + np.arange(n) % 2,
        }
    )
    schema, ids = Schema.learn(frame), "has 60 texts in 60 rows, free text or ids"
    assert schema.dropped == {
        "constant": "has one value only",
        "constant text": "has one value only",
        "empty": "is empty",
        "empty text": "is empty",
        "null": "is empty",
        "id": ids,
        "ids of numbers": f"{ids}; all are numbers: make floats of them",
        "ids of most numbers": ids,
        "comma": "holds numbers with a decimal comma: write them with a point",
        "list": "holds list, neither numbers, dates nor texts",
        "mixed": "holds date and str, neither numbers, dates nor texts",
        "bytes": "holds bytes, neither numbers, dates nor texts",
        "id as levels": ids,
        "months": "holds period[M], neither numbers, dates nor texts: make dates of it by "
        ".dt.to_timestamp()",
        "far": "has one value only in float64: subtract the least one",
    }
    assert schema.numeric_names == ("kept", "one or missing")
    assert schema.categorical_names == ("a or missing", "levels")
    assert Schema.learn(frame, ["id"]).levels["id"] == tuple(sorted(frame["id"]))
    for kind in (polars.Categorical, polars.Enum(frame["id"])):
        other = polars.DataFrame(
            {"id": [*frame["id"]], "x": range(n)}, schema_overrides={"id": kind}
        )
        assert Schema.learn(other).dropped == {"id": ids}


@pytest.mark.parametrize(
    "asked", [["rooms"], [2], [-2], [False, False, True, False], np.array([2]), ("rooms", "color")]
)
@pytest.mark.parametrize("kind", ["pandas", "pandas, objects", "polars", "arrow"])
def test_numbers_that_are_asked_to_be_categories(asked: Any, kind: str) -> None:
    schema = Schema.learn(TABLES[kind], asked)
    assert schema.levels["rooms"] == (1, 2, 3)
    assert schema.categorical_names == ("color", "rooms", "new")
    # Also where whole numbers are floats, as beside a missing value.
    other = pandas.DataFrame({**COLUMNS, "rooms": [2.0, NAN, 7.0, 1.0]})
    assert schema.read(other).codes[:, 1].tolist() == [1, -1, -1, 0]
    with pytest.raises(TypeError, match="'rooms' held numbers in training, not texts"):
        schema.read(other.assign(rooms="2"))


def test_numbers_where_texts_were_are_texts() -> None:
    schema = Schema.learn(pandas.DataFrame({"zip": ["8000", "9000", "8000"]}))
    codes = schema.read(pandas.DataFrame({"zip": [9000.0, 8000, 1]})).codes
    assert codes[:, 0].tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("color", ValueError, r"got 'color'; for one column use \['color'\]"),
        (["colour"], ValueError, "there is no column 'colour', did you mean 'color'"),
        ([4], ValueError, r"must be places of 4 columns, got \[4\]"),
        ([True], ValueError, "has a length of 1 for 4 columns"),
        (1.5, TypeError, "must be 'auto', 'from_dtype', or names, places or a mask"),
        ([1.5], TypeError, "must be 'auto', 'from_dtype', or names, places or a mask"),
    ],
)
def test_columns_that_are_asked_for_must_be_there(asked: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Schema.learn(pandas_frame(), asked)


def test_objects_that_are_asked_for_are_refused_by_name() -> None:
    frame = pandas.DataFrame({"a": [1, 2], "b": [[1], [2]]})
    for X in (frame, pyarrow.Table.from_pandas(frame)):
        assert [*Schema.learn(X).dropped] == ["b"]
        with pytest.raises(
            TypeError, match=r"me: the column 'b' holds objects .*; make numbers or t"
        ):
            Schema.learn(X, ["b"], who="me")
        with pytest.raises(ValueError, match="no column is left to learn from: 'b' holds list"):
            Schema.learn(X[["b"]] if X is frame else X.select(["b"]))


def test_columns_of_one_name_are_refused() -> None:
    frame = pandas_frame()
    twice = pandas.concat([frame, frame[["color"]], frame[["size", "color"]]], axis=1)
    message = (
        r"me: X has several columns of the name 'size' \(2 times\), 'color' \(3 times\); rename"
    )
    arrow = pyarrow.Table.from_arrays([pyarrow.array(frame[n]) for n in twice], [*twice])
    for X in (twice, arrow):
        with pytest.raises(ValueError, match=message):
            Schema.learn(X, who="me")
        with pytest.raises(ValueError, match=message):
            Schema.learn(frame).read(X, "me")


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame, pyarrow.table])
def test_infinite_numbers_are_named(library: Any) -> None:
    fine, wrong = {"a": [1.0, 2.0], "b": [0.0, 1.0]}, {"a": [1.0, 2.0], "b": [0.0, -np.inf]}
    message = "me: the column 'b' is infinite in row 1"
    with pytest.raises(ValueError, match=message):
        Schema.learn(library(wrong), who="me")
    with pytest.raises(ValueError, match=message):
        Schema.learn(library(fine)).read(library(wrong), "me")


@pytest.mark.parametrize("library", [pandas.DataFrame, polars.DataFrame, pyarrow.table])
def test_texts_where_numbers_were_are_named(library: Any) -> None:
    schema = Schema.learn(library({"a": [1.0, 2.0], "b": [0.0, 1.0]}))
    with pytest.raises(TypeError, match="me: the column 'b' must hold numbers, got"):
        schema.read(library({"a": [1.0, 2.0], "b": ["0", "1"]}), "me")


def test_no_rows_are_read_as_none() -> None:
    values = Schema.learn(pandas_frame()).read(pandas_frame()[:0])
    assert (values.numbers.shape, values.codes.shape) == ((0, 2), (0, 2))


def test_many_levels_and_columns() -> None:
    texts = [f"level {i:05}" for i in range(10_000)]
    frame = pandas.DataFrame({"many": texts * 2, "n": range(20_000)})
    schema = Schema.learn(frame)
    np.testing.assert_array_equal(schema.read(frame).codes[:, 0], [*range(10_000)] * 2)
    wide = pandas.DataFrame(np.arange(4000.0).reshape(2, 2000)).rename(columns=lambda j: f"c{j}")
    values = Schema.learn(wide.assign(text=["a", "b"])).read(wide.assign(text="b"))
    np.testing.assert_array_equal(values.numbers, wide)
    assert values.codes.tolist() == [[1], [1]]


@pytest.mark.parametrize("dated", [False, True])
def test_it_is_plain_data(dated: bool) -> None:
    more: dict[str, Any] = {"day": ["2024-01-02", None, "2024-03-01", None]} if dated else {}
    frame = pandas_frame().assign(constant=1, **more)
    schema = Schema.learn(frame, ["rooms"])
    content = json.loads(json.dumps(schema.to_json()))
    back = Schema.from_json(content)
    assert (back, back.dates) == (schema, schema.dates)
    assert_equal(back.read(frame), schema.read(frame))
    dates = ", 1 date" if dated else ""
    assert repr(back) == f"<Schema: 1 numeric, 3 categorical{dates}, 1 dropped>"
    assert len(content["dates"]) == dated


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
    ],
)
def test_plain_data_is_checked(wrong: dict[str, Any]) -> None:
    content = {
        "columns": ["a", "b"],
        "levels": {"b": ["u", "v"]},
        "dropped": {},
        "named": True,
        "dates": {},
    }
    assert Schema.from_json(content).categorical_names == ("b",)
    with pytest.raises((TypeError, ValueError, LookupError)):
        Schema.from_json({**content, **wrong})


@pytest.mark.parametrize("seed", range(6))
def test_few_rows_of_a_frame_are_read_as_in_many(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = 2 * FEW_ROWS
    whole = random.integers(0, 5, n)
    texts = np.array([*TEXTS, *"abcdefgh"], object)[random.integers(0, 12, n)]
    columns = {
        "double": random.normal(size=n),
        "single": random.normal(size=n).astype(np.float32),
        "byte": whole.astype(np.int8),
        "large": whole.astype(np.uint64) + 2**60 + 1,
        "nullable": pandas.array(np.where(whole, whole, np.array(None)), "Int64"),
        "objects": np.where(whole, whole, np.array(None)),
        "decimals": [Decimal(int(number)) / 2 for number in whole],
        "flag": whole > 2,
        "flags": pandas.array(np.where(whole, whole > 2, np.array(None)), "boolean"),
        "text": texts,
        "string": pandas.array(texts, "string"),
        "category": pandas.Categorical(texts),
        "code": pandas.Categorical(whole),
        "day": np.datetime64("2024-01-01", "ns") + whole * np.timedelta64(10**13 + 1, "ns"),
        "spell": whole * np.timedelta64(1, "s"),
    }
    names = random.permutation([*columns])[:10].tolist()
    frame = pandas.DataFrame({name: columns[name] for name in names})
    asked = random.choice(names, 3, replace=False)
    schema = Schema.learn(frame[random.random(n) < 0.3], asked)
    first = int(random.integers(n - FEW_ROWS))
    for n_rows in (1, 3, FEW_ROWS):
        rows = slice(first, first + n_rows)
        expected, few = schema.read(frame).part(rows), schema.read(frame[rows])
        np.testing.assert_array_equal(few.numbers, expected.numbers)
        np.testing.assert_array_equal(few.codes, expected.codes)


def test_texts_that_are_all_missing_are_no_numbers() -> None:
    schema = Schema.learn(pandas.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}))
    missing = pandas.DataFrame({"a": pandas.array([None], "str"), "b": [3]})
    with pytest.raises(TypeError, match="the column 'a' must hold numbers, got texts"):
        schema.read(missing)
