"""The compiled loops and rules of columns beside NumPy and the encoders: the same
bits.
"""

from typing import Any

import numpy as np
import pytest

from fastmlp.rules.columns import BOUND, LARGEST_SCALED, NumberStep
from fastmlp.tabular import (
    MissingMarks,
    OneHotLevels,
    PiecewiseLinear,
    RisingSmoothClip,
    RobustSmoothClip,
    TargetStatistics,
    compiled,
)
from fastmlp.tabular.compiled import BLOCK_ROWS_OF_TABLES
from fastmlp.tabular.export import STEPS
from fastmlp.tabular.number_encoders import IntegerLevels

NAN = np.nan
# More than a block of rows, and some of the next one.
N = BLOCK_ROWS_OF_TABLES + 7


def numbers(n: int = N) -> Any:
    """Columns: normal, whole numbers, two values,
    with missing ones, and huge and tiny ones.
    """
    rng = np.random.default_rng(0)
    columns = [
        rng.normal(size=n),
        rng.integers(0, 9, n),
        rng.integers(0, 2, n),
        rng.normal(size=n),
        rng.choice([-1e308, -1e300, -1e-320, 0.0, 1e-300, 1e18, 1e308], n),
    ]
    X = np.stack(columns, axis=1)
    X[::5, 3] = NAN
    return X


def layouts(X: Any) -> list[Any]:
    wide = np.zeros((2 * len(X), 2 * X.shape[1]))
    wide[::2, ::2] = X
    return [np.asfortranarray(X), np.ascontiguousarray(X), wide[::2, ::2]]


def short(encoder: Any, X: Any) -> Any:
    out = np.full((len(X), len(encoder.spans) + 2), 7, np.float32)
    encoder.write_short(X, out[:, 1:-1])
    assert (out[:, [0, -1]] == 7).all()
    return out[:, 1:-1]


def pieces_of(encoder: PiecewiseLinear, X: Any) -> Any:
    """Each number's piece plus its share, by NumPy."""
    filled = np.where(np.isnan(X), encoder.medians_, X)
    first = 0
    columns = []
    for x, n in zip(filled.T, encoder.n_pieces_, strict=True):
        if n:
            edges = encoder.edges_[first : first + n + 1]
            piece = np.searchsorted(edges[1:-1], x, side="right")
            low = edges[piece]
            high = edges[piece + 1]
            with np.errstate(over="ignore", invalid="ignore"):
                shares = (np.clip(x, low, high) - low) / (high - low)
            shares = np.clip(np.nan_to_num(shares), 0, 1).astype(np.float32)
            columns.append(piece + shares)
            first += n + 1
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.mark.parametrize("n_bins", [1, 2, 16, 128])
@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS_OF_TABLES, N])
def test_pieces_in_short_have_the_bits_of_pieces(n_bins: int, n: int) -> None:
    known = numbers()
    encoder = PiecewiseLinear(n_bins=n_bins).fit(known)
    X = known[:n].copy()
    X[n // 2 :] *= 1.5
    if n:
        # An edge belongs to the piece above it.
        X[0, 0] = encoder.edges_[0]
        X[0, 1] = encoder.edges_[encoder.n_pieces_[0] + 1]
    assert not encoder.n_pieces_.all()
    expected = pieces_of(encoder, X)
    for given in layouts(X):
        np.testing.assert_array_equal(short(encoder, given), expected)
    narrow = X.clip(-1e30, 1e30).astype(np.float32)
    expected = short(encoder, narrow.astype(float))
    np.testing.assert_array_equal(short(encoder, narrow), expected)


def clipped(X: Any, center: Any, factor: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (X - center) * factor
    z = np.clip(scaled, -LARGEST_SCALED, LARGEST_SCALED).astype(np.float32)
    z[np.isnan(z)] = 0
    return z / np.sqrt(1 + np.square(z * np.float32(1 / BOUND)))


@pytest.mark.parametrize("n", [1, N])
def test_scaled_numbers_have_the_bits_of_the_formula(n: int) -> None:
    encoder = RobustSmoothClip().fit(numbers())
    X = numbers()[-n:]
    expected = clipped(X, encoder.center_, encoder.factor_)
    assert np.abs(expected).max() <= BOUND
    for given in layouts(X):
        np.testing.assert_array_equal(short(encoder, given), expected)


def codes(kind: Any) -> tuple[Any, Any]:
    """Codes to learn from, and new ones: known, unknown and missing."""
    rng = np.random.default_rng(0)
    X = np.stack([rng.integers(-1, n, 400) for n in (4, 1, 30)], axis=1)
    new = np.array([[0, 0, 0], [3, 1, 29], [4, 0, 30], [2, 0, 100], [-1, -1, -1]])
    if np.dtype(kind).kind == "u":
        return X.clip(0), new.clip(0)
    return X, new


each_kind = pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint64])


@each_kind
def test_levels_are_looked_up(kind: Any) -> None:
    X, new = codes(kind)
    encoder = OneHotLevels(min_rows=1).fit(X)
    result = short(encoder, new.astype(kind))
    first = 0
    whole = encoder.transform(new)
    for j, n in enumerate(encoder.spans):
        expected = np.where(np.arange(n) == result[:, [j]], 1, 0)
        np.testing.assert_array_equal(whole[:, first : first + n], expected)
        first += n


@each_kind
def test_statistics_are_looked_up(kind: Any) -> None:
    X, new = codes(kind)
    y = np.random.default_rng(1).normal(size=400)
    encoder = TargetStatistics(random_state=0).fit(X, y)
    is_known = new < np.diff(encoder.starts_) - 1
    rows = encoder.starts_[:-1] + np.where(is_known, new + 1, 0)
    expected = encoder.table_[rows].reshape(len(new), -1)
    np.testing.assert_array_equal(short(encoder, new.astype(kind)), expected)


LOWEST = -(2**31)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (np.array([-1, 0, 1, 2, LOWEST], np.int32), [7, 1, 2, 7, 7]),
        (np.array([-1, 0, 1, 2, LOWEST]) * 2**31, [7, 1, 7, 7, 7]),
    ],
    ids=["int32", "int64"],
)
def test_codes_that_no_table_has_are_taken_as_missing(
    codes: Any, expected: list[int]
) -> None:
    table = np.array([[7], [1], [2]], np.float32)
    out = np.empty((5, 1), np.float32)
    compiled.write_levels(codes[:, None], out, np.array([0]), np.array([3]), table)
    assert out.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("out", "n_medians"),
    [
        (np.empty((3, 2), np.float32), 2),
        (np.empty((2, 1), np.float32), 2),
        (np.empty((3, 1)), 2),
        (np.empty((3, 1), np.float32), 1),
    ],
    ids=["a column more", "a row less", "float64", "a median less"],
)
def test_pieces_are_not_written_beyond_the_ends(out: Any, n_medians: int) -> None:
    edges = np.arange(3.0)
    n_pieces = np.array([2, 0])
    with pytest.raises(ValueError, match="must"):
        compiled.write_pieces(
            np.zeros((3, 2)), out, edges, n_pieces, np.zeros(n_medians)
        )


def test_factors_are_not_read_beyond_the_ends() -> None:
    out = np.empty((3, 2), np.float32)
    with pytest.raises(ValueError, match="2 features must have as many numbers each"):
        compiled.write_clipped(np.zeros((3, 2)), out, np.zeros(2), np.zeros(3))


rng = np.random.default_rng(0)
NUMBERS = rng.choice([-1e300, -3.5, -1e-320, 0.0, 0.25, 1.0, 2.0, 1e18, 1e308], (60, 3))
NUMBERS[:, 1] = rng.normal(size=60)
NUMBERS[:, 2] = rng.integers(-1, 3, 60)
NUMBERS[rng.random((60, 3)) < 0.2] = np.nan


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "encoder",
    [
        RobustSmoothClip(),
        RisingSmoothClip(),
        MissingMarks(),
        PiecewiseLinear(n_bins=4),
        IntegerLevels(n_bins=4),
    ],
)
def test_a_rule_gives_the_bits_of_its_encoder(encoder: object) -> None:
    expected = encoder.fit(NUMBERS).transform(NUMBERS)  # type: ignore[attr-defined]
    step = STEPS[type(encoder)](encoder, np.arange(3))  # type: ignore[index]
    assert isinstance(step, NumberStep)
    for row, inputs in zip(NUMBERS, expected, strict=True):
        pairs = zip(row[step.columns], step.constants, strict=True)
        values = [step.function(x, *constants) for x, constants in pairs]
        assert {value.dtype for value in values} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(values, inputs)
