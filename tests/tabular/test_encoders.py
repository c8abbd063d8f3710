"""The encoders beside their formulas, and beside scikit-learn's."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmlp.tabular import (
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RobustSmoothClip,
    TargetStatistics,
)
from fastmlp.tabular.number_encoders import CodeEncoder

NAN, INF = np.nan, np.inf
OF_NUMBERS = [RobustSmoothClip(), PiecewiseLinear(n_bins=4), MissingMarks()]
OF_CODES = [OneHotLevels(), TargetStatistics(random_state=0)]
each_of_numbers = pytest.mark.parametrize("encoder", OF_NUMBERS, ids=repr)


def numbers(n: int = 500, seed: int = 0) -> Any:
    """Columns: normal, far from 0, heavy tails, many zeros, whole numbers, one value."""
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
@parametrize_with_checks([*OF_NUMBERS, *OF_CODES], expected_failed_checks=expected_to_fail)
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@each_of_numbers
def test_what_every_encoder_of_numbers_does(encoder: Any) -> None:
    X = numbers(60)
    X[3, 0] = X[5, 2] = NAN
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
    "X", [[[2.0, 1.0]], [[NAN, 1.0], [NAN, 2.0], [NAN, NAN]]], ids=["one row", "all missing"]
)
def test_rows_that_tell_little(encoder: Any, X: Any) -> None:
    result = clone(encoder).fit(X).transform([[2.0, 1.5], [NAN, NAN], [1e300, -1e300]])
    assert np.isfinite(result).all()


@each_of_numbers
def test_infinite_numbers_are_named(encoder: Any) -> None:
    X = pandas.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    wrong = X.assign(b=[1.0, -INF])
    who = type(encoder).__name__
    advice = "make NaN of it, a missing value$"
    with pytest.raises(ValueError, match=f"{who}: the column 'b' is infinite in row 1; {advice}"):
        clone(encoder).fit(wrong)
    with pytest.raises(ValueError, match=f"{who}: the column 1 is infinite in row 1"):
        clone(encoder).fit(X.to_numpy()).transform(wrong.to_numpy())


def test_names_of_columns() -> None:
    X = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, NAN, 3.0, 3.0]})
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
    X, other = numbers(), numbers(300, seed=1)
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
    X, other = numbers(), numbers(300, seed=1)
    encoder = PiecewiseLinear(n_bins=8).fit(X)
    result, first, start = encoder.transform(other), 0, 0
    pieces = encoder.pieces(other)
    for j, n in enumerate(encoder.n_pieces_):
        edges = encoder.edges_[start : start + n + 1]
        if n:
            expected = pieces_by_the_formula(other[:, j], edges)
            np.testing.assert_allclose(result[:, first : first + n], expected, rtol=0, atol=1e-6)
            # The short form says the same.
            places, values = np.arange(n), pieces.piece[:, j, None]
            short = np.where(places == values, pieces.fraction[:, j, None], places < values)
            np.testing.assert_allclose(short, expected, rtol=0, atol=1e-6)
            first, start = first + n, start + n + 1
    assert first == result.shape[1] > 0
    assert start == len(encoder.edges_)
    assert encoder.n_pieces_[5] == 0
    assert pieces.piece.dtype == np.int32
    assert pieces.fraction.dtype == np.float32


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
    expected = {0.0, 1.0, 2.0, 3.0, *np.quantile(rest, [0, 0.25, 0.5, 0.75, 1]).tolist()}
    assert edges_of(values, 8) == sorted(expected)


def test_a_number_is_frequent_if_a_bin_cannot_hold_it() -> None:
    values = np.r_[np.arange(93.0), np.repeat(50.5, 7)]
    assert edges_of(values, 10) == np.quantile(values, np.linspace(0, 1, 11)).tolist()
    assert 50.5 not in edges_of(values, 10)
    assert 50.5 in edges_of(np.r_[values, np.repeat(50.5, 5)], 10)


def test_a_missing_number_has_the_pieces_of_the_median() -> None:
    X = np.array([[1.0], [2.0], [NAN], [4.0], [8.0]])
    encoder = PiecewiseLinear(8).fit(X)
    np.testing.assert_array_equal(encoder.transform([[NAN]]), encoder.transform([[3.0]]))
    assert encoder.pieces([[NAN]]) == encoder.pieces([[3.0]])


def codes(n: int = 400, seed: int = 0) -> Any:
    """Columns: 4 levels, 2 levels, 30 levels and missing ones, one level and missing ones."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, 4, n), rng.integers(0, 2, n), rng.integers(-1, 30, n)]
    return np.stack([*columns, rng.integers(-1, 1, n)], axis=1).astype(np.int32)


def test_one_hot_is_that_of_scikit_learn() -> None:
    X = codes()[:, [0, 2]]
    peer = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(X)
    result = OneHotLevels(min_rows=1).fit(X).transform(X)
    expected = peer.transform(X)
    # Theirs begins with the missing ones, and ours ends with them.
    order = [*range(4), *range(5, 35), 4]
    np.testing.assert_array_equal(result, expected[:, order])


def test_levels_that_are_rare_unknown_or_missing() -> None:
    X = np.array([[0]] * 6 + [[1]] * 3 + [[2]] * 2 + [[-1]] * 4)
    result = OneHotLevels(min_rows=3).fit(X)
    assert result.get_feature_names_out().tolist() == ["x0_0", "x0_1", "x0_missing"]
    one_hot = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(result.transform([[0], [1], [2], [-1], [9]]), one_hot)
    # The most frequent one, and no column for few missing ones.
    result = OneHotLevels(max_levels=1, min_rows=5).fit(X)
    assert result.transform([[0], [1], [-1], [9]]).tolist() == [[1], [0], [0], [0]]


def test_two_levels_are_one_column() -> None:
    X = np.array([[0], [1], [1], [0], [1]])
    result = OneHotLevels(min_rows=1).fit(X).transform([[0], [1], [-1], [5]])
    assert result.tolist() == [[-1], [1], [0], [0]]
    with_missing = OneHotLevels(min_rows=1).fit([*X, [-1]]).transform([[0], [1], [-1]])
    assert with_missing.tolist() == [[-1, 0], [1, 0], [0, 1]]


def standardized(table: Any, rows: Any) -> Any:
    return (table - rows.mean(axis=0)) / rows.std(axis=0)


TARGETS: dict[str, Any] = {
    "regression": ("continuous", lambda X, rng: X[:, 0] + rng.normal(size=len(X))),
    "two classes": ("binary", lambda X, rng: (X[:, 0] + rng.normal(size=len(X)) > 1) * 1),
    "classes": (
        "multiclass",
        lambda X, rng: np.digitize(X[:, 0] + rng.normal(size=len(X)), [1, 2]),
    ),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_statistics_are_those_of_scikit_learn(kind: str) -> None:
    X, (peers, make) = codes()[:, :3], TARGETS[kind]
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
        encoder.transform(rows)[:, n :: n + 1], standardized(counts, of_rows), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("target", [0.1, 1e6 / 3, -7e-9])
def test_statistics_that_differ_by_rounding_alone_are_zeros(target: float) -> None:
    X = codes()[:, :3]
    result = TargetStatistics(random_state=0).fit(X, np.full(len(X), target)).transform(X)
    assert np.abs(result[:, ::2]).max() < 1e-6


@pytest.mark.parametrize("kind", TARGETS)
def test_training_rows_have_the_statistics_of_other_folds(kind: str) -> None:
    X, (peers, make) = codes()[:, :3], TARGETS[kind]
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
    who = type(encoder).__name__
    with pytest.raises(ValueError, match=f"{who}: codes must be -1 or more, got -2"):
        encoder.transform(X - 1)
    for few in ([[0, 1]], [[-1, -1]]):
        assert np.isfinite(clone(encoder).fit_transform(np.array(few), np.ones(1))).all()


@pytest.mark.parametrize("encoder", OF_CODES, ids=repr)
def test_codes_may_be_whole_floats_and_nan(encoder: Any) -> None:
    codes, y = np.array([[0], [1], [2], [-1]] * 8), np.arange(32.0)
    of_floats = OrdinalEncoder().fit_transform(np.array([["a"], ["b"], ["c"], [NAN]] * 8, object))
    assert np.isnan(of_floats[3, 0])
    results = [clone(encoder).fit(X, y).transform(X) for X in (codes, of_floats)]
    np.testing.assert_array_equal(*results)
    for wrong, words in [
        (0.5, "got 0.5"),
        (np.inf, "contains infinity"),
        (-2.0, "-1 or more, got -2"),
    ]:
        with pytest.raises(ValueError, match=f"{type(encoder).__name__}: .*{words}"):
            clone(encoder).fit([[wrong]], [1.0])
    with pytest.raises(ValueError, match="X must hold codes of levels, integers"):
        clone(encoder).fit(np.array([["a"]], object), [1.0])
