"""Rows that train holds out: by class, counted, and with errors in words of the table."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

import fastmlp
from fastmlp.cli import tables
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
N = 150


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def table(seed: int, most_rare: int = 3) -> pd.DataFrame:
    """Two frequent classes, and some of 1 to 3 rows; labels are texts or integers."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "w": 1.0})
    y = (frame["a"] > 0).to_numpy().astype(int)
    order = rng.permutation(N)
    for label in range(2, 2 + rng.integers(1, most_rare + 1)):
        n = rng.integers(1, 4)
        y[order[:n]] = label
        order = order[n:]
    frame["y"] = y if seed % 2 else np.array(list("abcdefgh"))[y]
    return frame


def fit(*arguments: str, data: str = "a.csv", target: str = "y") -> int:
    return main(["train", data, "--target", target, "--force", *arguments])


def test_every_class_is_trained_on_and_no_other_row_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    n_mended = 0
    for seed in range(40):
        frame = table(seed)
        options = argparse.Namespace(target="y", weight="w", valid=0.2, seed=seed)
        columns = tables._TrainingColumns(options)
        whole = pyarrow.Table.from_pandas(frame)
        trained, held_out = (
            part.to_pandas()
            for part in tables._divided(whole, columns, "classification", options)[:2]
        )
        said = capsys.readouterr().err
        assert f"{len(trained)} rows to train on, {len(held_out)} held out\n" in said
        assert sorted([*trained["a"], *held_out["a"]]) == sorted(frame["a"])
        assert {*trained["y"]} == {*frame["y"]}
        counts = frame["y"].value_counts()
        single = [*counts[counts == 1].index]
        assert not {*single} & {*held_out["y"]}
        assert said.count("classes of one row are trained on") == bool(single)
        assert all(repr(label) in said for label in single)
        # Beside one row of each class that was held out whole, the rows are those of the draw.
        by_draw = frame[np.random.default_rng([seed, 0]).random(N) < 0.2]
        moved = by_draw[~by_draw["a"].isin(held_out["a"])]
        whole_classes = [label for label, n in counts.items() if (by_draw["y"] == label).sum() == n]
        assert sorted(moved["y"]) == sorted(whole_classes)
        n_mended += len(moved)
    assert n_mended > 3


@needs_compiler
def test_rare_classes_train(capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(0, most_rare=1)
    frame["y"] = np.where(frame["a"] > 0, "yes", "no")
    # The first row that seed holds out.
    out = np.random.default_rng([2, 0]).random(N) < 0.2
    frame["place"] = np.where(frame["a"] > 1, "near", "far")
    frame.loc[np.flatnonzero(out)[0], ["y", "place"]] = ["rare", "remote"]
    frame.to_csv("a.csv", index=False)
    assert fit("--seed", "2") == 0
    printed = capsys.readouterr()
    assert "note: classes of one row are trained on, and not validated on: 'rare'\n" in printed.err
    loaded = fastmlp.load("model.safetensors")
    assert [*loaded.classes_] == ["no", "rare", "yes"]
    assert loaded.schema_.levels["place"] == ("far", "near", "remote")
    assert f"{N - out.sum() + 1} rows to train on, {out.sum() - 1} held out\n" in printed.err


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["b", "a", "b", "c"], "auto", "classification"),
        ([True, False, True, False], "auto", "classification"),
        ([5, 3, 5, 3], "auto", "classification"),
        ([5, 3, 5, 3], "regression", "regression"),
        ([0.5, 1.5, 0.5, 1.5], "auto", "regression"),
        ([0.5, 1.5, 0.5, 1.5], "classification", "classification"),
        (list(range(40)), "auto", "regression"),
    ],
)
def test_the_task_is_guessed_by_the_target(
    values: Any, task: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables._task_of(pyarrow.chunked_array([values]), "t", task) == expected
    assert ("task:" in capsys.readouterr().err) == (task == "auto")


def test_a_target_of_free_text_is_no_classes(capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(0).assign(title=[f"on the subject of {i}" for i in range(N)])
    frame.assign(day=pd.date_range("2020-01-01", periods=N)).to_parquet("a.parquet")
    assert fit(target="title", data="a.parquet") == 1
    message = "the target 'title' has 150 classes in 150 rows, as an id or free text has"
    assert message in capsys.readouterr().err
    assert fit("--task", "classification", target="b", data="a.parquet") == 1
    assert "name another column to predict; of numbers: --task regression" in (
        capsys.readouterr().err
    )
    assert fit(target="day", data="a.parquet") == 1
    assert "the target 'day' holds timestamp" in capsys.readouterr().err


NAMES = re.compile(
    r"y_val|X_val|validation_data|MLP\.fit|Classifier|Regressor|sample_weight|nets\["
)
WEIGHT, POISSON = ["--weight", "w"], ["--loss", "poisson"]


@needs_compiler
@pytest.mark.parametrize("row", [20, 21, 22])
@pytest.mark.parametrize(
    ("target", "column", "value", "options", "message"),
    [
        ("y", "a", np.inf, [], "rows 0 to 149 of a.parquet: the column 'a' is infinite in row {}"),
        ("y", "w", -2.5, WEIGHT, "--weight"),
        ("y", "w", np.nan, WEIGHT, "--weight"),
        ("y", "w", np.inf, WEIGHT, "the column 'w' is infinite in row {}"),
        (
            "b",
            "b",
            -3.5,
            ["--loss", "poisson"],
            " must be 0 or more for loss='poisson', got -3.5 in row {}",
        ),
    ],
)
def test_wrong_values_are_named_by_column_and_row(
    target: str,
    column: str,
    value: float,
    options: list[str],
    message: str,
    row: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame = table(1)
    frame["b"] = frame["b"].abs()
    frame.loc[row, column] = value
    frame.to_parquet("a.parquet")
    ignored = ["--ignore", "y"] if target == "b" else []
    assert fit(*options, *ignored, data="a.parquet", target=target) == 1
    printed = capsys.readouterr().err
    assert message.format(row) in printed
    assert not NAMES.search(printed)


@needs_compiler
def test_a_file_to_validate_on_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    table(1).to_csv("a.csv", index=False)
    valid = table(1).iloc[:130]
    valid.to_parquet("v.parquet", row_group_size=50)
    assert fit("--valid", "v.parquet") == 0
    printed = capsys.readouterr().err
    assert f"{N} rows to train on, 130 to validate on\n" in printed
    assert "held out" not in printed
    valid.assign(y=9).to_parquet("v.parquet")
    assert fit("--valid", "v.parquet") == 1
    printed = capsys.readouterr().err
    assert "--valid has labels that the target has not: 9" in printed
    assert not NAMES.search(printed)


@needs_compiler
def test_weights_that_are_all_0(capsys: pytest.CaptureFixture[str]) -> None:
    table(1).assign(w=0).to_csv("a.csv", index=False)
    assert fit("--weight", "w") == 1
    printed = capsys.readouterr().err
    assert "non-zero" in printed
    assert not NAMES.search(printed)
