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


def real_table(name: str) -> pd.DataFrame:
    """A table that scikit-learn has, in a random order."""
    load: Any = getattr(datasets, f"load_{name}")
    table: pd.DataFrame = load(as_frame=True).frame
    return table.sample(frac=1, random_state=0, ignore_index=True)


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


@pytest.mark.parametrize(
    ("name", "loss"),
    [("breast_cancer", "binary_cross_entropy"), ("wine", "cross_entropy"), ("diabetes", "mse")],
)
@pytest.mark.parametrize("end", [".parquet", ".csv"])
def test_the_default_split_is_that_of_python(
    capsys: pytest.CaptureFixture[str], name: str, loss: Any, end: str
) -> None:
    table = real_table(name)
    if end == ".csv":
        table.to_csv("rows.csv", index=False)
    else:
        table.to_parquet("rows.parquet", row_group_size=GROUP)
    task = "regression" if loss == "mse" else "classification"
    command = ["train", f"rows{end}", "--target", "target", "--task", task]
    assert main([*command, "--quiet", "--json", *FIT]) == 0
    content = json.loads(capsys.readouterr().out)
    model = fastmlp.load("model.safetensors")

    out = drawn(len(table), 0.2, 3, len(table) if end == ".csv" else GROUP)
    train, valid = table[~out], table[out]
    groups = [train] if end == ".csv" else [item for _, item in train.groupby(train.index // GROUP)]
    scaler = standardizer([item.drop(columns="target") for item in groups])
    X, Xv = (
        scaler.transform(part.drop(columns="target").to_numpy(np.float64)).astype(np.float32)
        for part in (train, valid)
    )
    y, yv = train["target"].to_numpy(), valid["target"].to_numpy()
    if loss == "mse":
        of_y = standardizer([item[["target"]] for item in groups])
        y, yv = of_y.transform(y[:, None])[:, 0], of_y.transform(yv[:, None])[:, 0]
    n_outputs = 3 if loss == "cross_entropy" else 1
    sizes = (X.shape[1], 8, n_outputs)
    net = MLP(sizes, loss=loss, optimizer=Adam(0.001), seed=3)
    net.fit(X, y, epochs=4, batch_size=32, validation_data=(Xv, yv), early_stopping=10)
    assert np.array_equal(model.inputs(valid), Xv)
    assert np.array_equal(model.net.parameters, net.parameters)

    valid.to_csv("valid.csv", index=False)
    assert main(["score", "model.safetensors", "valid.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(content, rel=1e-12)
    outputs = net.predict(Xv)
    if loss == "mse":
        expected = outputs[:, 0].astype(np.float64) * of_y.scale[0] + of_y.center[0]
    else:
        p = outputs if n_outputs > 1 else np.hstack([1 - outputs, outputs])
        expected = p.argmax(axis=1)
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
