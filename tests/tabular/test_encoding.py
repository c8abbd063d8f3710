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
    y: Any = np.nan_to_num(values.numbers).sum(axis=1)
    if task == "classification":
        y = (y > 0) * 1
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
    expected = encoding.transform(other)
    # A piece and its fraction share one float32.
    np.testing.assert_allclose(result.toarray(), expected, rtol=0, atol=2e-6)
    pieces = encoding.arrays.get("pieces.n_pieces_", np.empty(0, int))
    assert result.pieces == tuple(pieces)
    # The column of two levels is plain; of numbers one has levels.
    integers = (6,) * ("max_integers" in settings)
    assert result.levels == (*integers, result.levels[-1])
    width = result.plain + len(result.pieces) + len(result.levels)
    assert result.values.shape[1] == width


def few_levels() -> tuple[Any, Any]:
    """Codes of columns of few levels, one beside each number; and the expanded rows."""
    rng = np.random.default_rng(0)
    places = np.arange(90)
    codes = np.stack(
        [
            places % 2,  # Two levels: -1 and 1.
            places % 3 - 1,  # The same, and missing values.
            np.zeros(90, int),
            np.where(places < 2, 0, 3),  # A rare level.
            places // 2,  # Rare levels alone: no input.
            places % 3,
        ],
        axis=1,
    )
    numbers = np.stack([rng.normal(size=90), places % 2.0, places * 1.0], axis=1)
    values = Values(numbers, codes.astype(np.int32))
    return codes, fitted({"target_levels": None}, values).expanded(values)


def test_columns_of_few_levels_are_plain() -> None:
    codes, result = few_levels()
    assert result.plain == 3 + 1 + 2 + 1 + 1
    assert result.levels == (3,)
    np.testing.assert_array_equal(result.values[:, 3], codes[:, 0] * 2 - 1)
    np.testing.assert_array_equal(result.values[:, -1], codes[:, 5])


def test_numbers_of_two_values_have_no_pieces() -> None:
    _, result = few_levels()
    assert result.pieces == (16, 16)


def test_expanded_columns_of_few_levels_are_one_hot() -> None:
    codes, result = few_levels()
    columns = [codes[:, [c]] for c in range(6)]
    expected = [OneHotLevels().fit_transform(column) for column in columns]
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
def test_inputs_are_finite(settings: dict[str, Any], task: Any) -> None:
    encoding = fitted(settings, rows(), task)
    result = encoding.transform(rows(50, seed=1))
    assert result.dtype == np.float32
    assert result.shape == (50, encoding.n_inputs)
    assert np.isfinite(result).all()


@each_setting
@pytest.mark.parametrize("task", ["regression", "classification"])
def test_it_comes_back_from_its_state(settings: dict[str, Any], task: Any) -> None:
    other = rows(50, seed=1)
    encoding = fitted(settings, rows(), task)
    dtypes = {array.dtype.str for array in encoding.arrays.values()}
    assert dtypes <= {"<f4", "<f8", "<i8"}
    content = json.loads(json.dumps(encoding.to_json()))
    back = Encoding.from_state(content, encoding.arrays)
    assert back == encoding
    np.testing.assert_array_equal(back.transform(other), encoding.transform(other))


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
    assert result.shape == expected.shape
    away = np.abs(result - expected).max(axis=0)
    if "target_levels" in settings:
        assert away.max() <= 2e-6
    else:
        (different,) = np.flatnonzero(away > 2e-6)
        assert away[different] > 0.1


def trained(rng: Any) -> Any:
    encoding = Encoding()
    return encoding.fit_expanded(rows(), np.arange(200.0), "regression", rng).toarray()


def test_inputs_are_those_of_their_seed() -> None:
    result = trained(0)
    np.testing.assert_array_equal(trained(0), result)
    assert (trained(1) != result).any()


def test_a_seed_may_stand_for_a_generator() -> None:
    np.testing.assert_array_equal(trained(np.random.default_rng(0)), trained(0))


def test_the_third_number_of_a_generator_is_the_seed_of_statistics() -> None:
    seed = int(np.random.default_rng(0).integers(2**31, size=3)[2])
    statistics = TargetStatistics(task="regression", random_state=seed)
    expected = statistics.fit_transform(rows().codes[:, 1:], np.arange(200.0))
    np.testing.assert_array_equal(trained(0)[:, 4:6], expected)


@each_setting
@pytest.mark.parametrize("kind", ["numbers", "codes"])
def test_tables_of_one_kind(settings: dict[str, Any], kind: str) -> None:
    values = rows()
    if kind == "numbers":
        values = values._replace(codes=values.codes[:, :0])
    else:
        values = values._replace(numbers=values.numbers[:, :0])
    encoding = fitted(settings, values)
    result = encoding.transform(values)
    one = [encoding.transform(values.part(slice(i, i + 1))) for i in range(9)]
    np.testing.assert_array_equal(np.concatenate(one), result[:9])


@each_setting
def test_one_row_is_learned_from(settings: dict[str, Any]) -> None:
    whole = rows()
    encoding = fitted(settings, whole.part([0]))
    assert np.isfinite(encoding.transform(whole)).all()


@each_setting
def test_no_rows_have_no_inputs(settings: dict[str, Any]) -> None:
    whole = rows()
    assert len(fitted(settings, whole).transform(whole.part(slice(0)))) == 0


Damage = Callable[[dict[str, Any]], Any]


def wrong_value(name: str, place: int, number: Any) -> Damage:
    """A damage: one number of an array is another."""
    return lambda arrays: arrays[name].__setitem__(place, number)


def wrong_array(name: str, content: Any) -> Damage:
    """A damage: an array is another."""
    return lambda arrays: arrays.update({name: content})


def without_first(name: str) -> Damage:
    return lambda arrays: arrays.update({name: arrays[name][1:]})


BROKEN: dict[str, list[Damage]] = {
    "an edge less": [without_first("pieces.edges_")],
    "pieces below 0": [wrong_value("pieces.n_pieces_", 0, -1)],
    "many pieces": [wrong_value("pieces.n_pieces_", 0, 2**62)],
    "a NaN": [wrong_value("scaled.center_", 0, np.inf)],
    "no medians": [lambda arrays: arrays.pop("pieces.medians_")],
    "a short table": [without_first("levels.values_")],
    "a level of -1": [wrong_value("levels.values_", 0, -1)],
    "many columns": [wrong_value("levels.columns_", 1, 2**40)],
    "starts that fall": [wrong_value("levels.starts_", 1, 2**40)],
    "a column below 0": [wrong_value("levels.columns", 0, -1)],
    "columns of floats": [wrong_array("levels.columns", np.zeros(2))],
    "another width": [wrong_array("scaled.factor_", np.zeros(2))],
    "one for all": [wrong_array("scaled.factor_", np.ones(1))],
    "no columns": [wrong_array("levels.columns", np.empty(0, int))],
    "another dtype": [wrong_array("pieces.medians_", np.zeros(3, np.float32))],
    "marks beyond": [wrong_value("missing.columns_", 0, 3)],
    "marks below 0": [wrong_value("missing.columns_", 0, -1)],
    "rows of no numbers": [
        wrong_array("statistics.table_", np.empty((1 << 40, 0), np.float32)),
        wrong_array("statistics.starts_", np.array([0, 1 << 40])),
    ],
    "more pieces than bins": [
        wrong_array("pieces.edges_", np.arange(150.0)),
        wrong_array("pieces.n_pieces_", np.array([149, 0, 0])),
    ],
    "nothing at all": [lambda arrays: arrays.clear()],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_arrays_of_a_file_are_checked(broken: str) -> None:
    encoding = fitted({}, rows())
    arrays = {name: array.copy() for name, array in encoding.arrays.items()}
    for damage in BROKEN[broken]:
        damage(arrays)
    with pytest.raises((TypeError, ValueError, LookupError)):
        Encoding.from_state(encoding.to_json(), arrays)


@pytest.mark.parametrize(
    ("starts", "columns", "words"),
    [
        # The differences are above 0, as the second one overflows.
        ([0, 2**62, -(2**62) - 1, 4], [0, 0, 0, 0], "do not fit their starts"),
        ([0, 2, 3, 4], [-2, -2, -2, -2], "more columns than levels"),
        ([0, 2, 3, 4], [0, 1, 0, 2], "must be its feature's"),
    ],
)
def test_tables_that_no_place_may_leave(
    starts: list[int], columns: list[int], words: str
) -> None:
    arrays = {
        "starts_": np.array(starts),
        "columns_": np.array(columns),
        "values_": np.ones(4, np.float32),
    }
    with pytest.raises(ValueError, match=words):
        OneHotLevels().restore(arrays, 3)


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
    peak = peak_of(lambda: Encoding.from_state(encoding.to_json(), arrays))
    assert peak < 4 * size + 1e5


@pytest.fixture
def no_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'sklearn'", name="sklearn.utils")
    monkeypatch.setattr(messages, "import_module", Mock(side_effect=error))


@pytest.mark.usefixtures("no_sklearn")
def test_encoders_ask_for_scikit_learn() -> None:
    message = (
        r"fastmlp\.tabular\.Encoding needs scikit-learn: pip install scikit-learn$"
    )
    with pytest.raises(ImportError, match=message):
        _ = tabular.Encoding


@pytest.mark.usefixtures("no_sklearn")
def test_encoders_are_listed_without_scikit_learn() -> None:
    names = {"Encoding", "PiecewiseLinear", "TargetStatistics", "Schema"}
    assert {*dir(tabular)} >= names


@pytest.mark.usefixtures("no_sklearn")
def test_an_unknown_name_is_one_without_scikit_learn_too() -> None:
    message = r"module 'fastmlp\.tabular' has no attribute 'Nets'"
    with pytest.raises(AttributeError, match=message):
        _ = tabular.Nets  # type: ignore[attr-defined]


NANS = np.nan
OF_NUMBERS = [
    RobustSmoothClip(),
    PiecewiseLinear(n_bins=4),
    MissingMarks(),
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


def with_gaps() -> Any:
    X = numbers(60)
    X[3, 0] = NANS
    X[5, 2] = NANS
    return X


@each_of_numbers
def test_an_encoder_of_numbers_has_finite_float32(encoder: Any) -> None:
    X = with_gaps()
    encoder = clone(encoder)
    result = encoder.fit(X).transform(X)
    assert result.dtype == np.float32
    assert result.shape == (60, len(encoder.get_feature_names_out()))
    assert np.isfinite(result).all()


@each_of_numbers
def test_an_encoder_of_numbers_has_the_same_bits_for_a_row(encoder: Any) -> None:
    X = with_gaps()
    encoder = clone(encoder).fit(X)
    one = [encoder.transform(X[i : i + 1]) for i in range(60)]
    np.testing.assert_array_equal(np.concatenate(one), encoder.transform(X))


@each_of_numbers
def test_an_encoder_of_numbers_comes_back_from_its_arrays(encoder: Any) -> None:
    X = with_gaps()
    encoder = clone(encoder).fit(X)
    back = clone(encoder).restore(encoder.arrays, X.shape[1])
    np.testing.assert_array_equal(back.transform(X), encoder.transform(X))


@each_of_numbers
@pytest.mark.parametrize(
    "X",
    [[[2.0, 1.0]], [[NANS, 1.0], [NANS, 2.0], [NANS, NANS]]],
    ids=["one row", "all missing"],
)
def test_rows_that_tell_little(encoder: Any, X: Any) -> None:
    new = [[2.0, 1.5], [NANS, NANS], [1e300, -1e300]]
    result = clone(encoder).fit(X).transform(new)
    assert np.isfinite(result).all()


@each_of_numbers
def test_infinite_numbers_are_named(encoder: Any) -> None:
    rows = np.array([[1.0, 2.0], [1.0, -np.inf]])
    message = (
        f"{type(encoder).__name__}: the column 1 is infinite in row 1; make NaN of it"
    )
    with pytest.raises(ValueError, match=message):
        clone(encoder).fit(np.eye(2)).transform(rows)


NAMED = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, NANS, 3.0, 3.0]})


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (RobustSmoothClip(), ["a", "b"]),
        (PiecewiseLinear(2), ["a_piece0", "a_piece1"]),
        (MissingMarks(), ["b_missing"]),
    ],
)
def test_names_of_columns(encoder: Any, expected: list[str]) -> None:
    assert clone(encoder).fit(NAMED).get_feature_names_out().tolist() == expected


def test_an_encoder_may_give_a_frame() -> None:
    encoder: Any = RobustSmoothClip().set_output(transform="pandas")
    assert [*encoder.fit_transform(NAMED).columns] == ["a", "b"]


def test_robust_scaling_is_that_of_realmlp() -> None:
    X = numbers()
    other = numbers(300, seed=1)
    first, third = np.quantile(X, [0.25, 0.75], axis=0)
    distance = third - first
    half_range = 0.5 * (X.max(axis=0) - X.min(axis=0))
    distance = np.where(distance == 0, half_range, distance)
    factor = np.divide(1, distance, out=np.zeros(6), where=distance != 0)
    z = factor * (other - np.median(X, axis=0))
    expected = z / np.sqrt(1 + (z / 3) ** 2)
    encoder = RobustSmoothClip().fit(X)
    np.testing.assert_allclose(encoder.transform(other), expected, rtol=1e-6, atol=1e-6)


def test_numbers_with_equal_quartiles_are_scaled_by_half_their_range() -> None:
    X = np.array([[0.0]] * 400 + [[1.0], [3.0]] * 50)
    assert RobustSmoothClip().fit(X).factor_ == 2 / 3


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
            own = result[:, first : first + n]
            np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6)
            # The short form says the same.
            pieces = np.clip(short[:, j, None] - np.arange(n), 0, 1)
            np.testing.assert_allclose(pieces, expected, rtol=0, atol=1e-6)
            first += n
            start += n + 1
    assert first == result.shape[1] > 0
    assert start == len(encoder.edges_)
    assert encoder.n_pieces_[5] == 0


def edges_of(values: Any, n_bins: int) -> list[float]:
    X = np.array(values, float)[:, None]
    return PiecewiseLinear(n_bins).fit(X).edges_.tolist()


def quantiles(values: Any, n_pieces: int) -> list[float]:
    return np.quantile(values, np.linspace(0, 1, n_pieces + 1)).tolist()


def test_edges_of_few_numbers_are_the_numbers() -> None:
    assert edges_of([3, 1, 2, 1], 8) == [1, 2, 3]
    assert edges_of([1, 2, 3, 4], 3) == [1, 2, 3, 4]


def test_two_numbers_have_no_edges() -> None:
    assert edges_of([0, 1, 0, 1], 8) == []


def test_frequent_numbers_are_edges() -> None:
    # Of 100 rows 10 are a piece's: 0 and 50 are in more, and the others share 8 pieces.
    rest = [*range(1, 50), *range(51, 67)]
    expected = {0.0, 50.0, *quantiles(rest, 8)}
    assert edges_of([0] * 20 + [50] * 15 + rest, 10) == sorted(expected)


def test_half_of_the_pieces_at_most_are_for_frequent_numbers() -> None:
    # The most frequent ones: 4 is with the rest.
    rest = [4] * 20 + [*range(10, 20)]
    expected = {0.0, 1.0, 2.0, 3.0, *quantiles(rest, 4)}
    values = [*np.repeat(np.arange(4), 20), *rest]
    assert edges_of(values, 8) == sorted(expected)


def test_a_number_is_frequent_by_more_than_a_piece_of_rows() -> None:
    values = np.r_[np.arange(93.0), np.repeat(50.5, 7)]
    assert edges_of(values, 10) == quantiles(values, 10)
    assert 50.5 not in edges_of(values, 10)
    assert 50.5 in edges_of(np.r_[values, np.repeat(50.5, 5)], 10)


def test_a_missing_number_has_the_pieces_of_the_median() -> None:
    X = np.array([[1.0], [2.0], [NANS], [4.0], [8.0]])
    encoder = PiecewiseLinear(8).fit(X)
    expected = encoder.transform([[3.0]])
    np.testing.assert_array_equal(encoder.transform([[NANS]]), expected)


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


def test_one_hot_levels_are_those_of_scikit_learn() -> None:
    X = codes()[:, [0, 2]]
    peer = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(X)
    result = OneHotLevels(min_rows=1).fit(X).transform(X)
    expected = peer.transform(X)
    # Theirs begins with the missing ones, and ours ends with them.
    order = [*range(4), *range(5, 35), 4]
    np.testing.assert_array_equal(result, expected[:, order])


# Six rows of a level, three and two of others, and four missing ones.
UNEQUAL = np.repeat([0, 1, 2, -1], [6, 3, 2, 4])[:, None]


def test_a_rare_level_has_no_column() -> None:
    encoder = OneHotLevels(min_rows=3).fit(UNEQUAL)
    assert encoder.get_feature_names_out().tolist() == ["x0_0", "x0_1", "x0_missing"]
    result = encoder.transform([[0], [1], [2], [-1]])
    assert result.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_an_unknown_level_is_missing() -> None:
    encoder = OneHotLevels(min_rows=3).fit(UNEQUAL)
    assert encoder.transform([[9]]).tolist() == [[0, 0, 1]]


def test_the_most_frequent_levels_have_columns() -> None:
    # Four missing ones are too few for a column.
    encoder = OneHotLevels(max_levels=1, min_rows=5).fit(UNEQUAL)
    result = encoder.transform([[0], [1], [-1], [9]])
    assert result.tolist() == [[1], [0], [0], [0]]


def test_two_levels_are_one_column() -> None:
    encoder = OneHotLevels(min_rows=1).fit([[0], [1], [1], [0], [1]])
    result = encoder.transform([[0], [1], [-1], [5]])
    assert result.tolist() == [[-1], [1], [0], [0]]


def test_two_levels_beside_missing_ones_are_two_columns() -> None:
    encoder = OneHotLevels(min_rows=1).fit([[0], [1], [1], [0], [1], [-1]])
    result = encoder.transform([[0], [1], [-1]])
    assert result.tolist() == [[-1, 0], [1, 0], [0, 1]]


# Known levels, unknown ones and a missing one.
ROWS = np.array([[0, 1, 5], [3, 0, -1], [9, 9, 0]])


def standardized(table: Any, rows: Any) -> Any:
    return (table - rows.mean(axis=0)) / rows.std(axis=0)


# scikit-learn's names of targets, and the numbers that part the classes.
TARGETS: dict[str, tuple[str, list[int]]] = {
    "regression": ("continuous", []),
    "two classes": ("binary", [1]),
    "classes": ("multiclass", [1, 2]),
}


def targets_of(X: Any, cuts: list[int]) -> Any:
    y = X[:, 0] + np.random.default_rng(1).normal(size=len(X))
    if cuts:
        return np.digitize(y, cuts)
    return y


def counts_of(rows: Any, X: Any) -> Any:
    """The logarithms of how often each row's levels stand in X."""
    return np.log1p([(row == X).sum(axis=0) for row in rows])


@pytest.mark.parametrize("kind", TARGETS)
def test_statistics_are_those_of_scikit_learn(kind: str) -> None:
    X = codes()[:, :3]
    target_type, cuts = TARGETS[kind]
    y = targets_of(X, cuts)
    encoder = TargetStatistics(random_state=0).fit(X, y)
    peer = TargetEncoder(smooth=10.0, target_type=target_type).fit(X, y)
    n = encoder.n_outputs // 3 - 1
    result = encoder.transform(ROWS).reshape(3, 3, n + 1)
    means = result[:, :, :n].reshape(3, -1)
    expected = standardized(peer.transform(ROWS), peer.transform(X))
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
def test_the_last_statistic_is_the_count_of_a_level(kind: str) -> None:
    X = codes()[:, :3]
    _, cuts = TARGETS[kind]
    encoder = TargetStatistics(random_state=0).fit(X, targets_of(X, cuts))
    n = encoder.n_outputs // 3 - 1
    counts = encoder.transform(ROWS)[:, n :: n + 1]
    expected = standardized(counts_of(ROWS, X), counts_of(X, X))
    np.testing.assert_allclose(counts, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [0.1, 1e6 / 3, -7e-9])
def test_statistics_that_differ_by_rounding_alone_are_zeros(target: float) -> None:
    X = codes()[:, :3]
    encoder = TargetStatistics(random_state=0).fit(X, np.full(len(X), target))
    result = encoder.transform(X)
    assert np.abs(result[:, ::2]).max() < 1e-6


@pytest.mark.parametrize("kind", TARGETS)
def test_training_rows_have_the_statistics_of_other_folds(kind: str) -> None:
    X = codes()[:, :3]
    target_type, cuts = TARGETS[kind]
    y = targets_of(X, cuts)
    encoder = TargetStatistics(random_state=0)
    result = encoder.fit_transform(X, y)
    n = encoder.n_outputs // 3 - 1
    peer = TargetEncoder(smooth=10.0, target_type=target_type)
    whole = peer.fit(X, y).transform(X)
    folds = encoder._folds(len(X), encoder._targets(y, len(X), "test"))
    assert np.bincount(folds).tolist() == [80] * 5
    expected = np.empty_like(whole)
    for fold in range(5):
        rest = folds != fold
        peer.fit(X[rest], y[rest])
        expected[~rest] = peer.transform(X[~rest])
    means = result.reshape(len(X), 3, n + 1)[:, :, :n].reshape(len(X), -1)
    expected = standardized(expected, whole)
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
def test_training_rows_have_the_counts_of_all_rows(kind: str) -> None:
    X = codes()[:, :3]
    _, cuts = TARGETS[kind]
    y = targets_of(X, cuts)
    encoder = TargetStatistics(random_state=0)
    result = encoder.fit_transform(X, y)
    np.testing.assert_array_equal(encoder.table_, clone(encoder).fit(X, y).table_)
    n = encoder.n_outputs // 3 - 1
    counts = encoder.transform(X)[:, n :: n + 1]
    np.testing.assert_allclose(result[:, n :: n + 1], counts, atol=1e-6)


each_of_codes = pytest.mark.parametrize("encoder", OF_CODES, ids=repr)


@each_of_codes
def test_an_encoder_of_codes_has_float32(encoder: Any) -> None:
    X = codes()
    encoder = clone(encoder)
    result = encoder.fit(X, X[:, 0] * 1.0).transform(X)
    assert result.dtype == np.float32
    assert result.shape == (400, len(encoder.get_feature_names_out()))


@each_of_codes
def test_an_encoder_of_codes_has_the_same_bits_for_a_row(encoder: Any) -> None:
    X = codes()
    encoder = clone(encoder).fit(X, X[:, 0] * 1.0)
    one = [encoder.transform(X[i : i + 1]) for i in range(20)]
    np.testing.assert_array_equal(np.concatenate(one), encoder.transform(X)[:20])


@each_of_codes
def test_an_encoder_of_codes_comes_back_from_its_arrays(encoder: Any) -> None:
    X = codes()
    encoder = clone(encoder).fit(X, X[:, 0] * 1.0)
    back = clone(encoder).restore(encoder.arrays, 4)
    np.testing.assert_array_equal(back.transform(X), encoder.transform(X))


@each_of_codes
@pytest.mark.parametrize("row", [[0, 1], [-1, -1]])
def test_an_encoder_of_codes_learns_from_a_row(encoder: Any, row: list[int]) -> None:
    result = clone(encoder).fit_transform(np.array([row]), np.ones(1))
    assert np.isfinite(result).all()


@each_of_codes
def test_codes_may_be_floats_whose_missing_value_is_nan(encoder: Any) -> None:
    codes = np.array([[0], [1], [2], [-1]] * 8)
    y = np.arange(32.0)
    texts = np.array([["a"], ["b"], ["c"], [NANS]] * 8, object)
    of_floats = OrdinalEncoder().fit_transform(texts)
    results = [clone(encoder).fit(X, y).transform(X) for X in (codes, of_floats)]
    np.testing.assert_array_equal(*results)
