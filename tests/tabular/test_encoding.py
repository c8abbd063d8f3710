"""Encoders beside their formulas and scikit-learn's,
which a net uses, their state, wrong input.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas
import pytest
from fitting import peak_of
from sklearn.base import clone
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp import Expanded, tabular
from fastmlp.tabular import (
    Encoding,
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RobustSmoothClip,
    TargetStatistics,
    Values,
)
from fastmlp.tabular.number_encoders import CodeEncoder, IntegerLevels
from fastmlp.validation import messages

SETTINGS: list[dict[str, Any]] = [
    {},
    {"embedding": "none"},
    {"scaling": "rising", "n_bins": 5},
    {"max_levels": 3, "min_rows": 2, "target_levels": None},
    {"max_integers": 9},
]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def rows(n: int = 200, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3))
    numbers[rng.random(n) < 0.2, 1] = np.nan
    numbers[:, 2] = rng.integers(0, 6, n) ** 2
    codes = np.stack([rng.integers(0, 2, n), rng.integers(-1, 20, n)], axis=1)
    return Values(numbers, codes.astype(np.int32))


def fitted(
    settings: dict[str, Any], values: Values, task: Any = "regression"
) -> Encoding:
    y = np.nan_to_num(values.numbers).sum(axis=1)
    y = y if task == "regression" else (y > 0) * 1
    return Encoding(**settings).fit(values, y, task, np.random.default_rng(0))


def test_the_inputs_are_those_of_the_encoders() -> None:
    values = rows()
    other = rows(50, seed=1)
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
    values = rows()
    other = rows(50, seed=1)
    encoding = fitted(settings, values)
    result = encoding.expanded(other)
    assert isinstance(result, Expanded)
    assert result.shape == (50, encoding.n_inputs)
    assert result.dtype == np.float32
    # A piece and its fraction share one float32.
    np.testing.assert_allclose(
        result.toarray(), encoding.transform(other), rtol=0, atol=2e-6
    )
    pieces = encoding.arrays.get("pieces.n_pieces_", np.empty(0, int))
    assert result.pieces == tuple(pieces)
    # The column of two levels is plain; of numbers one has levels.
    integers = (6,) * ("max_integers" in settings)
    assert result.levels == (*integers, result.levels[-1])
    assert result.values.shape[1] == result.plain + len(result.pieces) + len(
        result.levels
    )


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
    numbers = np.stack(
        [rng.normal(size=90), np.arange(90) % 2.0, np.arange(90.0)], axis=1
    )
    values = Values(numbers, codes.astype(np.int32))
    result = fitted({"target_levels": None}, values).expanded(values)
    assert (result.plain, result.pieces, result.levels) == (
        3 + 1 + 2 + 1 + 1,
        (16, 16),
        (3,),
    )
    np.testing.assert_array_equal(result.values[:, 3], codes[:, 0] * 2 - 1)
    np.testing.assert_array_equal(result.values[:, -1], codes[:, 5])
    expected = [
        OneHotLevels().fit(codes[:, [c]]).transform(codes[:, [c]]) for c in range(6)
    ]
    dense = result.toarray()
    np.testing.assert_array_equal(dense[:, 3:8], np.hstack(expected[:5]))
    np.testing.assert_array_equal(dense[:, -3:], expected[5])


@pytest.mark.parametrize(
    "levels", [[0, 1, 2, 3], [0, 0, 1, 1], [-1, -1, -1, 0], [-1] * 4]
)
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
def test_it_comes_back_from_arrays_and_plain_data(
    settings: dict[str, Any], task: Any
) -> None:
    values = rows()
    other = rows(50, seed=1)
    encoding = fitted(settings, values, task)
    result = encoding.transform(other)
    assert result.dtype == np.float32
    assert result.shape == (50, encoding.n_inputs)
    assert np.isfinite(result).all()
    assert {array.dtype.str for array in encoding.arrays.values()} <= {
        "<f4",
        "<f8",
        "<i8",
    }
    content = json.loads(json.dumps(encoding.to_json()))
    back = Encoding.from_state(content, encoding.arrays)
    assert back == encoding
    np.testing.assert_array_equal(back.transform(other), result)


@each_setting
def test_training_rows_have_statistics_out_of_folds(settings: dict[str, Any]) -> None:
    values = rows()
    y = np.arange(200) % 7 * 1.0
    rng = np.random.default_rng
    one = Encoding(**settings)
    result = one.fit_expanded(values, y, "regression", rng(3)).toarray()
    whole = Encoding(**settings).fit(values, y, "regression", rng(3))
    expected = whole.transform(values)
    np.testing.assert_array_equal(one.transform(values), expected)
    n = 0 if "target_levels" in settings else 2
    assert result.shape == expected.shape
    different = np.flatnonzero((np.abs(result - expected) > 2e-6).any(axis=0))
    assert len(different) == n // 2
    assert not n or np.abs(result - expected)[:, different].max() > 0.1


def trained(values: Values, y: Any, rng: Any) -> Any:
    return Encoding().fit_expanded(values, y, "regression", rng).toarray()


def test_seeds() -> None:
    """A seed may stand for a generator;
    its third number is the seed of target statistics.
    """
    values = rows()
    y = np.arange(200.0)
    of_seeds = [trained(values, y, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(of_seeds[0], of_seeds[1])
    assert (of_seeds[0] != of_seeds[2]).any()
    generator = np.random.default_rng(0)
    of_generator = trained(values, y, generator)
    np.testing.assert_array_equal(of_generator, of_seeds[0])
    seed = int(np.random.default_rng(0).integers(2**31, size=3)[2])
    statistics = TargetStatistics(task="regression", random_state=seed)
    expected = statistics.fit_transform(values.codes[:, 1:], y)
    np.testing.assert_array_equal(of_generator[:, 4:6], expected)


@each_setting
def test_tables_of_one_kind_and_of_one_row(settings: dict[str, Any]) -> None:
    whole = rows()
    none = np.empty((200, 0))
    for values in (
        Values(whole.numbers, none.astype(np.int32)),
        Values(none, whole.codes),
    ):
        encoding = fitted(settings, values)
        result = encoding.transform(values)
        one = [encoding.transform(values.part(slice(i, i + 1))) for i in range(9)]
        np.testing.assert_array_equal(np.concatenate(one), result[:9])
    single = whole.part([0])
    assert np.isfinite(fitted(settings, single).transform(whole)).all()
    assert fitted(settings, whole).transform(whole.part(slice(0))).shape[0] == 0


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an edge less": lambda arrays: arrays.update(
        {"pieces.edges_": arrays["pieces.edges_"][1:]}
    ),
    "pieces below 0": lambda arrays: arrays["pieces.n_pieces_"].__setitem__(0, -1),
    "many pieces": lambda arrays: arrays["pieces.n_pieces_"].__setitem__(0, 2**62),
    "a NaN": lambda arrays: arrays["scaled.center_"].__setitem__(0, np.inf),
    "no medians": lambda arrays: arrays.pop("pieces.medians_"),
    "a short table": lambda arrays: arrays.update(
        {"levels.values_": arrays["levels.values_"][1:]}
    ),
    "a level of -1": lambda arrays: arrays["levels.values_"].__setitem__(0, -1),
    "many columns": lambda arrays: arrays["levels.columns_"].__setitem__(1, 2**40),
    "starts that fall": lambda arrays: arrays["levels.starts_"].__setitem__(1, 2**40),
    "a column below 0": lambda arrays: arrays["levels.columns"].__setitem__(0, -1),
    "columns of floats": lambda arrays: arrays.update({"levels.columns": np.zeros(2)}),
    "another width": lambda arrays: arrays.update({"scaled.factor_": np.zeros(2)}),
    "one for all": lambda arrays: arrays.update({"scaled.factor_": np.ones(1)}),
    "no columns": lambda arrays: arrays.update({"levels.columns": np.empty(0, int)}),
    "another dtype": lambda arrays: arrays.update(
        {"pieces.medians_": np.zeros(3, np.float32)}
    ),
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
    columns = np.zeros(4, np.int64)
    values = np.ones(4, np.float32)
    # The differences are above 0, as the second one overflows.
    starts = np.array([0, 2**62, -(2**62) - 1, 4])
    for arrays, words in (
        ({"starts_": starts, "columns_": columns}, "do not fit their starts"),
        (
            {"starts_": np.array([0, 2, 3, 4]), "columns_": columns - 2},
            "more columns than levels",
        ),
        (
            {"starts_": np.array([0, 2, 3, 4]), "columns_": [0, 1, 0, 2]},
            "must be its feature's",
        ),
    ):
        content = {name: np.asarray(array, np.int64) for name, array in arrays.items()}
        with pytest.raises(ValueError, match=words):
            OneHotLevels().restore({**content, "values_": values}, 3)


@pytest.mark.slow
def test_memory_is_that_of_the_arrays() -> None:
    """Neither places nor levels,
    nor the product of columns and levels, are sizes of others.
    """
    rng = np.random.default_rng(0)
    codes = np.stack([np.arange(20_000), *rng.integers(9, size=(60, 20_000))], axis=1)
    encoding = fitted({}, Values(rng.normal(size=(20_000, 1)), codes.astype(np.int32)))
    arrays = {
        **encoding.arrays,
        "levels.columns": encoding.arrays["levels.columns"] + 10**9,
    }
    size = sum(array.nbytes for array in arrays.values())
    assert (
        peak_of(lambda: Encoding.from_state(encoding.to_json(), arrays))
        < 4 * size + 1e5
    )


def test_encoders_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.utils")
    monkeypatch.setattr(messages, "import_module", Mock(side_effect=error))
    message = (
        r"fastmlp\.tabular\.Encoding needs scikit-learn: pip install scikit-learn$"
    )
    with pytest.raises(ImportError, match=message):
        _ = tabular.Encoding
    assert {*dir(tabular)} >= {
        "Encoding",
        "PiecewiseLinear",
        "TargetStatistics",
        "Schema",
    }
    with pytest.raises(
        AttributeError, match=r"module 'fastmlp\.tabular' has no attribute 'Nets'"
    ):
        _ = tabular.Nets  # type: ignore[attr-defined]


rng = np.random.default_rng(0)


NANS = np.nan
OF_NUMBERS = [
    *(RobustSmoothClip(), PiecewiseLinear(n_bins=4), MissingMarks()),
    IntegerLevels(n_bins=5),
]
OF_CODES = [OneHotLevels(), TargetStatistics(random_state=0)]
each_of_numbers = pytest.mark.parametrize("encoder", OF_NUMBERS, ids=repr)


def numbers(n: int = 500, seed: int = 0) -> Any:
    """Columns: normal, far from 0, heavy tails,
    many zeros, whole numbers, one value.
    """
    rng = np.random.default_rng(seed)
    columns = [
        rng.normal(size=n),
        1e6 + rng.normal(size=n),
        np.exp(3 * rng.normal(size=n)),
        np.maximum(rng.normal(size=n), 0),
        rng.integers(0, 5, n),
        np.full(n, 7.0),
    ]
    return np.stack(columns, axis=1)


def expected_to_fail(encoder: Any) -> dict[str, str]:
    results: dict[str, str] = {}
    if isinstance(encoder, CodeEncoder):
        results["check_positive_only_tag_during_fit"] = (
            "-1 is no level, and others are not below it"
        )
    if isinstance(encoder, TargetStatistics):
        # As of scikit-learn's TargetEncoder.
        checks = ("check_transformer_data_not_an_array", "check_transformer_general")
        results |= dict.fromkeys(checks, "training rows get statistics out of folds")
    return results


@pytest.mark.few(30)
@parametrize_with_checks(
    [*OF_NUMBERS, *OF_CODES], expected_failed_checks=expected_to_fail
)
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@each_of_numbers
def test_what_every_encoder_of_numbers_does(encoder: Any) -> None:
    X = numbers(60)
    X[3, 0] = X[5, 2] = NANS
    encoder = clone(encoder)
    result = encoder.fit(X).transform(X)
    assert result.dtype == np.float32
    assert result.shape == (60, len(encoder.get_feature_names_out()))
    assert np.isfinite(result).all()
    one = np.concatenate([encoder.transform(X[i : i + 1]) for i in range(60)])
    np.testing.assert_array_equal(one, result)
    # What was learned is all that there is.
    back = clone(encoder).restore(encoder.arrays, X.shape[1])
    np.testing.assert_array_equal(back.transform(X), result)


@each_of_numbers
@pytest.mark.parametrize(
    "X",
    [[[2.0, 1.0]], [[NANS, 1.0], [NANS, 2.0], [NANS, NANS]]],
    ids=["one row", "all missing"],
)
def test_rows_that_tell_little(encoder: Any, X: Any) -> None:
    result = (
        clone(encoder).fit(X).transform([[2.0, 1.5], [NANS, NANS], [1e300, -1e300]])
    )
    assert np.isfinite(result).all()


@each_of_numbers
def test_infinite_numbers_are_named(encoder: Any) -> None:
    rows = np.array([[1.0, 2.0], [1.0, -np.inf]])
    message = (
        f"{type(encoder).__name__}: the column 1 is infinite in row 1; make NaN of it"
    )
    with pytest.raises(ValueError, match=message):
        clone(encoder).fit(np.eye(2)).transform(rows)


def test_names_of_columns() -> None:
    X = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, NANS, 3.0, 3.0]})
    names = {
        RobustSmoothClip(): ["a", "b"],
        PiecewiseLinear(2): ["a_piece0", "a_piece1"],
        MissingMarks(): ["b_missing"],
    }
    for encoder, expected in names.items():
        assert encoder.fit(X).get_feature_names_out().tolist() == expected
    frame: Any = RobustSmoothClip().set_output(transform="pandas").fit_transform(X)
    assert [*frame.columns] == ["a", "b"]


def test_robust_scaling_is_that_of_realmlp() -> None:
    X = numbers()
    other = numbers(300, seed=1)
    distance = np.quantile(X, 0.75, axis=0) - np.quantile(X, 0.25, axis=0)
    distance = np.where(distance == 0, 0.5 * (X.max(axis=0) - X.min(axis=0)), distance)
    factor = np.divide(1, distance, out=np.zeros(6), where=distance != 0)
    z = factor * (other - np.median(X, axis=0))
    expected = z / np.sqrt(1 + (z / 3) ** 2)
    encoder = RobustSmoothClip().fit(X)
    np.testing.assert_allclose(encoder.transform(other), expected, rtol=1e-6, atol=1e-6)
    X[:, 3] = [0.0] * 400 + [1.0, 3.0] * 50
    assert RobustSmoothClip().fit(X).factor_[3] == 2 / 3


def pieces_by_the_formula(x: Any, edges: Any) -> Any:
    pieces = [np.clip((x - low) / (high - low), 0, 1) for low, high in pairwise(edges)]
    return np.stack(pieces, axis=-1)


def test_pieces_are_those_of_the_formula() -> None:
    X = numbers()
    other = numbers(300, seed=1)
    encoder = PiecewiseLinear(n_bins=8).fit(X)
    result = encoder.transform(other)
    first = 0
    start = 0
    short = np.empty((300, 5), np.float32)
    encoder.write_short(other, short)
    for j, n in enumerate(encoder.n_pieces_):
        edges = encoder.edges_[start : start + n + 1]
        if n:
            expected = pieces_by_the_formula(other[:, j], edges)
            np.testing.assert_allclose(
                result[:, first : first + n], expected, rtol=0, atol=1e-6
            )
            # The short form says the same.
            pieces = np.clip(short[:, j, None] - np.arange(n), 0, 1)
            np.testing.assert_allclose(pieces, expected, rtol=0, atol=1e-6)
            first = first + n
            start = start + n + 1
    assert first == result.shape[1] > 0
    assert start == len(encoder.edges_)
    assert encoder.n_pieces_[5] == 0


def edges_of(values: Any, n_bins: int) -> list[float]:
    return PiecewiseLinear(n_bins).fit(np.array(values, float)[:, None]).edges_.tolist()


def test_edges_are_frequent_numbers_and_quantiles() -> None:
    assert edges_of([0, 1, 0, 1], 8) == []
    assert edges_of([3, 1, 2, 1], 8) == [1, 2, 3]
    assert edges_of([1, 2, 3, 4], 3) == [1, 2, 3, 4]
    # Of 100 rows 10 are a piece's: 0 and 50 are in more, and the others share 8 pieces.
    values = [0] * 20 + [50] * 15 + [*range(1, 50)] + [*range(51, 67)]
    rest = [*range(1, 50), *range(51, 67)]
    expected = {0.0, 50.0, *np.quantile(rest, np.linspace(0, 1, 9)).tolist()}
    assert edges_of(values, 10) == sorted(expected)
    # At most half of the pieces are for frequent numbers, the most frequent ones.
    values = [*np.repeat(np.arange(5), 20), *range(10, 20)]
    rest = [*[4] * 20, *range(10, 20)]
    expected = {
        0.0,
        1.0,
        2.0,
        3.0,
        *np.quantile(rest, [0, 0.25, 0.5, 0.75, 1]).tolist(),
    }
    assert edges_of(values, 8) == sorted(expected)


def test_frequent_and_missing_numbers_have_pieces() -> None:
    values = np.r_[np.arange(93.0), np.repeat(50.5, 7)]
    assert edges_of(values, 10) == np.quantile(values, np.linspace(0, 1, 11)).tolist()
    assert 50.5 not in edges_of(values, 10)
    assert 50.5 in edges_of(np.r_[values, np.repeat(50.5, 5)], 10)
    X = np.array([[1.0], [2.0], [NANS], [4.0], [8.0]])
    encoder = PiecewiseLinear(8).fit(X)
    np.testing.assert_array_equal(
        encoder.transform([[NANS]]), encoder.transform([[3.0]])
    )


def test_integers_are_levels_if_they_are_few() -> None:
    levels = np.repeat(np.array([1.0, 2, 9, 4, NANS]), [9, 9, 5, 4, 3])
    X = np.stack([levels, levels + 0.5, np.arange(30) % 2, np.arange(30)], axis=1)
    encoder = IntegerLevels(n_bins=4).fit(X)
    assert encoder.n_pieces_.tolist() == [3, 0, 0, 0]
    # Missing is the median, 2; a rare level, or a new number, the nearest level.
    nearest: Any = [[1], [2], [9], [4], [NANS], [-1e308], [1e308], [5.5], [1.49]]
    result = encoder.transform(np.repeat(nearest, 4, axis=1))
    assert result.argmax(axis=1).tolist() == [0, 1, 2, 1, 1, 0, 2, 2, 0]
    assert (result.sum(axis=1) == 1).all()
    assert IntegerLevels(n_bins=3).fit(X).n_outputs == 0


def codes(n: int = 400, seed: int = 0) -> Any:
    """Columns: 4 levels, 2 levels, 30 levels and missing ones,
    one level and missing ones.
    """
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 4, n), rng.integers(0, 2, n), rng.integers(-1, 30, n)]
    return np.stack([*columns, rng.integers(-1, 1, n)], axis=1).astype(np.int32)


def test_one_hot_of_levels() -> None:
    X = codes()[:, [0, 2]]
    peer = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(X)
    result = OneHotLevels(min_rows=1).fit(X).transform(X)
    expected = peer.transform(X)
    # Theirs begins with the missing ones, and ours ends with them.
    order = [*range(4), *range(5, 35), 4]
    np.testing.assert_array_equal(result, expected[:, order])
    X = np.array([[0]] * 6 + [[1]] * 3 + [[2]] * 2 + [[-1]] * 4)
    result = OneHotLevels(min_rows=3).fit(X)
    assert result.get_feature_names_out().tolist() == ["x0_0", "x0_1", "x0_missing"]
    one_hot = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(result.transform([[0], [1], [2], [-1], [9]]), one_hot)
    # The most frequent one, and no column for few missing ones.
    result = OneHotLevels(max_levels=1, min_rows=5).fit(X)
    assert result.transform([[0], [1], [-1], [9]]).tolist() == [[1], [0], [0], [0]]
    X = np.array([[0], [1], [1], [0], [1]])
    result = OneHotLevels(min_rows=1).fit(X).transform([[0], [1], [-1], [5]])
    assert result.tolist() == [[-1], [1], [0], [0]]
    with_missing = OneHotLevels(min_rows=1).fit([*X, [-1]]).transform([[0], [1], [-1]])
    assert with_missing.tolist() == [[-1, 0], [1, 0], [0, 1]]


def standardized(table: Any, rows: Any) -> Any:
    return (table - rows.mean(axis=0)) / rows.std(axis=0)


TARGETS: dict[str, Any] = {
    "regression": ("continuous", lambda X, rng: X[:, 0] + rng.normal(size=len(X))),
    "two classes": (
        "binary",
        lambda X, rng: (X[:, 0] + rng.normal(size=len(X)) > 1) * 1,
    ),
    "classes": (
        "multiclass",
        lambda X, rng: np.digitize(X[:, 0] + rng.normal(size=len(X)), [1, 2]),
    ),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_statistics_are_those_of_scikit_learn(kind: str) -> None:
    X = codes()[:, :3]
    (peers, make) = TARGETS[kind]
    y = make(X, np.random.default_rng(1))
    encoder = TargetStatistics(random_state=0).fit(X, y)
    peer = TargetEncoder(smooth=10.0, target_type=peers).fit(X, y)
    rows = np.array([[0, 1, 5], [3, 0, -1], [9, 9, 0]])
    n = encoder.n_outputs // 3 - 1
    means = encoder.transform(rows).reshape(3, 3, n + 1)[:, :, :n].reshape(3, -1)
    expected = standardized(peer.transform(rows), peer.transform(X))
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-5)
    counts = np.log1p([(row == X).sum(axis=0) for row in rows])
    of_rows = np.log1p([(row == X).sum(axis=0) for row in X])
    np.testing.assert_allclose(
        encoder.transform(rows)[:, n :: n + 1],
        standardized(counts, of_rows),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("target", [0.1, 1e6 / 3, -7e-9])
def test_statistics_that_differ_by_rounding_alone_are_zeros(target: float) -> None:
    X = codes()[:, :3]
    result = (
        TargetStatistics(random_state=0).fit(X, np.full(len(X), target)).transform(X)
    )
    assert np.abs(result[:, ::2]).max() < 1e-6


@pytest.mark.parametrize("kind", TARGETS)
def test_training_rows_have_the_statistics_of_other_folds(kind: str) -> None:
    X = codes()[:, :3]
    (peers, make) = TARGETS[kind]
    y = make(X, np.random.default_rng(1))
    encoder = TargetStatistics(random_state=0)
    result = encoder.fit_transform(X, y)
    n = encoder.n_outputs // 3 - 1
    whole = TargetEncoder(smooth=10.0, target_type=peers).fit(X, y).transform(X)
    folds = encoder._folds(len(X), encoder._targets(y, len(X), "test"))
    assert np.bincount(folds).tolist() == [80] * 5
    expected = np.empty_like(whole)
    for fold in range(5):
        rest = folds != fold
        peer = TargetEncoder(smooth=10.0, target_type=peers).fit(X[rest], y[rest])
        expected[~rest] = peer.transform(X[~rest])
    means = result.reshape(len(X), 3, n + 1)[:, :, :n].reshape(len(X), -1)
    expected = (expected - whole.mean(axis=0)) / whole.std(axis=0)
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-5)
    # The learned statistics are those of `fit`, and counts are the same in both.
    np.testing.assert_array_equal(encoder.table_, clone(encoder).fit(X, y).table_)
    counts = encoder.transform(X)[:, n :: n + 1]
    np.testing.assert_allclose(result[:, n :: n + 1], counts, atol=1e-6)


@pytest.mark.parametrize("encoder", OF_CODES, ids=repr)
def test_what_every_encoder_of_codes_does(encoder: Any) -> None:
    X = codes()
    y = X[:, 0] * 1.0
    encoder = clone(encoder)
    result = encoder.fit(X, y).transform(X)
    assert result.dtype == np.float32
    assert result.shape == (400, len(encoder.get_feature_names_out()))
    one = np.concatenate([encoder.transform(X[i : i + 1]) for i in range(20)])
    np.testing.assert_array_equal(one, result[:20])
    back = clone(encoder).restore(encoder.arrays, 4)
    np.testing.assert_array_equal(back.transform(X), result)
    for few in ([[0, 1]], [[-1, -1]]):
        assert np.isfinite(
            clone(encoder).fit_transform(np.array(few), np.ones(1))
        ).all()


@pytest.mark.parametrize("encoder", OF_CODES, ids=repr)
def test_codes_may_be_whole_floats_and_nan(encoder: Any) -> None:
    codes = np.array([[0], [1], [2], [-1]] * 8)
    y = np.arange(32.0)
    of_floats = OrdinalEncoder().fit_transform(
        np.array([["a"], ["b"], ["c"], [NANS]] * 8, object)
    )
    results = [clone(encoder).fit(X, y).transform(X) for X in (codes, of_floats)]
    np.testing.assert_array_equal(*results)
