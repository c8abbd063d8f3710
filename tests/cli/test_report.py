"""report; progress and identifiers of train; scores and importances of show."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from small_models import drawn, labels

import fastmlp
from fastmlp import MLP
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)
MODEL = "model.safetensors"
TRAIN = ["train", "a.csv", "--target", "y", "--force"]


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn()[0].assign(y=labels()).to_csv("a.csv", index=False)


@pytest.mark.slow
def test_a_report_of_a_table_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    assert main(["report", MODEL, "a.csv"]) == 0
    assert capsys.readouterr().err.endswith("report: report.html\n")
    assert "Worst rows" in Path("report.html").read_text("utf-8")
    assert main(["report", MODEL, "a.csv"]) == 1
    assert "report: 'report.html' exists; --force overwrites it" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_rows_without_targets_are_refused_in_words_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(TRAIN) == 0
    pd.read_csv("a.csv").assign(y=None).to_csv("b.csv", index=False)
    assert main(["report", MODEL, "b.csv"]) == 1
    expected = "fastmlp: report: the target has missing values only, in"
    assert expected in capsys.readouterr().err
    assert not Path("report.html").exists()


@pytest.mark.slow
def test_a_report_of_a_net_takes_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv("a.csv")
    table = table[["age", "member"]].astype(float).assign(y=table["age"] / 90)
    net = MLP((2, 4, 1), seed=0)
    net.fit(table[["age", "member"]], table["y"], epochs=1)
    net.save(MODEL)
    table.to_csv("b.csv", index=False)
    assert main(["report", MODEL, "b.csv"]) == 2
    assert "argument --target: the model does not name" in capsys.readouterr().err
    assert main(["report", MODEL, "b.csv", "--target", "y", "--output", "n.html"]) == 0
    assert "Report: MLP" in Path("n.html").read_text("utf-8")


@pytest.mark.slow
def test_columns_with_gaps_are_read_as_in_training() -> None:
    n = 60
    table = pd.DataFrame(
        {
            "code": pd.array([1, 2, None] * (n // 3), "Int64"),
            "day": pd.date_range("2024-01-01", periods=n),
            "town": ["Bern", None, "Zug"] * (n // 3),
            "member": pd.array([True, False, None] * (n // 3), "boolean"),
            "y": [0.5, 1.5] * (n // 2),
        }
    )
    table.to_parquet("t.parquet")
    command = ["train", "t.parquet", "--target", "y", "--categorical", "code"]
    assert main(command) == 0
    assert main(["report", MODEL, "t.parquet"]) == 0
    text = Path("report.html").read_text("utf-8")
    assert "one of 2 levels: 1, 2" in text
    assert "dates, as " in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report", MODEL, "a.csv", "--output", "r.pdf"], 2, "must end in .html"),
        (["report", "no.safetensors", "a.csv"], 1, "there is no file 'no.safetensors'"),
        (["report", "a.csv", "a.csv"], 1, "not a safetensors file"),
    ],
)
def test_errors_are_a_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert words in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_scores_of_imbalance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    capsys.readouterr()
    asked = "f1,average_precision,balanced_accuracy"
    assert main(["score", MODEL, "a.csv", "--metric", asked, "--json"]) == 0
    table = pd.read_csv("a.csv")
    model = fastmlp.load(MODEL)
    y = table["y"]
    predicted = model.predict(table)
    one_hot = pd.get_dummies(y)[model.classes_]
    expected = {
        "f1": metrics.f1_score(y, predicted, average="macro"),
        "average_precision": metrics.average_precision_score(
            one_hot, model.predict_proba(table)
        ),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
    }
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected)


def test_show_has_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert fastmlp.load(MODEL).training_["scores"] == scores
    assert main(["show", MODEL]) == 0
    shown = capsys.readouterr().out
    assert f"\n  accuracy: {scores['accuracy']:.6g}\n" in shown


def test_show_has_importances(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    model = fastmlp.load(MODEL)
    importances = model.training_["importances"]
    assert {*importances} == {*model.schema_.columns}
    capsys.readouterr()
    assert main(["show", MODEL]) == 0
    shown = capsys.readouterr().out
    first = max(importances, key=importances.__getitem__)
    title = "importances: the decrease of the score when a column is shuffled"
    assert f"{title}\n  {first}: {importances[first]:.4g}\n" in shown


def test_a_file_with_importances_that_are_not_numbers_is_refused() -> None:
    assert main(TRAIN) == 0
    model = fastmlp.load(MODEL)
    model.training_["importances"] = {"age": "\x1b[31m"}
    fastmlp.save(model, MODEL)
    with pytest.raises(fastmlp.FileError, match="importances must be numbers by name"):
        fastmlp.load(MODEL)


def test_numbers_that_differ_in_each_row_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pd.read_csv("a.csv")
    numbers = np.random.default_rng(0).permutation(len(table)) + 1000
    table.assign(order=numbers, half=numbers // 2).to_csv("a.csv", index=False)
    note = f"note: 'order' looks like an identifier, with {len(table)} integers in"
    assert main(TRAIN) == 0
    told = capsys.readouterr().err
    assert note in told
    assert "--ignore order leaves it out" in told
    assert told.count("looks like an identifier") == 1
    assert main([*TRAIN, "--ignore", "order"]) == 0
    assert "identifier" not in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen: Any = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(TRAIN) == 0
    shown = screen.getvalue()
    assert ("of 2 nets" in shown) == terminal
    assert ("epoch/s" in shown or "s/epoch" in shown) == terminal
