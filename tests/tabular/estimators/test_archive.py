"""Files of models of tables: bits after a file,
a pickle, the command; invalid content.
"""

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fitting import peak_of
from sklearn.base import clone
from sklearn.tree import DecisionTreeRegressor
from small_models import (
    FEW,
    classifier,
    drawn,
    regressor,
    reloaded,
    table_of,
    untrained,
)

import fastmlp
from fastmlp import FileError, TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.serialization import files
from fastmlp.tabular import boosted_trees, fitting
from fastmlp.tabular.extras import matrix
from fastmlp.tabular.settings import Preset

needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)
# Golden files: written once by the format in their name, and anew for another format.
GOLDEN = Path(__file__).parents[2] / "golden"
EXPECTED = json.loads((GOLDEN / "tables.json").read_text())


def golden_data(name: str) -> Any:
    if "trees" in name:
        # Levels that are unknown, and missing values, are among them.
        return [
            [i % 7, "xyzw"[i % 4], 1.5 * i if i % 4 else None, "uv"[i % 2]]
            for i in range(10)
        ]
    if "pairs" in name:
        # Columns of two levels at places beyond that of the one number.
        k = range(10)
        return [
            [i % 7 / 7, "xyz"[i % 3], "uv"[i * i % 7 > 2], i % 5 == 0, f"level {i}"]
            for i in k
        ]
    X = np.arange(180.0).reshape(60, 3) % 7 / 7
    X[::9, 1] = np.nan
    X[:, 2] = np.round(2 * X[:, 2])
    return X[:10]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_of_this_format_loads(name: str) -> None:
    model = fastmlp.load(GOLDEN / name)
    expected = EXPECTED[name]
    X = golden_data(name)
    assert repr(model).split() == expected["repr"].split()
    assert model.schema_.to_json() == expected["schema"]
    assert model.validation_score_ == expected["score"]
    assert model.weights_.tolist() == expected["weights"]
    # Sums of trees have the same bits on every machine.
    for _, trees in model.extra_members_:
        assert (
            trees.predict_raw(matrix(model.schema_.read(X))).tolist()
            == expected["trees"]
        )
    outputs = getattr(model, "predict_proba", model.predict)(X)
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-5)
    if "sets" in expected:
        assert model.predict_set(X, 0.8).tolist() == expected["sets"]
    if "interval" in expected:
        interval = model.predict_interval(X[:1], 0.8)
        quantiles = model.predict_quantiles(X[:1], [0.2, 0.5])
        np.testing.assert_allclose(interval, expected["interval"], rtol=1e-5)
        np.testing.assert_allclose(quantiles, expected["quantiles"], rtol=1e-5)


Header = dict[str, Any]
DAMAGES: list[tuple[str, Callable[[Header], Any], str]] = [
    ("classifier", lambda h: h["labels"]["values"].pop(), "classes must be 3 labels"),
    ("classifier", lambda h: h["labels"]["values"].reverse(), "sorted"),
    ("regressor", lambda h: h["pack"]["members"].clear(), "without members"),
    ("regressor", lambda h: h["schema"]["levels"].clear(), "beyond the columns"),
    ("regressor", lambda h: h["schema"].update(named=3), "named must be true"),
    (
        "regressor",
        lambda h: h["leaderboard"][0].insert(0, 1.5),
        r"leaderboard.0 must have 0, 1",
    ),
    (
        "regressor",
        lambda h: h["leaderboard"][0].reverse(),
        "leaderboard.0.0 must be str",
    ),
    ("regressor", lambda h: h["parameters"].update(cv=-3), "'cv' parameter"),
    ("regressor", lambda h: h["pack"]["outputs"].update(task="binary"), "binary"),
    (
        "regressor",
        lambda h: h["pack"]["outputs"].update(task="ranking"),
        "got 'ranking'",
    ),
    ("regressor", lambda h: h["pack"]["outputs"].update(scale=0.0), "a scale above 0"),
    ("regressor", lambda h: h["pack"]["outputs"].update(n_outputs=2), "a net of"),
    (
        "regressor",
        lambda h: h["pack"]["members"][0].update(encoding=7),
        "the encoding 7 of",
    ),
    (
        "regressor",
        lambda h: h["pack"]["members"][0].update(weight=1.5),
        "weight must be in",
    ),
    (
        "regressor",
        lambda h: h["pack"]["members"][0]["net"].update(layer_sizes=[3, 1]),
        "has 0 hid",
    ),
    (
        "regressor",
        lambda h: h["pack"]["encodings"][0].update(scaling="log"),
        "scaling 'log'",
    ),
    (
        "regressor",
        lambda h: h["pack"].update(validation_score=None),
        "score must be float",
    ),
    ("regressor", lambda h: h["training"].update(rows="x"), "rows must be an integer"),
    ("regressor", lambda h: h["training"].update(distilled=3), "damaged|subscript"),
    (
        "regressor",
        lambda h: h["training"].update(distilled={"loss": "x", "ensemble_loss": 1.0}),
        "loss must be a number, got 'x'",
    ),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGES)
def test_content_that_is_no_model(
    name: str, damage: Callable[[Header], Any], words: str, path: Path
) -> None:
    content = copy.deepcopy(files.read(GOLDEN / f"2-tabular-{name}.safetensors"))
    damage(content.header)
    files.write(path, content)
    with pytest.raises(FileError, match=words):
        fastmlp.load(path)


@pytest.mark.parametrize("place", [4, 6 * 10**7, 2**62])
@pytest.mark.parametrize(
    "name", ["scaled", "missing", "statistics", "pairs", "pieces", "levels"]
)
def test_places_of_columns_are_compared_with_the_table(
    name: str, place: int, path: Path
) -> None:
    content = files.read(GOLDEN / "2-tabular-pairs.safetensors")
    columns = f"pack.encodings.0.{name}.columns"
    arrays = {**content.arrays, columns: content.arrays[columns] + place}
    files.write(path, content._replace(arrays=arrays))

    def load() -> None:
        words = f"{name}.columns beyond the columns of the table"
        with pytest.raises(FileError, match=words):
            fastmlp.load(path)

    assert peak_of(load) < 1e6


def test_a_kind_that_does_not_suit_the_pack(path: Path) -> None:
    content = files.read(GOLDEN / "2-tabular-classifier.safetensors")
    content.header["parameters"].pop("class_weight")
    files.write(path, content._replace(kind="TabularMLPRegressor"))
    with pytest.raises(
        FileError, match="a pack of multiclass in a file of another kind"
    ):
        fastmlp.load(path)


@needs_compiler
def test_what_no_file_holds(path: Path) -> None:
    frame, y = drawn()
    best = [("tree", DecisionTreeRegressor())]
    # The tree knows the rows to validate on by heart.
    model = TabularMLPRegressor(**{**FEW, "extra_members": best})
    model.fit(frame, y, X_val=frame[:40], y_val=y[:40])
    with pytest.raises(
        ValueError, match="has tree of extra_members, which a file of numbers"
    ):
        fastmlp.save(model, path)
    assert not path.exists()


@needs_compiler
def test_threads_are_those_of_load(path: Path) -> None:
    for model in (classifier(), regressor()):
        fastmlp.save(model, path, include_training_state=True)
        loaded = fastmlp.load(path, n_threads=1)
        assert loaded.n_jobs == 1
        assert type(loaded) in (TabularMLPClassifier, TabularMLPRegressor)


OF_NUMBERS = files.read(GOLDEN / "2-tabular-regressor.safetensors")
RESIDUALS = OF_NUMBERS.arrays["pack.residuals"]


def write_with(name: str, array: Any, path: Path) -> None:
    arrays = {**OF_NUMBERS.arrays, name: array}
    files.write(path, OF_NUMBERS._replace(arrays=arrays))


def test_residuals_must_ascend(path: Path) -> None:
    write_with("pack.residuals", RESIDUALS[::-1].copy(), path)
    with pytest.raises(FileError, match="ascend"):
        fastmlp.load(path)


@pytest.mark.parametrize(
    "weights",
    [np.ones(len(RESIDUALS) - 1), np.full(len(RESIDUALS), -1.0)],
    ids=["one less", "below 0"],
)
def test_weights_of_rows_must_be_those_of_residuals(weights: Any, path: Path) -> None:
    write_with("pack.row_weights", weights, path)
    words = "row_weights must be those of the residuals"
    with pytest.raises(FileError, match=words):
        fastmlp.load(path)


WARNED = "ignore:.*one class|.*rows to validate|.*above the ensemble"
PRESETS: tuple[Preset, ...] = ("fast", "balanced", "best")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosted_trees, "ROUNDS", 5)
    monkeypatch.setattr(fitting, "FEWEST_DRAWN", 600)


def assert_same(one: Any, other: Any, frame: pd.DataFrame) -> None:
    rows = frame[frame.columns[::-1]].assign(more=1)
    for name in ("predict", "predict_proba", "predict_std"):
        if hasattr(one, name):
            result = getattr(other, name)(rows)
            expected = getattr(one, name)(frame)
            assert result.dtype == expected.dtype
            assert np.array_equal(result, expected)
    for name, given in (("predict_quantiles", [0.3, 0.5, 0.8]), ("predict_set", 0.8)):
        if hasattr(one, name):
            result = getattr(other, name)(rows, given)
            expected = getattr(one, name)(frame, given)
            assert np.array_equal(result, expected)
    assert (other.schema_, other.training_) == (one.schema_, one.training_)
    assert other.validation_score_ == one.validation_score_
    assert other.summary() == one.summary()
    pd.testing.assert_frame_equal(other.leaderboard_, one.leaderboard_)


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings(WARNED)
def test_every_drawn_model_comes_back(soak: bool, tmp_path: Path) -> None:
    for seed in range(600 if soak else 50):
        model, frame = untrained(seed)
        assert_same(model, reloaded(model, tmp_path / "model.safetensors"), frame)


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings(WARNED)
def test_fits_of_drawn_settings(soak: bool, tmp_path: Path) -> None:
    """Presets, losses, trees, refits,
    time limits and distilled nets in each other's company.
    """
    for seed in range(200 if soak else 6):
        frame, y, task = table_of(seed)
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {
            "trees": bool(rng.integers(2)),
            "refit": bool(rng.integers(2)),
        }
        options |= {"time_limit": (None, 1e6)[seed % 2], "preset": PRESETS[seed % 3]}
        kind: Any = TabularMLPClassifier
        if task == "regression":
            kind = TabularMLPRegressor
            options["loss"] = str(
                rng.choice(["squared_error", "absolute_error", "quantile"])
            )
        distils = rng.integers(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*columns left out", UserWarning)
            # Of NumPy, as a search over np.arange sets it.
            cv = rng.choice([2, 3])
            n = 1 + seed // 3 % 2
            model = kind(max_iter=1, n_members=n, cv=cv, random_state=seed, **options)
            model.fit(frame, y)
            if distils:
                model = model.distilled(frame, y, hidden_layer_sizes=4)
        loaded = reloaded(model, tmp_path / "model.safetensors")
        for same in (model, loaded):
            assert same.get_params().items() >= {"cv": cv, **options}.items()
        for same in (loaded, pickle.loads(pickle.dumps(model))):
            # A file keeps the number, without NumPy's type; lines break elsewhere.
            shown = (
                repr(one).replace(f"np.int64({cv})", str(cv)) for one in (same, model)
            )
            assert next(shown).split() == next(shown).split()
            assert_same(model, same, frame)


KILLED = """
import os, signal
import numpy as np
from fastmlp import TabularMLPRegressor

def kill(report):
    seen.append(report)
    if len(seen) == {n}:
        os.kill(os.getpid(), signal.SIGKILL)

def rows():
    X = np.random.default_rng(0).normal(size=(600, 3))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2]

seen = []
words = {{"n_members": 3, "max_iter": 8, "refit": True, "random_state": 0, "n_jobs": 1}}
model = TabularMLPRegressor(**words, cv=2)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings(WARNED)
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    fit = "model.fit(*rows(), callbacks=kill, checkpoint=PATH, checkpoint_every=1, resume=True)"
    for n in (5, 12):
        program = KILLED.format(n=n) + fit.replace("PATH", repr(str(tmp_path)))
        assert (
            subprocess.run([sys.executable, "-c", program], check=False).returncode
            == -9
        )
    names: dict[str, Any] = {}
    exec(KILLED.format(n=0), names)
    (X, y), model = names["rows"](), names["model"]
    where: dict[str, Any] = {"checkpoint": tmp_path, "resume": True}
    whole = clone(model).fit(X, y, callbacks=names["kill"])
    n_epochs = len(names["seen"])
    model.fit(X, y, callbacks=names["kill"], **where)
    # Each kill comes before its epoch is written.
    assert len(names["seen"]) - n_epochs == n_epochs - 4 - 11
    for name in ("predict", "predict_interval", "predict_std"):
        np.testing.assert_array_equal(getattr(model, name)(X), getattr(whole, name)(X))
    assert model.learning_curves_.keys() == whole.learning_curves_.keys()
    for other, rows, message in (
        (model, (X + 1, y), "its table is"),
        (
            clone(model).set_params(max_iter=9),
            (X, y),
            "its max_iter is 8, here it is 9",
        ),
        (clone(model).set_params(random_state=None), (X, y), "an integer random_state"),
    ):
        with pytest.raises(ValueError, match=message):
            other.fit(*rows, **where)
    (tmp_path / "fit.json").unlink()
    with pytest.raises(ValueError, match="must be an empty folder, or a fit's"):
        model.fit(X, y, **where)


@pytest.mark.slow
def test_a_fit_that_its_time_limit_cut_goes_on(tmp_path: Path) -> None:
    """A second run keeps the epochs of nets that the first cut,
    and begins further nets.
    """
    names: dict[str, Any] = {}
    exec(KILLED.format(n=0), names)
    (X, y), words = names["rows"](), {**names["words"], "refit": False}
    words |= {
        "max_iter": 10**6,
        "early_stopping": fastmlp.EarlyStopping(patience=10**6),
    }
    model = TabularMLPRegressor(**words, ensemble="mean", time_limit=0.5)
    curves = []
    for _ in range(2):
        with pytest.warns(match="cut short"):
            model.fit(X, y, X_val=X, y_val=y, checkpoint=tmp_path, resume=True)
        curves.append(
            {k: fit.validation_loss for k, fit in model.learning_curves_.items()}
        )
    first, second = curves
    for name, losses in first.items():
        assert second[name][: len(losses)] == losses
    assert len(first) == 1 < len(second)
