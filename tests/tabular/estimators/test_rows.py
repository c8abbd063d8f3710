"""Single rows, as requests have them: the values, bits and errors of tables."""

import copy
import pickle
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_models import (
    FEW,
    WITH_TREES,
    classifier,
    drawn,
    regressor,
    reloaded,
    untrained,
    with_trees,
)

from fastmlp import TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import Schema
from fastmlp.tabular.fit_arguments import in_training_order

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)

N_ROWS = 60
EAST = timezone(timedelta(hours=2))
VALUES: list[Any] = [
    *(None, 1.5, 2, 2.0, -0.0, 2**53 + 1, -(2**70), True, np.nan, np.inf, -np.inf),
    *(np.float64(1.5), np.float32(3.5), np.int64(2), np.bool_(True), np.float16(2)),
    *("a", "z", "", " a", "2020", "1", "True", "nan", np.str_("a"), b"a", [1], 1j),
    *("2024-01-31", " 2024-01-31", "2024-01-31T10", "2024-02-30", "0000-01-01"),
    *("2024-01-31T10:30:00.123456789", "2024-01-31T10:30Z", "0001-01-01T00:00+10:00"),
    *("10:30", "10:30:15.25", "25:00", time(23, 59, 59, 999999), time(1, tzinfo=UTC)),
    *(date(2024, 5, 5), datetime(1960, 5, 5, 3, 4, 5, 6), datetime(2024, 5, 5, 1)),
    *(datetime(2024, 5, 5, tzinfo=EAST), timedelta(days=-1, microseconds=5)),
    *(pd.Timestamp("2024-05-05 10:00:00.123456789"), pd.NaT, pd.NA, pd.Timedelta("5s")),
    *(np.datetime64("2024-01-31"), np.timedelta64(5, "s"), Decimal("1.5")),
    *(Decimal("NaN"), np.array([1.0, 2.0]), object()),
]


@cache
def rows() -> list[dict[str, Any]]:
    """Rows with a column of each kind."""
    start = datetime(2023, 1, 1)
    day = timedelta(days=1)
    return [
        {
            "number": i / 7,
            "gap": None if i % 5 == 0 else i,
            "text": "abc"[i % 3],
            "flag": i % 3 == 0,
            "digits": ["2020", "2021", "1.5"][i % 3],
            "level": [1, 2, 3.5][i % 3],
            "day": str((start + i * day).date()),
            "moment": (start + 1.3 * i * day).isoformat(),
            "zoned": (start.replace(tzinfo=EAST) + 1.3 * i * day).isoformat(),
            "clock": f"{i % 24:02}:{i:02}",
            "span": timedelta(seconds=77.5 * i),
            "dated": ["2024-01-31", "2024-02-01"][i % 2],
            "same": "x",
        }
        for i in range(N_ROWS)
    ]


@cache
def schema(form: str) -> Schema:
    """Of the rows with names, without names, or without dates."""
    if form == "places":
        return Schema.learn([list(row.values()) for row in rows()], [5, 11])
    names = [name for name in rows()[0] if form == "names" or name not in DATES]
    table = [{name: row[name] for name in names} for row in rows()]
    return Schema.learn(table, ["level", "dated"])


DATES = ("day", "moment", "zoned", "clock", "span")


def outcome(read: Any, *arguments: Any) -> Any:
    """Bytes of the values, or the error or warning as text."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            values = read(*arguments)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return values and [(part.dtype, part.shape, part.tobytes()) for part in values]


def of_table(known: Schema, X: Any) -> Any:
    if known.named:
        X = in_training_order(X, known.columns)
    return known.read(X, "who")


def containers(row: dict[str, Any], form: str, generator: random.Random) -> list[Any]:
    """A row as dicts with keys in another order, fewer and more; and by places."""
    known = {name: row[name] for name in schema(form).columns if name in row}
    values = list(row.values())
    if form == "places":
        return [[values], [tuple(values)], [values[:-1]]]
    shuffled = dict(generator.sample([*known.items()], len(known)))
    fewer = dict(generator.sample([*known.items()], 3))
    return [
        [known],
        [shuffled],
        [fewer],
        [{**known, "other": object()}],
        [{**known, 1: 2}],
        [{"other": 1}],
        [{}],
        [list(known.values())],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["names", "places", "no dates"])
def test_a_row_that_is_read_at_once_is_that_of_a_table(form: str) -> None:
    """A row whose values are not plain is left to the table,
    with its errors and warnings.
    """
    known = schema(form)
    generator = random.Random(0)
    n_read = 0
    for k, row in enumerate(rows()[:30]):
        for name in row:
            value = VALUES[generator.randrange(len(VALUES))]
            for X in containers({**row, name: value}, form, generator):
                values = outcome(known.row, X)
                if values is not None:
                    n_read += 1
                    assert values == outcome(of_table, known, X), (k, name, X)
    assert n_read > 150


def test_frames_of_one_row_are_read_as_others() -> None:
    known = schema("no dates")
    n_read = 0
    kinds = ("category", "float32", "Int64", "object", "string", "bool")
    frame = pd.DataFrame(rows()).drop(columns=[*DATES])
    for i, name in enumerate(frame):
        for kind in (*kinds, "lacking", "twice"):
            one = frame.iloc[[i]]
            if kind == "lacking":
                one = one.drop(columns=name)
            elif kind == "twice":
                one = pd.concat([one, one[[name]]], axis=1)
            else:
                one = one.astype({name: kind}, errors="ignore")
            values = outcome(known.row, one)
            if values is not None:
                n_read += 1
                assert values == outcome(known.read, one, "who"), (name, kind)
    assert n_read > 20


def test_large_integers_beside_floats_keep_their_last_bit() -> None:
    """The next float is another level."""
    levels = np.arange(4) + 2**53 - 2
    frame = pd.DataFrame({"size": np.linspace(0, 1, 40), "id": np.tile(levels, 10)})
    known = Schema.learn(frame, ["id"])
    one = frame.iloc[[3]]
    values = known.row(one)
    assert values is None or values.codes == known.read(one, "who").codes


@pytest.mark.parametrize("value", ["x", np.inf, b"a", [1]])
def test_wrong_values_are_the_errors_of_tables(value: Any) -> None:
    model = regressor()
    errors = []
    for X in ([{"age": value}], [{"age": value}, {"town": "Zug"}]):
        with pytest.raises((TypeError, ValueError)) as caught:
            model.predict(X)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert errors[0].startswith("TabularMLPRegressor.predict: the column 'age'")


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(row) for row in frame.to_dict("records")]


METHODS = ("predict", "predict_interval", "predict_proba", "predict_set")


def assert_rows_alone(model: Any, frame: pd.DataFrame) -> None:
    """Bits are those of a row beside another, in any container."""
    for i, row in enumerate(plain(frame)):
        pair = frame.iloc[[i, i]]
        reversed_row = dict(reversed(row.items()))
        for method in METHODS:
            if hasattr(model, method):
                predict = getattr(model, method)
                expected = predict(pair)[:1]
                for X in ([row], [reversed_row], [list(row.values())], pair[:1]):
                    np.testing.assert_array_equal(predict(X), expected)


@pytest.mark.parametrize("seed", range(12))
def test_rows_of_drawn_tables(seed: int) -> None:
    model, frame = untrained(seed)
    model.pack_.residuals = np.linspace(-1, 1, 99)
    assert_rows_alone(model, frame[:8])


@pytest.mark.parametrize("kind", WITH_TREES)
def test_rows_of_ensembles_with_trees(kind: str) -> None:
    model, frame = with_trees(kind)
    assert_rows_alone(model, frame[:5])


def test_intervals_of_rows_have_sizes() -> None:
    X, y = drawn()
    model = TabularMLPRegressor(**FEW, cv=2).fit(X, y)
    assert model.pack_.sizes is not None
    assert_rows_alone(model, X[:5])


def test_intervals_follow_residuals_that_change() -> None:
    model = copy.deepcopy(regressor())
    X, _ = drawn()
    rows = X[:2]
    narrow = np.ptp(model.predict_interval(rows), axis=1)
    model.pack_.take_scores(3 * model.pack_.residuals, None)
    assert (np.ptp(model.predict_interval(rows), axis=1) > narrow).all()


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "file": reloaded,
}
each_model = pytest.mark.parametrize("of", [classifier, regressor])


@each_model
def test_a_row_has_the_bits_of_a_table(of: Any) -> None:
    model = of()
    X, _ = drawn()
    expected = [*model.predict(X[:40])]
    assert [model.predict([row])[0] for row in plain(X[:40])] == expected


@each_model
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_has_the_bits_in_several_threads(
    of: Any, kind: str, tmp_path: Path
) -> None:
    model = of()
    X, _ = drawn()
    # The model itself has a plan for single rows; a copy makes its own.
    model.predict(plain(X[:1]))
    other = COPIES[kind](model, tmp_path / "m")
    assert other.pack_.row is None
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda row: other.predict([row])[0], plain(X[:40]))
        assert [*found] == [*model.predict(X[:40])]


def test_a_row_sees_weights_that_change() -> None:
    X, _ = drawn()
    model = copy.deepcopy(regressor())
    row = plain(X[:1])
    before = model.predict(row)
    model.members_[0].net.biases[-1][:] += 1
    assert model.predict(row) == model.predict(X[:2])[:1] != before


def test_a_row_sees_another_fit() -> None:
    X, y = drawn()
    model = copy.deepcopy(regressor())
    row = plain(X[:1])
    before = model.predict(row)
    model.fit(X, -y)
    assert model.predict(row) == model.predict(X[:2])[:1] != before
