"""Which encoders a net uses, their state as plain data, and what they say of wrong input."""

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from memory_use import peak_of

from fastmlp import Expanded, tabular
from fastmlp.tabular import (
    Encoding,
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RobustSmoothClip,
    Schema,
    TargetStatistics,
    Values,
)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"embedding": "none"},
    {"scaling": "rising", "n_bins": 5},
    {"max_levels": 3, "min_rows": 2, "target_levels": None},
]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def rows(n: int = 200, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3))
    numbers[rng.random(n) < 0.2, 1] = np.nan
    codes = np.stack([rng.integers(0, 2, n), rng.integers(-1, 20, n)], axis=1)
    return Values(numbers, codes.astype(np.int32))


def fitted(settings: dict[str, Any], values: Values, task: Any = "regression") -> Encoding:
    y = np.nan_to_num(values.numbers).sum(axis=1)
    y = y if task == "regression" else (y > 0) * 1
    return Encoding(**settings).fit(values, y, task, np.random.default_rng(0))


def test_the_inputs_are_those_of_the_encoders() -> None:
    values, other = rows(), rows(50, seed=1)
    result = fitted({}, values).transform(other)
    y = np.nan_to_num(values.numbers).sum(axis=1)
    parts = [
        RobustSmoothClip().fit(values.numbers).transform(other.numbers),
        MissingMarks().fit(values.numbers).transform(other.numbers),
        TargetStatistics().fit(values.codes[:, 1:], y).transform(other.codes[:, 1:]),
        OneHotLevels().fit(values.codes[:, :1]).transform(other.codes[:, :1]),
        PiecewiseLinear().fit(values.numbers).transform(other.numbers),
        OneHotLevels().fit(values.codes[:, 1:]).transform(other.codes[:, 1:]),
    ]
    # A piece and its fraction are one number of float32.
    np.testing.assert_allclose(result, np.hstack(parts), rtol=0, atol=2e-6)


@each_setting
def test_expanded_rows_stand_for_the_inputs(settings: dict[str, Any]) -> None:
    values, other = rows(), rows(50, seed=1)
    encoding = fitted(settings, values)
    result = encoding.expanded(other)
    assert isinstance(result, Expanded)
    assert result.shape == (50, encoding.n_inputs)
    assert result.dtype == np.float32
    # A piece and its fraction share one float32.
    np.testing.assert_allclose(result.toarray(), encoding.transform(other), rtol=0, atol=2e-6)
    pieces = encoding.arrays.get("pieces.n_pieces_", np.empty(0, int))
    assert result.pieces == tuple(pieces)
    # The column of two levels is plain.
    assert len(result.levels) == 1
    assert result.values.shape[1] == result.plain + len(result.pieces) + 1
    y = np.arange(200.0)
    one, two = Encoding(**settings), Encoding(**settings)
    short = one.fit_expanded(values, y, "regression", np.random.default_rng(3))
    whole = two.fit_transform(values, y, "regression", np.random.default_rng(3))
    np.testing.assert_allclose(short.toarray(), whole, rtol=0, atol=2e-6)


def test_columns_of_few_levels_and_without_pieces() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack(
        [
            np.arange(90) % 2,  # Two levels: -1 and 1.
            np.arange(90) % 3 - 1,  # The same, and missing values.
            np.zeros(90, int),
            np.where(np.arange(90) < 2, 0, 3),  # A rare level.
            np.arange(90) // 2,  # Rare levels alone: no input.
            np.arange(90) % 3,
        ],
        axis=1,
    )
    numbers = np.stack([rng.normal(size=90), np.arange(90) % 2.0, np.arange(90.0)], axis=1)
    values = Values(numbers, codes.astype(np.int32))
    result = fitted({"target_levels": None}, values).expanded(values)
    assert (result.plain, result.pieces, result.levels) == (3 + 1 + 2 + 1 + 1, (16, 16), (3,))
    np.testing.assert_array_equal(result.values[:, 3], codes[:, 0] * 2 - 1)
    np.testing.assert_array_equal(result.values[:, -1], codes[:, 5])
    expected = [OneHotLevels().fit(codes[:, [c]]).transform(codes[:, [c]]) for c in range(6)]
    dense = result.toarray()
    np.testing.assert_array_equal(dense[:, 3:8], np.hstack(expected[:5]))
    np.testing.assert_array_equal(dense[:, -3:], expected[5])


@pytest.mark.parametrize("levels", [[0, 1, 2, 3], [0, 0, 1, 1], [-1, -1, -1, 0], [-1] * 4])
@pytest.mark.parametrize("n_columns", [1, 2])
def test_rare_levels_alone_make_an_input(levels: list[int], n_columns: int) -> None:
    codes = np.array([levels] * n_columns, np.int32).T
    values = Values(np.empty((4, 0)), codes)
    encoding = Encoding().fit(values, np.arange(4.0), "regression", 0)
    most = np.unique(levels, return_counts=True)[1].max()
    expected = OneHotLevels(min_rows=int(most)).fit_transform(codes)
    np.testing.assert_array_equal(encoding.transform(values), expected)
    assert expected.shape[1] == encoding.n_inputs > 0
    back = Encoding.from_state(encoding.to_json(), encoding.arrays)
    np.testing.assert_array_equal(back.transform(values), expected)


@each_setting
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_comes_back_from_arrays_and_plain_data(settings: dict[str, Any], task: Any) -> None:
    values, other = rows(), rows(50, seed=1)
    encoding = fitted(settings, values, task)
    result = encoding.transform(other)
    assert result.dtype == np.float32
    assert result.shape == (50, encoding.n_inputs)
    assert np.isfinite(result).all()
    assert {array.dtype.str for array in encoding.arrays.values()} <= {"<f4", "<f8", "<i8"}
    content = json.loads(json.dumps(encoding.to_json()))
    back = Encoding.from_state(content, encoding.arrays)
    assert back == encoding
    np.testing.assert_array_equal(back.transform(other), result)


@each_setting
def test_training_rows_have_statistics_out_of_folds(settings: dict[str, Any]) -> None:
    values, y = rows(), np.arange(200) % 7 * 1.0
    rng = np.random.default_rng
    one = Encoding(**settings)
    result = one.fit_transform(values, y, "regression", rng(3))
    whole = Encoding(**settings).fit(values, y, "regression", rng(3))
    expected = whole.transform(values)
    np.testing.assert_array_equal(one.transform(values), expected)
    n = 0 if "target_levels" in settings else 2
    assert result.shape == expected.shape
    different = np.flatnonzero((result != expected).any(axis=0))
    assert len(different) == n // 2
    assert not n or np.abs(result - expected)[:, different].max() > 0.1


def test_seeds() -> None:
    """A seed may stand for a generator; its third number is the seed of target statistics."""
    values, y = rows(), np.arange(200.0)
    of_seeds = [Encoding().fit_transform(values, y, "regression", seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(of_seeds[0], of_seeds[1])
    assert (of_seeds[0] != of_seeds[2]).any()
    generator = np.random.default_rng(0)
    of_generator = Encoding().fit_transform(values, y, "regression", generator)
    np.testing.assert_array_equal(of_generator, of_seeds[0])
    seed = int(np.random.default_rng(0).integers(2**31, size=3)[2])
    statistics = TargetStatistics(task="regression", random_state=seed)
    expected = statistics.fit_transform(values.codes[:, 1:], y)
    np.testing.assert_array_equal(of_generator[:, 4:6], expected)


@each_setting
def test_tables_of_one_kind_and_of_one_row(settings: dict[str, Any]) -> None:
    whole = rows()
    none = np.empty((200, 0))
    for values in (Values(whole.numbers, none.astype(np.int32)), Values(none, whole.codes)):
        encoding = fitted(settings, values)
        result = encoding.transform(values)
        one = [encoding.transform(values.part(slice(i, i + 1))) for i in range(9)]
        np.testing.assert_array_equal(np.concatenate(one), result[:9])
    single = whole.part([0])
    assert np.isfinite(fitted(settings, single).transform(whole)).all()
    assert fitted(settings, whole).transform(whole.part(slice(0))).shape[0] == 0


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an edge less": lambda arrays: arrays.update({"pieces.edges_": arrays["pieces.edges_"][1:]}),
    "pieces below 0": lambda arrays: arrays["pieces.n_pieces_"].__setitem__(0, -1),
    "many pieces": lambda arrays: arrays["pieces.n_pieces_"].__setitem__(0, 2**62),
    "a NaN": lambda arrays: arrays["scaled.center_"].__setitem__(0, np.inf),
    "no medians": lambda arrays: arrays.pop("pieces.medians_"),
    "a short table": lambda arrays: arrays.update({"levels.values_": arrays["levels.values_"][1:]}),
    "a level of -1": lambda arrays: arrays["levels.values_"].__setitem__(0, -1),
    "many columns": lambda arrays: arrays["levels.columns_"].__setitem__(1, 2**40),
    "starts that fall": lambda arrays: arrays["levels.starts_"].__setitem__(1, 2**40),
    "a column below 0": lambda arrays: arrays["levels.columns"].__setitem__(0, -1),
    "columns of floats": lambda arrays: arrays.update({"levels.columns": np.zeros(2)}),
    "another width": lambda arrays: arrays.update({"scaled.factor_": np.zeros(2)}),
    "one for all": lambda arrays: arrays.update({"scaled.factor_": np.ones(1)}),
    "no columns": lambda arrays: arrays.update({"levels.columns": np.empty(0, int)}),
    "another dtype": lambda arrays: arrays.update({"pieces.medians_": np.zeros(3, np.float32)}),
    "marks beyond": lambda arrays: arrays["missing.columns_"].__setitem__(0, 3),
    "marks below 0": lambda arrays: arrays["missing.columns_"].__setitem__(0, -1),
    "rows of no numbers": lambda arrays: arrays.update(
        {
            "statistics.table_": np.empty((1 << 40, 0), np.float32),
            "statistics.starts_": np.array([0, 1 << 40]),
        }
    ),
    "more pieces than bins": lambda arrays: arrays.update(
        {"pieces.edges_": np.arange(150.0), "pieces.n_pieces_": np.array([149, 0, 0])}
    ),
    "nothing at all": lambda arrays: arrays.clear(),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_arrays_of_a_file_are_checked(broken: str) -> None:
    encoding = fitted({}, rows())
    arrays = {name: array.copy() for name, array in encoding.arrays.items()}
    BROKEN[broken](arrays)
    with pytest.raises((TypeError, ValueError, LookupError)):
        Encoding.from_state(encoding.to_json(), arrays)


def test_tables_that_no_place_may_leave() -> None:
    columns, values = np.zeros(4, np.int64), np.ones(4, np.float32)
    # The differences are above 0, as the second one overflows.
    starts = np.array([0, 2**62, -(2**62) - 1, 4])
    for arrays, words in (
        ({"starts_": starts, "columns_": columns}, "do not fit their starts"),
        ({"starts_": np.array([0, 2, 3, 4]), "columns_": columns - 2}, "more columns than levels"),
        ({"starts_": np.array([0, 2, 3, 4]), "columns_": [0, 1, 0, 2]}, "must be its feature's"),
    ):
        content = {name: np.asarray(array, np.int64) for name, array in arrays.items()}
        with pytest.raises(ValueError, match=words):
            OneHotLevels().restore({**content, "values_": values}, 3)


@pytest.mark.slow
def test_memory_is_that_of_the_arrays() -> None:
    """Neither places nor levels, nor the product of columns and levels, are sizes of others."""
    rng = np.random.default_rng(0)
    codes = np.stack([np.arange(20_000), *rng.integers(9, size=(60, 20_000))], axis=1)
    encoding = fitted({}, Values(rng.normal(size=(20_000, 1)), codes.astype(np.int32)))
    arrays = {**encoding.arrays, "levels.columns": encoding.arrays["levels.columns"] + 10**9}
    size = sum(array.nbytes for array in arrays.values())
    assert peak_of(lambda: Encoding.from_state(encoding.to_json(), arrays)) < 4 * size + 1e5


def test_encoders_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.utils")
    monkeypatch.setattr(tabular, "import_module", Mock(side_effect=error))
    message = r"fastmlp\.tabular\.Encoding needs scikit-learn: pip install scikit-learn$"
    with pytest.raises(ImportError, match=message):
        _ = tabular.Encoding
    assert {*dir(tabular)} >= {"Encoding", "PiecewiseLinear", "TargetStatistics", "Schema"}
    with pytest.raises(AttributeError, match=r"module 'fastmlp\.tabular' has no attribute 'Nets'"):
        _ = tabular.Nets  # type: ignore[attr-defined]


NAN = float("nan")
FRAME = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [1.0, NAN, 2.0]})
CODES = [[0], [1], [0]]
Y = np.array([0.5, 1.5, 2.5])
VALUES = Schema.learn(FRAME).read(FRAME)
rng = np.random.default_rng(0)
wrong: Any = {"bins": 3}
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "a keyword": (
        lambda: PiecewiseLinear(**wrong),
        "^PiecewiseLinear: got an unexpected keyword argument 'bins', did you mean 'n_bins'",
    ),
    "texts as numbers": (
        lambda: RobustSmoothClip().fit(pandas.DataFrame({"a": ["x", "y"]})),
        "^RobustSmoothClip: X must hold numbers: .*'x'; texts go through Schema and OneHotLevels$",
    ),
    "pieces before fit": (lambda: PiecewiseLinear().pieces(FRAME), "PiecewiseLinear .* not fitted"),
    "codes of floats": (
        lambda: OneHotLevels().fit(FRAME + 0.25),
        r"codes of levels, integers, as of Schema.read or of OrdinalEncoder: got 1.25",
    ),
    "numbers as codes": (
        lambda: OneHotLevels().fit([[10**9], [0]]),
        "codes must be places among levels, at most 16777216, got 1000000000: make such",
    ),
    "targets that are missing": (
        lambda: TargetStatistics().fit(CODES, [1.0, NAN, 2.0]),
        "TargetStatistics: y must be finite, got nan in row 1; leave it out",
    ),
    "classes that are missing": (
        lambda: TargetStatistics(task="classification").fit(CODES, [1.0, NAN, 2.0]),
        "TargetStatistics: y must be finite, got nan in row 1",
    ),
    "targets of texts": (
        lambda: TargetStatistics(task="regression").fit(CODES, ["a", "b", "c"]),
        "TargetStatistics: y must hold numbers, for a regression: .*'a'",
    ),
    "a table for an encoding": (
        lambda: Encoding().fit(FRAME, Y, "regression", rng),
        r"Encoding: values must be Values, as of Schema.learn\(X\).read\(X\), got DataFrame",
    ),
    "a table to transform": (
        lambda: Encoding().fit(VALUES, Y, "regression", 0).transform(FRAME),
        "Encoding: values must be Values",
    ),
    "another task": (
        lambda: Encoding().fit(VALUES, Y, "regresion", rng),  # type: ignore[arg-type]
        "Encoding: unknown task 'regresion', did you mean 'regression'",
    ),
    "fewer targets": (
        lambda: Encoding().fit(VALUES, Y[:2], "regression", rng),
        r"Encoding: y must have shape \(3,\), got \(2,\)",
    ),
    "a column of pandas": (lambda: Schema.learn(FRAME["a"]), "got Series: make a table of one col"),
    "a column of polars": (
        lambda: Schema.learn(polars.Series([1, 2])),
        r"Schema.learn: X must be a frame .*, got Series: make .*, as by X.to_frame\(\)",
    ),
    "a column of Arrow": (
        lambda: Schema.learn(pyarrow.chunked_array([[1, 2]])),
        "X must be a frame of pandas or polars, .*, got ChunkedArray: make a table",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said(case: str) -> None:
    call, words = CASES[case]
    with pytest.raises((TypeError, ValueError, AttributeError), match=words):
        call()
