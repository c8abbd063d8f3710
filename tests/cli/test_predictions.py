"""What train, predict and score give, beside the same in Python: to the bit, of real tables."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pytest
from sklearn import datasets
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp import MLP, Adam, Standardizer
from fastmlp.cli.main import main
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular import TableModel

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
FIT = ["--model", "plain", "--hidden", "8", "--epochs", "4", "--seed", "3", "--batch-size", "32"]
# The rows of a row group.
GROUP = 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def real_table(name: str, rng: np.random.Generator) -> tuple[pd.DataFrame, int]:
    """A table in a random order, of scikit-learn's or of numbers and texts, and the number of
    classes of the target."""
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


def drawn(n: int, fraction: float, seed: int, rows: int) -> Any:
    """The rows that are held out: drawn for each row group by the seed and its number."""
    sizes = [min(rows, n - first) for first in range(0, n, rows)]
    each = [np.random.default_rng([seed, k]).random(size) for k, size in enumerate(sizes)]
    return np.concatenate(each) < fraction


def standardizer(parts: list[pd.DataFrame]) -> Standardizer:
    """Learned part by part; scikit-learn's has the same numbers, but for roundings."""
    result = Standardizer()
    for part in parts:
        result.partial_fit(part.to_numpy(np.float64))
    other = StandardScaler().fit(np.concatenate([*map(np.asarray, parts)]))
    np.testing.assert_allclose(result.center, other.mean_, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(result.scale, other.scale_, rtol=1e-13)
    return result


def inputs(model: Any, table: pd.DataFrame, groups: list[pd.DataFrame]) -> Any:
    """The net's inputs by hand: numbers standardised as in the groups of rows that are trained on,
    texts as columns of 0 and 1."""
    columns = []
    for column in model.columns:
        values = table[column.name]
        if column.levels is None:
            scaler = standardizer([group[[column.name]] for group in groups])
            columns.append(scaler.transform(values.to_numpy(np.float64)[:, None])[:, 0])
        else:
            columns += [(values == level).to_numpy(np.float64) for level in column.levels]
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes", "mixed"])
@pytest.mark.parametrize("held_out", ["a file", "rows of .parquet", "rows of .csv"])
def test_train_predict_and_score_are_those_of_python(
    name: str, held_out: str, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    table, n_classes = real_table(name, rng)
    rows = "rows.parquet" if "parquet" in held_out else "rows.csv"
    group_rows = GROUP if "parquet" in held_out else len(table)
    command = ["train", rows, "--target", "target", "--quiet", "--json", *FIT]
    command += ["--task", "classification" if n_classes else "regression"]
    if held_out == "a file":
        out = np.arange(len(table)) >= len(table) * 3 // 4
        table[~out].to_csv(rows, index=False)
        table[out].to_parquet("held.parquet", row_group_size=40)
        command += ["--valid", "held.parquet"]
    else:
        out = drawn(len(table), 0.2, 3, group_rows)
        if rows == "rows.csv":
            table.to_csv(rows, index=False)
        else:
            table.to_parquet(rows, row_group_size=GROUP)
    assert main(command) == 0
    content = json.loads(capsys.readouterr().out)
    model = fastmlp.load("model.safetensors")
    assert {*model.feature_names} == {*table.columns} - {"id", "target"}

    train, valid = table[~out], table[out]
    groups = [group for _, group in train.groupby(train.index // group_rows)]
    X, Xv = (inputs(model, part, groups) for part in (train, valid))
    assert np.array_equal(model.inputs(valid), Xv)
    y, yv = train["target"].to_numpy(), valid["target"].to_numpy()
    if n_classes:
        classes = np.unique(y)
        targets = [np.searchsorted(classes, each) for each in (y, yv)]
    else:
        of_y = standardizer([group[["target"]] for group in groups])
        targets = [of_y.transform(each[:, None])[:, 0] for each in (y, yv)]
    loss: Any = {0: "mse", 2: "binary_cross_entropy", 3: "cross_entropy"}[n_classes]
    sizes = (X.shape[1], 8, 3 if n_classes == 3 else 1)
    net = MLP(sizes, loss=loss, optimizer=Adam(0.001), seed=3)
    options: Any = {"validation_data": (Xv, targets[1]), "early_stopping": 10}
    net.fit(X, targets[0], epochs=4, batch_size=32, **options)
    assert np.array_equal(model.net.parameters, net.parameters)

    outputs = net.predict(Xv)
    if n_classes:
        p = outputs if n_classes > 2 else np.hstack([1 - outputs, outputs])
        expected = classes[p.argmax(axis=1)]
        assert np.array_equal(model.predict_proba(valid), p)
        rows_of_one = p.astype(float) / p.sum(1, dtype=float)[:, None]
        scores = {
            "accuracy": accuracy_score(yv, expected),
            "log_loss": log_loss(yv, rows_of_one, labels=classes),
        }
    else:
        expected = outputs[:, 0].astype(np.float64) * of_y.scale[0] + of_y.center[0]
        scores = {"mae": mean_absolute_error(yv, expected), "r2": r2_score(yv, expected)}
    assert {each: content[each] for each in scores} == pytest.approx(scores, rel=1e-6)
    assert np.array_equal(model.predict(valid), expected)
    valid.to_csv("valid.csv", index=False)
    assert main(["score", "model.safetensors", "valid.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(content, rel=1e-12)
    for output in ("p.parquet", "p.csv"):
        assert main(["predict", "model.safetensors", "valid.csv", "--output", output]) == 0
    assert np.array_equal(pd.read_parquet("p.parquet")["prediction"], expected)
    # pandas before 3 reads some numbers a bit apart.
    assert np.array_equal(pyarrow.csv.read_csv("p.csv")["prediction"], expected)


def trained(table: pd.DataFrame, *more: str) -> TableModel:
    """A model of the target `y` of a table."""
    table.to_parquet("train.parquet")
    assert main(["train", "train.parquet", "--target", "y", "--quiet", "--force", *FIT, *more]) == 0
    model: TableModel = fastmlp.load("model.safetensors")
    return model


def some(rng: np.random.Generator, labels: Any, n: int = 200) -> pd.DataFrame:
    """A table of a number, a text that looks like a number at times, and labels."""
    codes = rng.choice(["007", "12", "A1"], n)
    return pd.DataFrame({"a": rng.normal(size=n), "code": codes, "y": rng.choice(labels, n)})


def test_the_command_and_predict_parquet_write_the_same(rng: np.random.Generator) -> None:
    for labels in ([False, True], ["no", "yes", "äh"], [1, 5]):
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


def test_predictions_in_mixed_precision(rng: np.random.Generator) -> None:
    model = trained(some(rng, ["no", "yes"]), "--hidden", "40,40")
    X, options = model.inputs("train.parquet"), dict[str, Any](compute_dtype="bfloat16")
    expected = model.net.predict(X, **options)[:, 0]
    assert not np.array_equal(expected, model.net.predict(X)[:, 0])
    command = ["predict", "model.safetensors", "train.parquet", "--probabilities", "--output"]
    assert main([*command, "a.parquet", "--compute-dtype", "bfloat16"]) == 0
    fastmlp.predict_parquet(model, "train.parquet", "b.parquet", **options)
    for path in ("a.parquet", "b.parquet"):
        assert np.array_equal(pd.read_parquet(path)["probability_yes"], expected)
    assert main([*command, "c.parquet", "--compute-dtype", "float32"]) == 0
    result = pd.read_parquet("c.parquet")["probability_yes"]
    assert np.array_equal(result, model.net.predict(X)[:, 0])


def test_an_ensemble_has_no_predictions_in_mixed_precision(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    table = some(rng, ["no", "yes"])
    table.to_parquet("train.parquet")
    kind = fastmlp.TabularMLPClassifier(n_members=1, max_iter=2, random_state=0)
    fastmlp.save(kind.fit(table.drop(columns="y"), table["y"]), "model.safetensors")
    command = ["predict", "model.safetensors", "train.parquet", "--output", "p.csv"]
    assert main([*command, "--compute-dtype", "bfloat16"]) == 2
    assert "--compute-dtype: needs a model of --model plain" in capsys.readouterr().err
    assert not Path("p.csv").exists()
    assert main([*command, "--compute-dtype", "float32"]) == 0


def test_texts_that_look_like_numbers_in_csv(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(some(rng, [0, 1]))
    assert model.text_names == ["code"]
    rows = pd.DataFrame({"code": ["007", "12"], "a": [0.5, 0.5]})
    rows.to_csv("rows.csv", index=False)
    expected = model.predict_proba(rows)
    assert expected[0, 0] != expected[1, 0]
    assert np.array_equal(model.predict_proba("rows.csv"), expected)
    command = ["predict", "model.safetensors", "rows.csv", "--probabilities", "--output", "p.arrow"]
    assert main(command) == 0
    result = pyarrow.feather.read_table("p.arrow").to_pandas()
    assert np.array_equal(result[["probability_0", "probability_1"]], expected)
    for data in ("rows.csv", "-"):
        text = io.TextIOWrapper(io.BytesIO(Path("rows.csv").read_bytes()))
        monkeypatch.setattr(sys, "stdin", text)
        capsys.readouterr()
        assert main(["predict", "model.safetensors", data, "--probabilities"]) == 0
        printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert printed["probability_1"].astype(np.float32).tolist() == expected[:, 1].tolist()
    # Numbers that are names may be written as integers or not.
    whole = some(rng, [0, 1]).assign(code=rng.choice([1, 2, 30], 200))
    model = trained(whole, "--categorical", "code")
    assert model.text_names == []
    for code in ("1", "1.0"):
        Path("rows.csv").write_text(f"code,a\n{code},0.5\n")
        assert model.inputs("rows.csv")[0, 1:].tolist() == [1, 0, 0]


def test_an_ensemble_knows_which_of_its_columns_are_texts(rng: np.random.Generator) -> None:
    table, rows = some(rng, ["no", "yes"]), pd.DataFrame({"code": ["007", "12"], "a": [0.5, 0.5]})
    model = fastmlp.TabularMLPClassifier(n_members=1, max_iter=2, random_state=0)
    fastmlp.save(model.fit(table.drop(columns="y"), table["y"]), "model.safetensors")
    rows.to_csv("rows.csv", index=False)
    command = ["predict", "model.safetensors", "rows.csv", "--probabilities", "--output", "p.arrow"]
    assert main(command) == 0
    expected = model.predict_proba(rows)
    assert expected[0, 0] != expected[1, 0]
    result = pyarrow.feather.read_table("p.arrow").to_pandas()
    np.testing.assert_array_equal(result[["probability_no", "probability_yes"]], expected)


def test_a_table_without_rows_has_no_predictions(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(some(rng, ["no", "yes"]))
    Path("rows.csv").write_text("code,a\n")
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "rows.csv", "--probabilities"]) == 0
    assert capsys.readouterr().out == '"probability_no","probability_yes","prediction"\n'
    assert model.predict("rows.csv").shape == (0,)
    Path("rows.csv").write_text("code,a,y\n")
    assert main(["score", "model.safetensors", "rows.csv"]) == 1
    assert "score: there are no rows" in capsys.readouterr().err
