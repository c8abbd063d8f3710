"""Results of train, predict, score and export beside the same in Python."""

import inspect
import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pytest
from sklearn import datasets
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
)

import fastmlp
from fastmlp import MLP, save, to_c, to_onnx
from fastmlp.cli.main import main
from fastmlp.cli.options import EXPORTS
from fastmlp.cli.tables import KEYWORDS, METRICS, PREDICTION, score
from fastmlp.compiler.jit import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow"
)

FIT = ["--epochs", "1", "--seed", "3"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(NET, "net.safetensors")
    Path("rows.csv").write_text(
        "b,text,a\n" + "".join(f"{i},x,{i / 2}\n" for i in range(20))
    )


def real_table(name: str, rng: np.random.Generator) -> tuple[pd.DataFrame, int]:
    """A table in a random order, of scikit-learn's or of numbers and texts,
    and the number of classes of the target.
    """
    if name != "mixed":
        load: Any = getattr(datasets, f"load_{name}")
        table: pd.DataFrame = load(as_frame=True).frame
        n_classes = 0 if name == "diabetes" else table["target"].nunique()
        return table.sample(frac=1, random_state=0, ignore_index=True), n_classes
    n = 400
    columns: dict[str, Any] = {
        "id": [f"row {i}" for i in range(n)],
        "age": rng.integers(18, 90, n),
        "income": rng.lognormal(10, 1, n),
        "town": rng.choice(["Bern", "Basel", "Chur"], n),
        "owner": rng.choice([True, False], n),
    }
    buys = (columns["age"] > 50) ^ (columns["town"] == "Bern")
    return pd.DataFrame(columns).assign(target=np.where(buys, "yes", "no")), 2


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes", "mixed"])
@pytest.mark.parametrize("held_out", ["a file", "rows of .parquet", "rows of .csv"])
def test_the_commands_are_those_of_python(
    name: str,
    held_out: str,
    rng: np.random.Generator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, n_classes = real_table(name, rng)
    rows = "rows.parquet" if "parquet" in held_out else "rows.csv"
    command = ["train", rows, "--target", "target", "--json", *FIT]
    command += ["--task", "classification" if n_classes else "regression"]
    out = np.random.default_rng([3, 0]).random(len(table)) < 0.2
    if held_out == "a file":
        table[~out].to_csv(rows, index=False)
        table[out].to_parquet("held.parquet", row_group_size=40)
        command += ["--valid", "held.parquet"]
    elif rows == "rows.csv":
        table.to_csv(rows, index=False)
    else:
        table.to_parquet(rows, row_group_size=100)
    assert main(command) == 0
    content = json.loads(capsys.readouterr().out)
    model = fastmlp.load("model.safetensors")
    assert {*model.schema_.read_names} == {*table.columns} - {"id", "target"}

    train = table[~out]
    valid = table[out]
    kind: Any = (
        fastmlp.TabularMLPClassifier if n_classes else fastmlp.TabularMLPRegressor
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        twin = kind(max_iter=1, random_state=3).fit(train, target="target", X_val=valid)
    expected = twin.predict(valid)
    yv = valid["target"].to_numpy()
    assert np.array_equal(model.predict(valid), expected)
    if n_classes:
        p = twin.predict_proba(valid)
        assert np.array_equal(model.predict_proba(valid), p)
        scores = {
            "accuracy": accuracy_score(yv, expected),
            "log_loss": log_loss(yv, p, labels=twin.classes_),
        }
    else:
        scores = {
            "mae": mean_absolute_error(yv, expected),
            "r2": r2_score(yv, expected),
        }
    assert {each: content[each] for each in scores} == pytest.approx(scores, rel=1e-6)
    valid.to_csv("valid.csv", index=False)
    assert main(["score", "model.safetensors", "valid.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(content, rel=1e-12)
    for output in ("p.parquet", "p.csv"):
        assert (
            main(["predict", "model.safetensors", "valid.csv", "--output", output]) == 0
        )
    assert np.array_equal(pd.read_parquet("p.parquet")["prediction"], expected)
    # pandas before 3 reads some numbers a bit apart.
    assert np.array_equal(pyarrow.csv.read_csv("p.csv")["prediction"], expected)


def trained(table: pd.DataFrame, *more: str) -> Any:
    table.to_parquet("train.parquet")
    assert (
        main(["train", "train.parquet", "--target", "y", "--force", *FIT, *more]) == 0
    )
    return fastmlp.load("model.safetensors")


def some(rng: np.random.Generator, labels: Any, n: int = 200) -> pd.DataFrame:
    codes = rng.choice(["007", "12", "A1"], n)
    return pd.DataFrame(
        {"a": rng.normal(size=n), "code": codes, "y": rng.choice(labels, n)}
    )


@pytest.mark.parametrize(
    "labels", [[False, True], ["no", "yes", "äh"], [1, 5]], ids=["bool", "str", "int"]
)
def test_the_command_writes_what_predict_parquet_does(
    labels: list[Any], rng: np.random.Generator
) -> None:
    table = some(rng, labels)
    model = trained(table)
    fastmlp.predict_parquet(model, "train.parquet", "a.parquet", keep=["y", "a"])
    expected = pd.read_parquet("a.parquet")
    names = [f"probability_{label}" for label in labels]
    assert list(expected) == ["y", "a", *names, "prediction"]
    assert np.array_equal(expected[names], model.predict_proba(table))
    arguments = ["--keep", "y,a", "--force", "--batch-rows", "7"]
    command = ["predict", "model.safetensors", "train.parquet", "--output"]
    assert main([*command, "b.parquet", "--probabilities", *arguments]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet("b.parquet"), expected)
    assert pyarrow.parquet.read_metadata("b.parquet").row_group(0).num_rows == 7
    assert main([*command, "b.feather", *arguments]) == 0
    result = pyarrow.feather.read_table("b.feather").to_pandas()
    pd.testing.assert_frame_equal(result, expected.drop(columns=names))


def test_texts_that_look_like_numbers_in_csv(
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = trained(some(rng, [0, 1]))
    assert model.schema_.text_names == ["code"]
    rows = pd.DataFrame({"code": ["007", "12"], "a": [0.5, 0.5]})
    rows.to_csv("rows.csv", index=False)
    expected = model.predict_proba(rows)
    assert expected[0, 0] != expected[1, 0]
    parts = model.predict_batches("rows.csv", method="predict_proba")
    assert np.array_equal(np.concatenate([*parts]), expected)
    command = [
        "predict",
        "model.safetensors",
        "rows.csv",
        "--probabilities",
        "--output",
        "p.arrow",
    ]
    assert main(command) == 0
    result = pyarrow.feather.read_table("p.arrow").to_pandas()
    assert np.array_equal(result[["probability_0", "probability_1"]], expected)
    for data in ("rows.csv", "-"):
        text = io.TextIOWrapper(io.BytesIO(Path("rows.csv").read_bytes()))
        monkeypatch.setattr(sys, "stdin", text)
        capsys.readouterr()
        assert main(["predict", "model.safetensors", data, "--probabilities"]) == 0
        printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert printed["probability_1"].tolist() == expected[:, 1].tolist()
    # Numbers that are names may be written as integers or not.
    whole = some(rng, [0, 1]).assign(code=rng.choice([1, 2, 30], 200))
    model = trained(whole, "--categorical", "code")
    assert model.schema_.text_names == []
    several = []
    for code in ("1", "1.0", "2"):
        Path("rows.csv").write_text(f"code,a\n{code},0.5\n")
        several += [*model.predict_batches("rows.csv", method="predict_proba")]
    assert np.array_equal(several[0], several[1])
    assert not np.array_equal(several[0], several[2])


def test_no_rows_no_predictions(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(some(rng, ["no", "yes"]))
    Path("rows.csv").write_text("code,a\n")
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "rows.csv", "--probabilities"]) == 0
    assert (
        capsys.readouterr().out == '"probability_no","probability_yes","prediction"\n'
    )
    Path("rows.csv").write_text("code,a,y\n")
    assert main(["score", "model.safetensors", "rows.csv"]) == 1
    assert "score: there are no rows" in capsys.readouterr().err


N = 1003


def scored(y: Any, predictions: Any, **classes: Any) -> dict[str, float]:
    task: Any = "classification" if classes else "regression"
    names = [f"probability_{each}" for each in classes.get("classes_", ())] or [
        PREDICTION
    ]
    columns = dict(zip(names, predictions.T, strict=True))
    batches = pa.table({"y": y, **columns}).to_batches(max_chunksize=100)
    return score(SimpleNamespace(**classes), batches, "y", "score", [*METRICS[task]])


@pytest.mark.parametrize("n_classes", [2, 3, 30])
def test_scores_of_classes(rng: np.random.Generator, n_classes: int) -> None:
    codes = np.concatenate(
        [np.arange(n_classes), rng.integers(n_classes, size=N - n_classes)]
    )
    p: Any = rng.random((N, n_classes)).astype(np.float32)
    p[np.arange(N), codes] += rng.random(N, np.float32)
    scores = scored(codes, p, classes_=np.arange(n_classes))
    p = p / p.sum(axis=1, keepdims=True, dtype=np.float64)
    above = []
    for code in range(1 if n_classes == 2 else 0, n_classes):
        inside = p[codes == code, code]
        outside = p[codes != code, code]
        ahead = np.sign(inside[:, None] - outside)
        above.append((ahead.mean() + 1) / 2)
    labels = p.argmax(axis=1)
    ranked = p
    average = "macro"
    if n_classes == 2:
        ranked = p[:, 1]
        average = "binary"
    expected = {
        "accuracy": np.mean(p.argmax(axis=1) == codes),
        "log_loss": -np.mean(np.log(p[np.arange(N), codes])),
        "auc": np.mean(above),
        "balanced_accuracy": balanced_accuracy_score(codes, labels),
        "f1": f1_score(codes, labels, average=average),
        "average_precision": average_precision_score(codes, ranked),
    }
    assert scores == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("center", [0.0, 1e6])
def test_scores_of_numbers(rng: np.random.Generator, center: float) -> None:
    y = rng.normal(center, 2, N)
    result = y + rng.normal(size=N)
    error = y - result
    expected = {
        "rmse": np.sqrt(np.mean(error**2)),
        "mae": np.mean(np.abs(error)),
        "r2": 1 - np.sum(error**2) / np.sum((y - y.mean()) ** 2),
    }
    assert scored(y, result[:, None]) == pytest.approx(expected, rel=1e-9)


NET = MLP((2, 5, 1), activation="tanh", seed=0)
NET.feature_names = ["a", "b"]


def test_its_options_are_the_keywords(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    keywords = set()
    for writer in (to_c, to_onnx):
        for one in inspect.signature(writer).parameters.values():
            if one.kind is one.KEYWORD_ONLY:
                keywords.add(one.name)
                default = f"default: {one.default}" if one.default else "--"
                assert default in text.partition(f" --{one.name.replace('_', '-')} ")[2]
    assert keywords == {*KEYWORDS}


def test_a_module_for_fortran_is_not_overwritten() -> None:
    Path("net.f90").touch()
    command = ["export", "net.safetensors", "new.h", "--fortran", "net.f90"]
    assert main(command) == 1
    assert main([*command, "--force"]) == 0
    assert "module model" in Path("net.f90").read_text()


@pytest.mark.parametrize("output", ["model.h", "model.c"])
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        (
            "--prefix n --tests 0 --dtype float64",
            {"prefix": "n", "tests": 0, "dtype": "float64"},
        ),
        ("--gradient --tests 3", {"gradient": True, "tests": 3}),
    ],
)
def test_the_file_is_that_of_to_c(
    output: str, options: str, settings: dict[str, Any]
) -> None:
    Path(output).touch()
    assert main(["export", "net.safetensors", output, "--force", *options.split()]) == 0
    assert Path(output).read_text() == to_c(NET, output, **settings)


@pytest.mark.parametrize("options", ["", "--dtype float64 --opset 15"])
def test_the_file_is_that_of_to_onnx(options: str) -> None:
    assert main(["export", "net.safetensors", "net.onnx", *options.split()]) == 0
    settings: dict[str, Any] = {"dtype": "float64", "opset": 15} if options else {}
    assert Path("net.onnx").read_bytes() == to_onnx(NET, **settings).SerializeToString()


def test_columns_of_test_rows_come_by_name() -> None:
    command = [
        "export",
        "net.safetensors",
        "model.h",
        "--tests",
        "4",
        "--test-data",
        "rows.csv",
    ]
    assert main(command) == 0
    rows = np.array([[i / 2, i] for i in range(20)])
    assert Path("model.h").read_text() == to_c(NET, "model.h", tests=4, test_data=rows)


def test_own_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function without these keywords."""
    monkeypatch.setitem(EXPORTS, ".copy", "save")
    command = ["export", "net.safetensors", "net.copy"]
    assert main([*command, "--test-data", "rows.csv"]) == 2
    assert "argument --test-data: is not for .copy files" in capsys.readouterr().err
    assert main(command) == 0


def test_every_ending_has_a_function() -> None:
    import fastmlp

    assert all(callable(getattr(fastmlp, name)) for name in EXPORTS.values())
