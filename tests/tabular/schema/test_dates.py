"""Dates, times of day and durations in tables: one rule, whatever library they come from."""

import datetime
import io
import warnings
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.csv
import pytest

from fastmlp import TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import Schema
from fastmlp.tabular.dates import PARTS, Parts, all_of, of_texts

NAN = float("nan")
compiled = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
ZONE = "Europe/Zurich"
UNITS = ("s", "ms", "us", "ns")


def drawn(seed: int, unit: str = "us", n: int = 80) -> pandas.DataFrame:
    """Columns of all kinds that a file of CSV has too, in a drawn order, with holes."""
    rng = np.random.default_rng(seed)
    seconds = rng.integers(-86_400 * 400, 86_400 * 90, n)
    moment = pandas.Series(np.datetime64("2024-02-28T00:00", "s") + seconds).astype(f"M8[{unit}]")
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
    table, text = pyarrow.Table.from_pandas(frame), frame.to_csv(index=False)
    nulls = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    return {
        "objects": frame.astype(object),
        "arrow": table,
        "polars": polars.from_arrow(table),
        "pandas of Arrow": table.to_pandas(types_mapper=pandas.ArrowDtype),
        "CSV by pyarrow": pyarrow.csv.read_csv(io.BytesIO(text.encode()), convert_options=nulls),
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
    assert parts == Parts(PARTS["dates"], str(first.date()), zone=False)
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

    assert parts("2024-03-01", "2024-03-02", "2024-03-02").names == ("day", "weekday", "days")
    weekly = ("day", "days")
    assert parts("2024-03-08", "2024-03-01", None) == Parts(weekly, "2024-03-01", zone=False)
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
    values = pyarrow.csv.read_csv(io.BytesIO(f"a,b\n{text},1\n".encode())).column(0)
    if not pyarrow.types.is_string(values.type):
        pyarrows, ours = (all_of("dates").numbers(one) for one in (values.to_numpy(), result[1:2]))
        np.testing.assert_array_equal(pyarrows, ours)


def test_texts_some_of_which_are_no_dates_are_texts() -> None:
    for wrong in ("soon", "2024-02-30", 5):
        frame = pandas.DataFrame({"when": ["2024-03-01", "2024-03-02", wrong] * 2}, dtype=object)
        assert len(Schema.learn(frame).levels["when"]) == 3
    assert Schema.learn(pandas.DataFrame({"at": ["10:30", "24:30"] * 2})).levels


def test_objects_of_several_kinds_of_dates() -> None:
    day = datetime.datetime(2024, 3, 1, 22, tzinfo=datetime.timezone(datetime.timedelta(hours=-3)))
    mixed = [datetime.date(2024, 3, 2), day, np.datetime64("2024-03-03", "ns"), None, pandas.NaT]
    frame = pandas.DataFrame({"when": pandas.Series(mixed, dtype=object)})
    schema = Schema.learn(frame)
    assert schema.dates["when"].origin == "2024-03-02"
    expected = [0, 1 / 24, 1, NAN, NAN]
    np.testing.assert_array_equal(schema.read(frame).numbers[:, -1], expected)


@pytest.mark.parametrize("unit", UNITS)
def test_durations_and_times_are_seconds(unit: str) -> None:
    spans = np.array([-90_000_001, 5, 10**9 * 86_400], "m8[s]").astype(f"m8[{unit}]")
    clock = [datetime.time(23, 59, 59, 500_000), None, datetime.time(0)]
    frame = pandas.DataFrame({"span": spans if unit != "ns" else spans // 9, "at": clock})
    schema = Schema.learn(frame)
    assert schema.dates == {"span": Parts(("duration",)), "at": Parts(("time",))}
    table = pyarrow.Table.from_pandas(frame)
    for X in (frame, table, polars.from_arrow(table), frame.astype({"at": object})):
        numbers = schema.read(X).numbers
        np.testing.assert_allclose(numbers[:, 0], frame["span"].dt.total_seconds(), rtol=1e-9)
        np.testing.assert_array_equal(numbers[:, 1], [86_399.5, NAN, 0])
    tiny = pandas.DataFrame({"span": np.array([350, 700], "m8[ns]")})
    assert Schema.learn(tiny).read(tiny).numbers[:, 0].tolist() == [3.5e-7, 7e-7]


def test_other_types_of_dates_in_predictions() -> None:
    schema = Schema.learn(pandas.DataFrame({"when": ["2024-03-01", "2024-03-05"] * 40}))
    expected = [[4, 3, 3.5], [NAN] * 3]
    days = np.array(["2024-03-04T12", "NaT"], "M8[ns]")
    texts = ["2024-03-04 12:00Z", None]
    for item in (days, pandas.Series(days).dt.tz_localize("UTC"), texts, [days[0], None]):
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            result = schema.read(pandas.DataFrame({"when": item})).numbers
        np.testing.assert_array_equal(result[:, [0, 2]], np.array(expected)[:, [0, 2]])
    for nothing in ([None, None], [NAN, NAN], ["", ""], pandas.array([None] * 2, "string")):
        assert np.isnan(schema.read(pandas.DataFrame({"when": nothing})).numbers).all()
    assert np.isnan(schema.read(pyarrow.table({"when": pyarrow.nulls(2)})).numbers).all()
    assert schema.read(pandas.DataFrame({"when": days[:0]})).numbers.shape == (0, 3)


@pytest.mark.parametrize("seed", range(4))
def test_zones_that_training_had_not_are_warned_of(seed: int) -> None:
    """From every form of a table to every other one, and from a file."""
    frame = drawn(seed)
    naive = frame.assign(zoned=frame["zoned"].dt.tz_localize(None))
    for X, other in ((frame, naive), (naive, frame)):
        first, then = (list(forms(one).values())[:-1] for one in (X, other))
        schema = Schema.from_json(Schema.learn(first[seed]).to_json())
        assert {name for name, one in schema.dates.items() if one.zone} == (
            {"zoned"} if X is frame else set()
        )
        pair = "had a zone in training, and have none" if X is frame else "had no zone .* have one"
        for rows in first:
            schema.read(rows)
        for rows in then:
            with pytest.warns(UserWarning, match=f"^me: the dates of 'zoned' {pair}"):
                schema.read(rows, "me")


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (["2024-03-01", "03/05/2024"], "got '03/05/2024'"),
        (["2024-03-01", "10:30"], "got '10:30'"),
        ([1.0, 2.0], "got float64"),
        (np.array([5, 6], "m8[D]").astype("m8[s]"), r"got timedelta64\[s\]"),
        ([datetime.time(5), None], "got time"),
        ([[1], [2]], "got list"),
    ],
)
def test_what_is_no_date_in_predictions(values: Any, got: str) -> None:
    schema = Schema.learn(pandas.DataFrame({"when": ["2024-03-01", "2024-03-05"]}))
    message = f"me: the column 'when' must hold dates, as datetime64 or texts such as .*{got}"
    with pytest.raises(TypeError, match=message):
        schema.read(pandas.DataFrame({"when": values}), "me")
    if "text" not in got:
        with pytest.raises(TypeError, match="me: the column 'when' must hold dates"):
            schema.read(pyarrow.table({"when": pyarrow.array(values)}), "me")


def test_dates_that_are_asked_to_be_categories() -> None:
    frame = drawn(5, n=90)
    # Of a few days, and of hours in them.
    frame["day"] = pandas.Timestamp("2024-03-01") + pandas.to_timedelta(np.arange(90) % 3, "D")
    frame["moment"] = pandas.Timestamp("2024-03-01") + pandas.to_timedelta(np.arange(90) % 4, "h")
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
    assert (expected[:, [schema.categorical_names.index(one) for one in asked]] >= 0).all()
    for form, X in forms(frame).items():
        if form != "array":
            assert Schema.learn(X, asked) == schema, form
            np.testing.assert_array_equal(schema.read(X).codes, expected, form)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": ["days"], "origin": None},
        {"parts": ["days"], "origin": "2024-13-01"},
        {"parts": ["days"], "origin": 5},
        {"parts": ["days", "year"], "origin": "2024-01-01"},
        {"parts": ["day", "time"], "origin": None},
        {"parts": ["time"], "origin": "2024-01-01"},
        {"parts": ["era", "days"], "origin": "2024-01-01"},
        {"parts": [], "origin": None},
        {"parts": 5, "origin": None},
        {"parts": ["time"]},
        {"parts": ["days"], "origin": "2024-01-01", "zone": "UTC"},
        ["time"],
    ],
)
def test_plain_data_is_checked(wrong: Any) -> None:
    content = {"columns": ["a", "b"], "levels": {}, "dropped": {}, "named": True}
    fine = {"parts": ["time"], "origin": None, "zone": None}
    assert Schema.from_json({**content, "dates": {"b": fine}}).read_names == ("a", "b")
    for dates in ({"b": wrong}, {"c": fine}, [fine]):
        with pytest.raises((TypeError, ValueError, LookupError, AttributeError)):
            Schema.from_json({**content, "dates": dates})
    with pytest.raises(ValueError, match="each of others"):
        Schema.from_json({**content, "dates": {"b": fine}, "dropped": {"b": "why"}})


@pytest.mark.slow
@compiled
def test_models_learn_from_dates_in_every_form() -> None:
    frame = drawn(6, n=200)
    rng = np.random.default_rng(0)
    since = (frame["moment"] - frame["moment"].min()).dt.total_seconds().fillna(0) / 86_400
    y = since / 50 + rng.normal(size=200) / 10
    model = TabularMLPRegressor(n_members=2, max_iter=10, cv=2, random_state=0).fit(frame, y)
    expected = model.predict(frame)
    for X in list(forms(frame).values())[:-1]:
        np.testing.assert_array_equal(model.predict(X), expected)
    assert "2 numbers, 2 categories, 1 time, 3 dates" in model.summary()
    # One importance for a column, whose parts are shuffled as one.
    assert model.feature_importances_.shape == (len(frame.columns),)
    best = model.schema_.columns[model.feature_importances_.argmax()]
    assert best in ("moment", "day", "zoned")
