"""Rows that train holds out: by class, counted, and with errors in words of the table."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

import fastmlp
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.pack import settings
from fastmlp.tabular.plain import training
from fastmlp.tabular.schema import Schema
from fastmlp.tabular.schema.batches import TrainingBatches, drawn

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
N = 150
MODELS = {"tabular": [], "plain": ["--hidden", "4"]}
both = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = settings.PRESETS["balanced"]._replace(n_members=2, epochs=2)
    monkeypatch.setitem(settings.PRESETS, "balanced", few)


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


def fit(model: str, *arguments: str, data: str = "a.csv", target: str = "y") -> int:
    command = ["train", data, "--target", target, "--model", model, "--epochs", "2", "--quiet"]
    return main([*command, "--force", *MODELS[model], *arguments])


def split(given: str, seed: int) -> tuple[training.TrainingTable, Any, list[str]]:
    said: list[str] = []
    options = training.TrainSettings("y", ignore=("w",), seed=seed)
    rows = training.TrainingTable([given], options, "train")
    return rows, rows.learn(said.append), said


def test_every_class_is_trained_on_and_no_other_row_changes() -> None:
    """Of files of both kinds, and of labels of both."""
    n_mended = 0
    for seed in range(40):
        frame, path = table(seed), "a.csv" if seed < 20 else "a.parquet"
        if seed < 20:
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path, row_group_size=40)
        rows, learned, said = split(path, seed)
        trained = pyarrow.Table.from_batches([b.rows for b in rows.batches(held_out=False)])
        held_out = pyarrow.Table.from_batches([b.rows for b in rows.batches(held_out=True)])
        assert sum(learned.sizes.values()) == len(trained) == N - len(held_out)
        assert sorted([*trained["a"].to_pylist(), *held_out["a"].to_pylist()]) == sorted(frame["a"])
        assert {*trained["y"].to_pylist()} == {*frame["y"]} == {*learned.target.classes}
        counts = frame["y"].value_counts()
        single = [*counts[counts == 1].index]
        assert not {*single} & {*held_out["y"].to_pylist()}
        notes = [line for line in said if "classes of one row" in line]
        assert len(notes) == bool(single)
        assert all(repr(label) in notes[0] for label in single)
        # Beside one row of each class that was held out whole, the rows are those of the draw.
        mask = drawn(0.2, seed, {}, held_out=True)
        each = [batch.part(mask(batch)).rows for batch in TrainingBatches([path], "train")]
        by_draw = pyarrow.Table.from_batches(each).to_pandas()
        moved = by_draw[~by_draw["a"].isin(held_out["a"].to_pylist())]
        assert len(held_out) == len(by_draw) - len(moved)
        whole = [label for label, n in counts.items() if (by_draw["y"] == label).sum() == n]
        assert sorted(moved["y"]) == sorted(whole)
        n_mended += len(moved)
    assert n_mended > 3


@needs_compiler
@both
@pytest.mark.parametrize("seed", [2, 3])
def test_rare_classes_train(
    model: str, seed: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command's pass learns the columns for the fit too.
    monkeypatch.setattr(Schema, "learn", None)
    frame = table(0, most_rare=1)
    frame["y"] = np.where(frame["a"] > 0, "yes", "no")
    # The first row that seed holds out.
    out = np.random.default_rng([seed, 0]).random(N) < 0.2
    frame["place"] = np.where(frame["a"] > 1, "near", "far")
    frame.loc[np.flatnonzero(out)[0], ["y", "place"]] = ["rare", "remote"]
    frame.to_csv("a.csv", index=False)
    assert fit(model, "--seed", str(seed)) == 0
    printed = capsys.readouterr()
    assert "note: classes of one row are trained on, and not validated on: 'rare'\n" in printed.err
    loaded = fastmlp.load("model.safetensors")
    assert [*loaded.classes_] == ["no", "rare", "yes"]
    if model == "tabular":
        assert loaded.schema_.levels["place"] == ("far", "near", "remote")
    assert f"{N - out.sum() + 1} rows to train on, {out.sum() - 1} held out\n" in printed.err


@both
def test_a_target_of_free_text_is_no_classes(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = table(0).assign(title=[f"on the subject of {i}" for i in range(N)])
    frame.to_csv("a.csv", index=False)
    assert fit(model, target="title") == 1
    message = "the target 'title' has 150 classes in 150 rows, as an id or free text has"
    assert message in capsys.readouterr().err
    assert fit(model, "--task", "classification", target="b") == 1
    assert "name another column to predict; of numbers: --task regression" in (
        capsys.readouterr().err
    )


NAMES = re.compile(
    r"y_val|X_val|validation_data|MLP\.fit|Classifier|Regressor|sample_weight|nets\["
)


WEIGHT = ["--weight", "w"]
POISSON = ["--loss", "poisson"]


@needs_compiler
@pytest.mark.parametrize("row", [20, 21, 22])
@pytest.mark.parametrize(
    ("models", "target", "column", "value", "options", "message"),
    [
        ("plain", "y", "a", 1e300, [], "the column 'a' has 1e+300 in row {}: less"),
        ("plain", "y", "a", np.inf, [], "the column 'a' is infinite in row {}"),
        ("both", "b", "b", 1e300, [], "the column 'b' has 1e+300 in row {}: less"),
        ("both", "y", "w", -2.5, WEIGHT, "the weight 'w' must be 0 or more, got -2.5 in row {}"),
        ("both", "y", "w", np.nan, WEIGHT, "the weight 'w' must be 0 or more, got nan in row {}"),
        ("both", "y", "w", np.inf, WEIGHT, "the column 'w' is infinite in row {}"),
        ("plain", "b", "b", -3.5, POISSON, "0 or more for this loss, got -3.5 in row {}"),
    ],
)
def test_wrong_values_are_named_by_column_and_row(
    models: str,
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
    for model in MODELS if models == "both" else [models]:
        assert fit(model, *options, *ignored, data="a.parquet", target=target) == 1
        printed = capsys.readouterr().err
        assert "fastmlp: train: row group 0 of a.parquet: the " in printed
        assert message.format(row) in printed
        assert not NAMES.search(printed)


@needs_compiler
@both
def test_a_file_to_validate_on_is_counted(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    table(1).to_csv("a.csv", index=False)
    valid = table(1).iloc[:130]
    valid.to_parquet("v.parquet", row_group_size=50)
    assert fit(model, "--valid", "v.parquet") == 0
    printed = capsys.readouterr().err
    assert f"{N} rows to train on\n" in printed
    assert printed.count("130 rows to validate on\n") == 1
    assert "held out" not in printed
    valid.assign(y=9).to_parquet("v.parquet")
    assert fit(model, "--valid", "v.parquet") == 1
    printed = capsys.readouterr().err
    assert "train: --valid: rows 0 to 129 of v.parquet: the target 'y' has the class 9" in printed
    assert not NAMES.search(printed)


@needs_compiler
@both
def test_weights_that_are_all_0(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    table(1).assign(w=0).to_csv("a.csv", index=False)
    assert fit(model, "--weight", "w") == 1
    printed = capsys.readouterr().err
    assert "--weight must be 0 or more, and not all 0" in printed or "one non-zero" in printed
    assert not NAMES.search(printed)
