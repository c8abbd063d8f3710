"""Models of drawn tables predict the same bits after a file, a pickle and the command."""

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from small_models import reloaded, table_of, untrained

import fastmlp
from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import distillation, extras, settings
from fastmlp.tabular.settings import Preset

pytestmark = [
    pytest.mark.usefixtures("small"),
    pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"),
    pytest.mark.filterwarnings("ignore:.*one class|.*rows to validate|.*above the ensemble"),
]
PRESETS: tuple[Preset, ...] = ("fast", "balanced", "best")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "ROUNDS", 5)
    monkeypatch.setattr(distillation, "LEAST", 600)


def assert_same(one: Any, other: Any, frame: pd.DataFrame) -> None:
    rows = frame[frame.columns[::-1]].assign(more=1)
    for name in ("predict", "predict_proba", "predict_std"):
        if hasattr(one, name):
            result, expected = getattr(other, name)(rows), getattr(one, name)(frame)
            assert result.dtype == expected.dtype
            assert np.array_equal(result, expected)
    for name, given in (("predict_quantiles", [0.3, 0.5, 0.8]), ("predict_set", 0.8)):
        if hasattr(one, name):
            result, expected = getattr(other, name)(rows, given), getattr(one, name)(frame, given)
            assert np.array_equal(result, expected)
    assert (other.schema_, other.training_) == (one.schema_, one.training_)
    assert other.validation_score_ == one.validation_score_
    assert other.summary() == one.summary()
    pd.testing.assert_frame_equal(other.leaderboard_, one.leaderboard_)


@pytest.mark.slow
def test_every_drawn_schema_and_encoding(soak: bool, tmp_path: Path) -> None:
    for seed in range(600 if soak else 50):
        model, frame = untrained(seed)
        assert_same(model, reloaded(model, tmp_path / "model.safetensors"), frame)


@pytest.mark.slow
def test_fits_of_every_preset(soak: bool, tmp_path: Path) -> None:
    for seed in range(300 if soak else 8):
        frame, y, task = table_of(seed)
        kind: Any = TabularMLPRegressor if task == "regression" else TabularMLPClassifier
        options = {"n_members": 1 + seed % 2, "cv": 2, "preset": PRESETS[seed % 3]}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*columns left out", UserWarning)
            model = kind(max_iter=1, random_state=seed, **options).fit(frame, y)
        for same in (
            reloaded(model, tmp_path / "m.safetensors"),
            pickle.loads(pickle.dumps(model)),
        ):
            assert repr(same) == repr(model)
            assert_same(model, same, frame)


@pytest.mark.slow
def test_fits_of_drawn_settings(soak: bool, tmp_path: Path) -> None:
    """Losses, trees, refits, time limits and distilled nets in each other's company."""
    for seed in range(200 if soak else 6):
        frame, y, task = table_of(seed)
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"trees": bool(rng.integers(2)), "refit": bool(rng.integers(2))}
        options["time_limit"] = (None, 1e6)[seed % 2]
        kind: Any = TabularMLPClassifier
        if task == "regression":
            kind = TabularMLPRegressor
            options["loss"] = str(rng.choice(["squared_error", "absolute_error", "quantile"]))
        distils = rng.integers(2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*columns left out", UserWarning)
            # Of NumPy, as a search over np.arange sets it.
            cv = rng.choice([2, 3])
            model = kind(max_iter=1, n_members=2, cv=cv, random_state=seed, **options)
            model.fit(frame, y)
            if distils:
                model = model.distilled(frame, y, hidden_layer_sizes=4)
        loaded = reloaded(model, tmp_path / "model.safetensors")
        for same in (model, loaded):
            assert same.get_params().items() >= {"cv": cv, **options}.items()
        assert_same(model, loaded, frame)
        assert_same(model, pickle.loads(pickle.dumps(model)), frame)


@pytest.mark.slow
def test_the_command(
    soak: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `predict` writes is what Python predicts."""
    monkeypatch.chdir(tmp_path)
    for name in PRESETS:
        few = settings.PRESETS[name]._replace(n_members=2)
        monkeypatch.setitem(settings.PRESETS, name, few)
    for seed in range(5, 155 if soak else 10):
        frame, y, _ = table_of(seed, 80)
        whole = {name: "int64" for name, kind in frame.dtypes.items() if kind == "category"}
        frame = frame.astype(whole)
        frame.assign(y=y).to_parquet("a.parquet")
        arguments = ["--target", "y", "--epochs", "1", "--seed", str(seed), "--force", "--json"]
        assert main(["train", "a.parquet", *arguments]) == 0, capsys.readouterr().err
        capsys.readouterr()
        model = fastmlp.load("model.safetensors")
        arguments = ["--output", "p.parquet", "--force"]
        assert main(["predict", "model.safetensors", "a.parquet", *arguments]) == 0
        result = pd.read_parquet("p.parquet")["prediction"].to_numpy()
        assert np.array_equal(result, model.predict(frame))
        assert main(["score", "model.safetensors", "a.parquet", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        measure = {"r2", "accuracy"} & {*content}
        assert content[measure.pop()] == pytest.approx(_score(model, frame, y))
        assert main(["show", "model.safetensors"]) == 0
        assert "y" in capsys.readouterr().out


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
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    fit = "model.fit(*rows(), callbacks=kill, checkpoint=PATH, checkpoint_every=1, resume=True)"
    for n in (5, 12):
        program = KILLED.format(n=n) + fit.replace("PATH", repr(str(tmp_path)))
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
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
        (clone(model).set_params(max_iter=9), (X, y), "its max_iter is 8, here it is 9"),
        (clone(model).set_params(random_state=None), (X, y), "an integer random_state"),
    ):
        with pytest.raises(ValueError, match=message):
            other.fit(*rows, **where)
    (tmp_path / "fit.json").unlink()
    with pytest.raises(ValueError, match="must be an empty folder, or a fit's"):
        model.fit(X, y, **where)


def _score(model: Any, frame: pd.DataFrame, y: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(model.score(frame, y))
