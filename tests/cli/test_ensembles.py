"""train: an ensemble of nets, and what predict, score and show make of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_tables import drawn, labels

import fastmlp
from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp.cli.main import main
from fastmlp.cli.tables import N_FOLDS
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A table of two targets, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    X, y = drawn()
    frame = X.assign(label=labels(), y=y, w=1.0 + (y > 4), when=pd.Timestamp("2020-01-01"))
    frame.to_parquet("a.parquet", row_group_size=50)
    frame.to_csv("a.csv", index=False)
    return frame


def test_classes(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "a.csv", "--target", "label", "--ignore", "y,w"]
    assert main([*command, "--valid", "a.parquet", "--json"]) == 0
    printed = capsys.readouterr()
    assert "columns left out: 'when' has one value only" in printed.err
    assert "model: model.safetensors" in printed.err
    model = fastmlp.load("model.safetensors")
    assert type(model) is TabularMLPClassifier
    assert {*model.schema_.read_names} == {"age", "town", "income", "member"}
    assert model.training_["target"] == "label"
    scores = json.loads(printed.out)
    assert scores["accuracy"] == model.score(table, table["label"])
    assert scores["log_loss"] == pytest.approx(-model.validation_score_, rel=1e-5)

    assert main(["score", "model.safetensors", "a.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(scores, rel=1e-6)
    assert main(["score", "model.safetensors", "a.csv", "--metric", "auc"]) == 0
    assert float(capsys.readouterr().out.split()[1]) > 0.5
    for data in ("a.csv", "a.parquet"):
        arguments = ["--keep", "age", "--probabilities", "--output", "p.parquet", "--force"]
        assert main(["predict", "model.safetensors", data, *arguments, "--batch-rows", "50"]) == 0
        frame = pd.read_parquet("p.parquet")
        assert list(frame) == ["age", *(f"probability_{c}" for c in model.classes_), "prediction"]
        assert frame["prediction"].tolist() == model.predict(table).tolist()
        p = frame[[f"probability_{c}" for c in model.classes_]].to_numpy()
        np.testing.assert_allclose(p, model.predict_proba(table), rtol=1e-5)


def test_numbers(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "a.parquet", "--target", "y", "--weight", "w", "--ignore", "label"]
    assert main([*command, "--epochs", "2", "--seed", "5", "--categorical", "member"]) == 0
    printed = capsys.readouterr()
    model = fastmlp.load("model.safetensors")
    assert type(model) is TabularMLPRegressor
    assert (model.max_iter, model.random_state, model.cv) == (2, 5, None)
    assert "member" in model.schema_.levels
    assert {line.split()[0] for line in printed.out.splitlines()} == {"rmse", "mae", "r2"}
    rows = model.training_["rows"], model.training_["validation_rows"]
    assert sum(rows) == 120
    assert f"{rows[0]} rows to train on, {rows[1]} held out" in printed.err
    assert main(["show", "model.safetensors"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("task      regression of 'y'\ncolumns   4\n")
    assert "  town: levels Bern, Chur, Genf, Zug\n" in printed.out
    assert "nets of" in printed.out or "net of" in printed.out
    assert main(["show", "model.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["seed"] == 5


def test_without_rows_to_validate_on_there_are_folds(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "a.parquet", "--target", "y", "--valid", "0", "--epochs", "1"]
    assert main([*command, "--ignore", "label"]) == 0
    assert capsys.readouterr().out == ""
    model = fastmlp.load("model.safetensors")
    assert model.cv == N_FOLDS
    assert len(model.pack_.residuals) == 120


def test_a_model_that_was_fitted_in_python(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = drawn()
    model = TabularMLPRegressor(n_members=1, max_iter=1, cv=2, random_state=0).fit(X, y)
    fastmlp.save(model, "own.safetensors")
    assert main(["predict", "own.safetensors", "a.parquet", "--output", "p.csv"]) == 0
    np.testing.assert_allclose(pd.read_csv("p.csv")["prediction"], model.predict(X), rtol=1e-6)
    assert main(["show", "own.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("task      regression\n")
    assert main(["score", "own.safetensors", "a.parquet"]) == 1
    assert "own.safetensors: the model was fitted to a y without a name" in capsys.readouterr().err
    table[["age"]].to_csv("b.csv", index=False)
    assert main(["predict", "own.safetensors", "b.csv"]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("town", "income", "member"))
