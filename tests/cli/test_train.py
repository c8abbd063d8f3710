"""train: its options, the rows that it holds out, and ensembles."""

import argparse
import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow
import pytest
from small_models import drawn, labels

import fastmlp
from fastmlp import TabularMLPRegressor
from fastmlp.cli import tables
from fastmlp.cli.main import main
from fastmlp.cli.options import NUMBER_LOSSES, PRESET_NAMES
from fastmlp.cli.tables import N_FOLDS
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import settings
from fastmlp.tabular.outputs import Objective

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)
TRAIN = ["train", "a.csv", "--target", "y"]


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = drawn()
    pd.DataFrame(X).assign(y=y).to_csv("a.csv", index=False)


def test_presets_are_those_of_the_estimators() -> None:
    assert {*PRESET_NAMES} == {*settings.PRESETS}


def test_losses_are_those_of_the_estimators() -> None:
    assert get_args(Objective) == NUMBER_LOSSES


def test_a_preset_reaches_the_estimator() -> None:
    assert main([*TRAIN, "--preset", "fast"]) == 0
    assert fastmlp.load("model.safetensors").preset == "fast"
    assert main([*TRAIN, "--force"]) == 0
    assert fastmlp.load("model.safetensors").preset == "balanced"


def test_wrong_use_is_said_before_an_output_that_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("model.safetensors").touch()
    assert main([*TRAIN, "--ignore", "y"]) == 2
    assert "exists" not in capsys.readouterr().err
    assert main(TRAIN) == 1
    assert "exists" in capsys.readouterr().err


def test_the_time_limit_counts_from_the_start_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each look at the clock is 50 s after the last.
    times = count(0.0, 50.0)
    monkeypatch.setattr(
        "fastmlp.cli.tables.time", SimpleNamespace(monotonic=lambda: next(times))
    )
    assert main([*TRAIN, "--time-limit", "90"]) == 0
    assert fastmlp.load("model.safetensors").time_limit == 40
    assert "--time-limit was over" not in capsys.readouterr().err
    assert main([*TRAIN, "--time-limit", "40", "--force"]) == 0
    assert 0 < fastmlp.load("model.safetensors").time_limit < 1
    assert (
        "note: --time-limit was over before the training began"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_packages_are_asked_for_before_anything_is_read(
    python: Callable[..., str],
) -> None:
    script = """
import contextlib, io, sys
from fastmlp.cli.main import main
for module in ("sklearn", "safetensors", "pyarrow"):
    names = [name for name in sys.modules if name.split(".")[0] == module]
    hidden = {name: sys.modules.pop(name) for name in names}
    sys.modules[module] = None
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(["train", "no.csv", "--target", "y"])
    print(code, told.getvalue().strip())
    del sys.modules[module]
    sys.modules |= hidden
"""
    sklearn, safetensors, pyarrow = python(script).splitlines()
    assert sklearn.startswith(
        "1 fastmlp: fastmlp train needs scikit-learn: pip install"
    )
    assert safetensors.startswith(
        "1 fastmlp: fastmlp train needs safetensors: pip install"
    )
    assert pyarrow.startswith("1 fastmlp: fastmlp train needs pyarrow: pip install")


N = 150


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


@pytest.mark.slow
def test_every_class_is_trained_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    n_mended = 0
    for seed in range(40):
        frame = table(seed)
        options = argparse.Namespace(target="y", weight="w", valid=0.2, seed=seed)
        whole = pyarrow.Table.from_pandas(frame)
        first, second, *_ = tables._divided(
            whole, ["y", "w"], "classification", options
        )
        trained = first.to_pandas()
        held_out = second.to_pandas()
        said = capsys.readouterr().err
        assert f"{len(trained)} rows to train on, {len(held_out)} held out\n" in said
        assert sorted([*trained["a"], *held_out["a"]]) == sorted(frame["a"])
        assert {*trained["y"]} == {*frame["y"]}
        counts = frame["y"].value_counts()
        single = [*counts[counts == 1].index]
        assert not {*single} & {*held_out["y"]}
        assert said.count("classes of one row are trained on") == bool(single)
        assert all(repr(label) in said for label in single)
        # Beside one row of each class that was held out whole,
        # the rows are those of the draw.
        by_draw = frame[np.random.default_rng([seed, 0]).random(N) < 0.2]
        moved = by_draw[~by_draw["a"].isin(held_out["a"])]
        drawn_counts = by_draw["y"].value_counts()
        whole_classes = [
            label for label, n in drawn_counts.items() if n == counts[label]
        ]
        assert sorted(moved["y"]) == sorted(whole_classes)
        n_mended += len(moved)
    assert n_mended > 3


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
    assert (
        "note: classes of one row are trained on, and not validated on: 'rare'\n"
        in printed.err
    )
    loaded = fastmlp.load("model.safetensors")
    assert [*loaded.classes_] == ["no", "rare", "yes"]
    assert loaded.schema_.levels["place"] == ("far", "near", "remote")
    assert (
        f"{N - out.sum() + 1} rows to train on, {out.sum() - 1} held out\n"
        in printed.err
    )


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


def test_a_target_of_free_text_is_no_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame = table(0).assign(title=[f"on the subject of {i}" for i in range(N)])
    frame.assign(day=pd.date_range("2020-01-01", periods=N)).to_parquet("a.parquet")
    assert fit(target="title", data="a.parquet") == 1
    message = (
        "the target 'title' has 150 classes in 150 rows, as an id or free text has"
    )
    assert message in capsys.readouterr().err
    assert fit("--task", "classification", target="b", data="a.parquet") == 1
    assert "name another column to predict; for numbers: --task regression" in (
        capsys.readouterr().err
    )
    assert fit(target="day", data="a.parquet") == 1
    assert "the target 'day' holds timestamp" in capsys.readouterr().err


NAMES = re.compile(
    r"y_val|X_val|validation_data|MLP\.fit|Classifier|Regressor|sample_weight|nets\["
)
WEIGHT = ["--weight", "w"]
POISSON = ["--loss", "poisson", "--ignore", "y"]


@pytest.mark.parametrize("row", [20, 21, 22])
@pytest.mark.parametrize(
    ("target", "column", "value", "options", "message"),
    [
        (
            "y",
            "a",
            np.inf,
            [],
            "rows 0 to 149 of a.parquet: the column 'a' is infinite in row {}",
        ),
        ("y", "w", -2.5, WEIGHT, "--weight"),
        ("y", "w", np.nan, WEIGHT, "--weight"),
        ("y", "w", np.inf, WEIGHT, "the column 'w' is infinite in row {}"),
        (
            "b",
            "b",
            -3.5,
            POISSON,
            " must be 0 or more for loss='poisson', got -3.5 in row {}",
        ),
    ],
)
def test_wrong_values_are_named_by_their_place(
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
    assert fit(*options, data="a.parquet", target=target) == 1
    printed = capsys.readouterr().err
    assert message.format(row) in printed
    assert not NAMES.search(printed)


def test_a_file_to_validate_on_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    table(1).to_csv("a.csv", index=False)
    valid = table(1).iloc[:130]
    valid.to_parquet("v.parquet", row_group_size=50)
    assert fit("--valid", "v.parquet") == 0
    printed = capsys.readouterr().err
    assert f"{N} rows to train on, 130 to validate on\n" in printed
    assert "held out" not in printed


def test_labels_of_validation_that_training_lacks_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table(1).to_csv("a.csv", index=False)
    valid = table(1).iloc[:130]
    valid.assign(y=9).to_parquet("v.parquet")
    assert fit("--valid", "v.parquet") == 1
    printed = capsys.readouterr().err
    assert "--valid has labels that the target has not: 9" in printed
    assert not NAMES.search(printed)


def test_weights_that_are_all_0(capsys: pytest.CaptureFixture[str]) -> None:
    table(1).assign(w=0).to_csv("a.csv", index=False)
    assert fit("--weight", "w") == 1
    printed = capsys.readouterr().err
    assert "non-zero" in printed
    assert not NAMES.search(printed)


@pytest.fixture
def two_targets() -> pd.DataFrame:
    X, y = drawn()
    frame = X.assign(
        label=labels(), y=y, w=1.0 + (y > 4), when=pd.Timestamp("2020-01-01")
    )
    frame.to_parquet("a.parquet", row_group_size=50)
    frame.to_csv("a.csv", index=False)
    return frame


def test_numbers(two_targets: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train",
        "a.parquet",
        "--target",
        "y",
        "--weight",
        "w",
        "--ignore",
        "label",
    ]
    assert (
        main([*command, "--epochs", "2", "--seed", "5", "--categorical", "member"]) == 0
    )
    printed = capsys.readouterr()
    model = fastmlp.load("model.safetensors")
    assert type(model) is TabularMLPRegressor
    assert (model.max_iter, model.random_state, model.cv) == (2, 5, None)
    assert "member" in model.schema_.levels
    assert {line.split()[0] for line in printed.out.splitlines()} == {
        "rmse",
        "mae",
        "r2",
    }
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


def test_folds_without_validation(
    two_targets: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "a.parquet", "--target", "y", "--valid", "0", "--epochs", "1"]
    assert main([*command, "--ignore", "label"]) == 0
    assert capsys.readouterr().out == ""
    model = fastmlp.load("model.safetensors")
    assert model.cv == N_FOLDS
    assert len(model.pack_.residuals) == 120


def test_a_model_of_python(
    two_targets: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = drawn()
    model = TabularMLPRegressor(n_members=1, max_iter=1, cv=2, random_state=0).fit(X, y)
    fastmlp.save(model, "own.safetensors")
    assert main(["predict", "own.safetensors", "a.parquet", "--output", "p.csv"]) == 0
    np.testing.assert_allclose(
        pd.read_csv("p.csv")["prediction"], model.predict(X), rtol=1e-6
    )
    assert main(["show", "own.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("task      regression\n")
    assert main(["score", "own.safetensors", "a.parquet"]) == 1
    assert (
        "own.safetensors: the model was fitted to a y without a name"
        in capsys.readouterr().err
    )
    two_targets[["age"]].to_csv("b.csv", index=False)
    assert main(["predict", "own.safetensors", "b.csv"]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("town", "income", "member"))
