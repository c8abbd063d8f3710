"""Standardizer against scikit-learn's scalers; fold: nets of unscaled columns."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skl2onnx
from fitting import unconverged
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

import fastmlp
from fastmlp import (
    MLP,
    Blocks,
    MLPClassifier,
    MLPRegressor,
    Quantile,
    Standardizer,
    fold,
)
from fastmlp.data import standardizer
from fastmlp.data.standardizer import Sample

pytestmark = unconverged

# Wrong types on purpose.
# mypy: disable-error-code="arg-type"


rng = np.random.default_rng(0)
N = 3000
# Large means, long tails, few values, one value, one value that has no float exactly.
X = np.column_stack(
    [
        rng.normal(1e6, 1e-2, N),
        rng.lognormal(3, 2, N),
        rng.integers(0, 3, N),
        np.full(N, 7.0),
        np.full(N, 0.1),
        rng.normal(0, 1e-200, N),
    ]
)
NAMES = [*"abcdef"]


class Stored:
    block_sizes = (1000, 0, 1, 1999)

    def read(self, i: int) -> tuple[Any, Any]:
        start = sum(self.block_sizes[:i])
        rows = X[start : start + self.block_sizes[i]]
        return rows, rows[:, 0]


def stream() -> Iterator[tuple[Any, ...]]:
    blocks = Stored()
    return (blocks.read(i) for i in range(4))


FRAME = pd.DataFrame(X, columns=NAMES)
SOURCES: dict[str, Any] = {
    "an array": lambda: X,
    "a list of rows": lambda: X.tolist(),
    "a transposed array": lambda: np.asfortranarray(X),
    "pandas": lambda: FRAME,
    "polars": lambda: pl.DataFrame(X, schema=NAMES),
    "arrow": lambda: pa.table(FRAME),
    "blocks": Stored,
    "a function": lambda: stream,
    "a generator": stream,
    "a list of blocks": lambda: [X[:7], X[7:]],
    "a list of pairs": lambda: [(X[:7], None), (X[7:], None)],
    "batches": lambda: pa.table(FRAME).to_batches(max_chunksize=700),
}


@pytest.mark.parametrize("form", SOURCES)
def test_moments_are_those_of_scikit_learn(form: str) -> None:
    scaler = Standardizer().fit(SOURCES[form]())
    peer = StandardScaler().fit(X)
    assert scaler.n_rows == N
    np.testing.assert_allclose(scaler.center, peer.mean_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, peer.scale_, rtol=1e-12)
    expected = peer.transform(X)
    # One bit of a mean of 1e6 is 1.2e-8 of a deviation of 1e-2.
    np.testing.assert_allclose(scaler.transform(X), expected, rtol=1e-12, atol=2e-8)
    named = form in ("pandas", "polars", "arrow", "batches")
    assert scaler.feature_names == (tuple(NAMES) if named else None)


@pytest.mark.parametrize("form", SOURCES)
def test_quartiles_are_those_of_scikit_learn(form: str) -> None:
    scaler = Standardizer(robust=True).fit(SOURCES[form]())
    peer = RobustScaler().fit(X)
    np.testing.assert_allclose(scaler.center, peer.center_, rtol=1e-12)
    np.testing.assert_allclose(scaler.scale, peer.scale_, rtol=1e-12)
    expected = peer.transform(X)
    np.testing.assert_allclose(scaler.transform(X), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("robust", [False, True])
def test_parts_are_the_whole(robust: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standardizer, "SAMPLE", 500)
    whole = Standardizer(robust=robust, seed=3).fit(X)
    parts = Standardizer(robust=robust, seed=3)
    for start in range(0, N, 97):
        parts.partial_fit(X[start : start + 97])
        if start == 970:
            parts = pickle.loads(pickle.dumps(copy.deepcopy(parts)))
    np.testing.assert_allclose(parts.center, whole.center, rtol=1e-13)
    np.testing.assert_allclose(parts.scale, whole.scale, rtol=1e-11)
    assert parts.fit(X).center.tobytes() == whole.center.tobytes()


def test_a_sample_takes_every_row_with_the_same_chance() -> None:
    taken = np.zeros(60)
    for seed in range(2000):
        sample = Sample(20, np.random.default_rng(seed))
        for block in np.split(np.arange(60.0)[:, None], [5, 33, 34]):
            sample.add(block)
        rows = sample.rows()[:, 0].astype(int)
        assert len({*rows}) == 20
        taken[rows] += 1
    # Each of 60 rows is in a third of the samples; five standard deviations.
    assert np.abs(taken - 2000 / 3).max() < 5 * np.sqrt(2000 * 2 / 9)


def far_float32() -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(1000, 1, (300_000, 1)).astype(np.float32)


def test_float32_is_summed_in_float64() -> None:
    x = far_float32()
    scaler = Standardizer().fit(x)
    wide = x.astype(float)
    np.testing.assert_allclose(scaler.center, wide.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(scaler.scale, wide.std(axis=0), rtol=1e-11)


def test_float32_stays_float32() -> None:
    x = far_float32()
    scaler = Standardizer().fit(x)
    scaled = scaler.transform(x)
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous
    assert abs(scaled.mean(dtype=float)) < 1e-6


def test_columns_are_found_by_name() -> None:
    scaler = Standardizer().fit(FRAME)
    mixed = FRAME[NAMES[::-1]].assign(id="u")
    assert scaler.transform(mixed).tobytes() == scaler.transform(FRAME).tobytes()
    assert scaler.partial_fit(mixed).n_rows == 2 * N


def test_a_column_that_is_missing_is_named() -> None:
    scaler = Standardizer().fit(FRAME)
    words = r"transform: X lacks 1 of the 6 known columns: 'a'$"
    with pytest.raises(ValueError, match=words):
        scaler.transform(FRAME.drop(columns="a"))


def test_the_target_of_blocks_is_left_out() -> None:
    blocks = Blocks.from_arrow(pa.table(FRAME), target="a", rows=500)
    scaler = Standardizer().fit(blocks)
    assert scaler.feature_names == (*"bcdef",)
    np.testing.assert_allclose(scaler.center, X[:, 1:].mean(axis=0), rtol=1e-12)


def test_its_text_has_its_settings() -> None:
    scaler = Standardizer(robust=True)
    assert repr(scaler) == "Standardizer(robust=True)"
    assert repr(scaler.fit(X)) == "<Standardizer(robust=True): 6 columns, 3000 rows>"


def test_the_estimator_of_a_net_is_folded() -> None:
    net = MLP((4, 6, 1), dtype="float64").as_estimator(epochs=2, random_state=0)
    model = make_pipeline(StandardScaler(), net).fit(FRAME_FOLDED, Y)
    expected = model.predict(FRAME_FOLDED)
    np.testing.assert_allclose(fold(model).predict(FRAME_FOLDED), expected, rtol=1e-9)
    np.testing.assert_allclose(model.predict(FRAME_FOLDED), expected, rtol=0)


N_FOLDED = 200
X_FOLDED = rng.normal([50, -3, 0, 1000], [20, 0.1, 1e-3, 300], (N_FOLDED, 4))
Y = X_FOLDED[:, 0] / 10 + X_FOLDED[:, 3] / 100
LABELS = np.where(np.median(Y) < Y, "high", "low")
FRAME_FOLDED = pd.DataFrame(X_FOLDED, columns=[*"abcd"])
SMALL: dict[str, Any] = {"hidden_layer_sizes": (8, 4), "random_state": 0, "max_iter": 5}
SCALERS: list[Any] = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler((-1, 2)),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False),
    RobustScaler(with_scaling=False),
    Standardizer(),
    Standardizer(robust=True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_a_net(scaler: Any, dtype: Any, tmp_path: Path) -> None:
    fitted = copy.deepcopy(scaler).fit(FRAME_FOLDED)
    net = MLP((4, 8, 1), activation="tanh", dtype=dtype, seed=0)
    net.fit(fitted.transform(FRAME_FOLDED), Y, epochs=2)
    before = net.parameters.copy()
    whole = fold(net, fitted)
    expected = net.predict(fitted.transform(FRAME_FOLDED))
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(
        whole.predict(X_FOLDED), expected, rtol=tolerance, atol=tolerance
    )
    assert net.parameters.tobytes() == before.tobytes()
    assert whole.feature_names == (*"abcd",)
    assert (
        whole.predict(FRAME_FOLDED[[*"dcba"]]).tobytes()
        == whole.predict(X_FOLDED).tobytes()
    )
    assert (whole.n_steps, net.n_steps) == (0, 14)
    whole.save(tmp_path / "net")
    assert (
        MLP.load(tmp_path / "net").predict(FRAME_FOLDED).tobytes()
        == whole.predict(X_FOLDED).tobytes()
    )


def test_quantiles_are_scaled_back_by_the_scaler_of_their_target() -> None:
    of_X = Standardizer().fit(FRAME_FOLDED)
    of_y = Standardizer.known([40.0], [25.0])
    net = MLP((4, 8, 3), loss=Quantile([0.1, 0.5, 0.9]), dtype="float64", seed=0)
    expected = 40.0 + 25.0 * net.predict(of_X.transform(FRAME_FOLDED))
    whole = fold(net, of_X, of_y)
    np.testing.assert_allclose(whole.predict(X_FOLDED), expected, rtol=1e-11)
    with pytest.raises(ValueError, match="scales 3 columns, but the net has 1 target"):
        fold(net, of_X, Standardizer.known([0.0] * 3, [1.0] * 3))


def test_a_pipeline() -> None:
    nested = make_pipeline(RobustScaler(), MaxAbsScaler())
    steps = [
        ("first", StandardScaler()),
        ("none", "passthrough"),
        ("nested", nested),
        ("no", None),
    ]
    model = Pipeline([*steps, ("net", MLPClassifier(**SMALL))]).fit(
        FRAME_FOLDED, LABELS
    )
    whole = fold(model)
    assert type(whole) is MLPClassifier
    expected = model.predict_proba(FRAME_FOLDED)
    np.testing.assert_allclose(whole.predict_proba(FRAME_FOLDED), expected, rtol=1e-10)
    assert (whole.predict(FRAME_FOLDED) == model.predict(FRAME_FOLDED)).all()
    assert [*whole.feature_names_in_] == [*"abcd"]
    whole.partial_fit(FRAME_FOLDED, LABELS)


def scaled_regressor() -> Any:
    return make_pipeline(StandardScaler(), MLPRegressor(**SMALL)).fit(X_FOLDED, Y)


def test_a_folded_model_has_a_file(tmp_path: Path) -> None:
    model = scaled_regressor()
    path = tmp_path / "model"
    fastmlp.save(fold(model), path, include_training_state=True)
    result = fastmlp.load(path).predict(X_FOLDED)
    np.testing.assert_allclose(result, model.predict(X_FOLDED), rtol=1e-10)


def test_a_folded_model_is_exported_to_onnx() -> None:
    model = scaled_regressor()
    graph = skl2onnx.to_onnx(fold(model), X_FOLDED[:1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (result,) = session.run(None, {"X": X_FOLDED})
    np.testing.assert_allclose(result[:, 0], model.predict(X_FOLDED), rtol=1e-10)


@pytest.mark.parametrize(
    "transformer", [StandardScaler(), MinMaxScaler(), MaxAbsScaler(), None]
)
def test_scaled_targets(transformer: Any) -> None:
    inner = make_pipeline(StandardScaler(), MLPRegressor(**SMALL))
    for targets in (Y, np.column_stack([Y, 100 * X_FOLDED[:, 1], -Y])):
        model = TransformedTargetRegressor(inner, transformer=transformer).fit(
            X_FOLDED, targets
        )
        whole = fold(model)
        np.testing.assert_allclose(
            whole.predict(X_FOLDED), model.predict(X_FOLDED), rtol=1e-9, atol=1e-9
        )
    net = MLP((4, 6, 1), dtype="float64").as_estimator(epochs=2, random_state=0)
    for regressor in (MLPRegressor(**SMALL), net):
        alone = TransformedTargetRegressor(regressor, transformer=StandardScaler())
        expected = alone.fit(X_FOLDED, Y).predict(X_FOLDED)
        np.testing.assert_allclose(fold(alone).predict(X_FOLDED), expected, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:column 2 of y has mean")
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_scaled_targets_of_a_net(scaler: Any, n_outputs: int) -> None:
    targets = np.column_stack([Y, 100 * X_FOLDED[:, 1], 1e6 - Y])[:, :n_outputs]
    of_y = copy.deepcopy(scaler).fit(targets)
    of_x = Standardizer().fit(X_FOLDED)
    net = MLP((4, 6, n_outputs), dtype="float64", seed=0)
    net.fit(of_x.transform(X_FOLDED), of_y.transform(targets), epochs=2)
    scaled = net.predict(of_x.transform(X_FOLDED))
    whole = fold(net, of_x, of_y)
    np.testing.assert_allclose(of_y.transform(whole.predict(X_FOLDED)), scaled, 1e-6)
    alone = fold(net, target_scaler=of_y)
    rows = of_x.transform(X_FOLDED)
    np.testing.assert_allclose(alone.predict(rows), whole.predict(X_FOLDED), 1e-9)


def test_a_known_scaling_is_that_of_the_one_that_learned_it(tmp_path: Path) -> None:
    learned = Standardizer().fit(X_FOLDED)
    scaler = Standardizer.known(learned.center, learned.scale)
    again = pickle.loads(pickle.dumps(copy.deepcopy(scaler)))
    for it in (scaler, again):
        np.testing.assert_array_equal(
            it.transform(X_FOLDED), learned.transform(X_FOLDED)
        )
        assert repr(it) == "<Standardizer.known: 4 columns>"
    net = MLP((4, 3, 1), seed=0)
    whole = fold(net, again)
    assert whole.parameters.tobytes() == fold(net, learned).parameters.tobytes()
    whole.save(tmp_path / "net")
    loaded = MLP.load(tmp_path / "net").predict(X_FOLDED)
    assert loaded.tobytes() == whole.predict(X_FOLDED).tobytes()
    assert again.fit(X_FOLDED).n_rows == N_FOLDED


def test_a_column_whose_spread_is_lost() -> None:
    x = np.column_stack([rng.normal(1e9, 1, 50), rng.normal(0, 1, 50)])
    scaler = Standardizer().fit(x)
    words = (
        r"fold: rounding of column 0 to float32 changes its scaled values by up to \d"
    )
    with pytest.warns(RuntimeWarning, match=words):
        fold(MLP((2, 1), seed=0), scaler)
    fold(MLP((2, 1), seed=0, dtype="float64"), scaler)


def bowl(n_rows: int) -> tuple[Any, Any, Any]:
    """Rows of two columns of very different sizes, values and derivatives."""
    scale = np.array([1e-2, 1e3])
    rows = np.random.default_rng(1).uniform(-1, 1, (n_rows, 2))
    values = 40 * np.sin(2 * rows[:, 0]) * rows[:, 1] + 7
    by_rows = 40 * np.column_stack(
        [2 * np.cos(2 * rows[:, 0]) * rows[:, 1], np.sin(2 * rows[:, 0])]
    )
    return rows * scale, values, by_rows / scale


def test_derivatives_are_scaled_as_the_scaled_function_has_them() -> None:
    rows, values, derivatives = bowl(30)
    of_rows = Standardizer().fit(rows)
    of_values = Standardizer().fit(values[:, None])
    scaled = of_rows.scale_derivatives(derivatives, of_values)
    np.testing.assert_allclose(
        scaled, derivatives * of_rows.scale / of_values.scale, rtol=1e-15
    )
    back = of_rows.unscale_derivatives(scaled, of_values)
    np.testing.assert_allclose(back, derivatives, rtol=1e-15)
    several = of_rows.scale_derivatives(derivatives[:, None], of_values)
    np.testing.assert_array_equal(several[:, 0], scaled)


def test_unknown_derivatives_stay_in_float32() -> None:
    scaler = Standardizer.known([0, 0], [2, 4])
    given = np.array([[np.nan, 1]], np.float32)
    scaled = scaler.scale_derivatives(given)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, [[np.nan, 4]])


@pytest.mark.parametrize(
    ("derivatives", "targets", "words"),
    [
        (
            np.ones((3, 3)),
            None,
            r"shape \(n_rows, n_outputs, 2\), or \(n_rows, 2\), got",
        ),
        (np.ones((3, 4, 2)), [1, 2], r"shape \(n_rows, 2, 2\), got \(3, 4, 2\)"),
        (np.full((3, 2), np.inf), None, "must be finite, or NaN"),
    ],
)
def test_wrong_derivatives_are_refused(
    derivatives: Any, targets: Any, words: str
) -> None:
    scaler = Standardizer.known([0, 0], [2, 4])
    of_y = targets and Standardizer.known([0, 0], targets)
    with pytest.raises(ValueError, match=words):
        scaler.scale_derivatives(derivatives, of_y)


@pytest.mark.slow
def test_raw_derivatives_behind_a_scaler_give_the_worse_model() -> None:
    """And the Jacobian of the net with both scalers folded in meets the raw ones."""
    rows, values, derivatives = bowl(40)
    others, expected, slopes = bowl(400)
    of_rows = Standardizer().fit(rows)
    of_values = Standardizer().fit(values[:, None])
    scaled = of_rows.scale_derivatives(derivatives, of_values)
    errors, nets = [], []
    for given in (scaled, derivatives):
        net = MLP((2, 16, 16, 1), activation="tanh", dtype="float64", seed=0)
        net.fit(
            of_rows.transform(rows),
            of_values.transform(values[:, None]),
            derivatives=given,
            derivative_weight=1.0,
            epochs=400,
        )
        nets.append(fold(net, of_rows, of_values))
        error = np.ravel(nets[-1].predict(others)) - expected
        errors.append(float(np.sqrt(np.mean(error**2))))
    assert errors[0] < errors[1] / 10
    found = fastmlp.jacobian(nets[0], others)[:, 0] * of_rows.scale
    slopes = slopes * of_rows.scale
    assert np.abs(found - slopes).mean() < 0.2 * np.abs(slopes).mean()
