"""Tables in batches: what a pass learns of columns, scores of rows, and files."""

import copy
import datetime
import json
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
from sklearn import metrics

import fastmlp
from fastmlp import MLP, FileError
from fastmlp.serialization import safetensors_file
from fastmlp.tabular import TableModel
from fastmlp.tabular.plain import archive
from fastmlp.tabular.plain.learning import MOST_LEVELS, ColumnSettings, LearnedColumns, learn
from fastmlp.tabular.plain.model import Column, Target
from fastmlp.tabular.plain.scores import METRICS, Auc
from fastmlp.tabular.schema.batches import TrainingBatches, everything


def learned(
    columns: dict[str, Any], notes: list[str] | None = None, task: Any = None, **wanted: Any
) -> LearnedColumns:
    """What is learned of a table, of two batches, with the target t."""
    table = pyarrow.table(columns)
    half = pyarrow.concat_tables([table.slice(0, len(table) // 2), table.slice(len(table) // 2)])
    names = tuple(name for name in columns if name != "t")
    report = ColumnSettings(
        "t", task, names, wanted.get("chosen", False), wanted.get("categorical", ())
    )
    batches = TrainingBatches(half, "train", names, ["t"])
    return learn(batches, report, everything, (notes or []).append, "train")


def test_every_type_of_arrow() -> None:
    result = learned(
        {
            "float": [1.0, 3.0, 1.0, 3.0],
            "int8": pyarrow.array([0, 2, 2, 0], "int8"),
            "half": pyarrow.array(np.array([0, 2, 2, 0], "f2")),
            "bool": [True, False, None, False],
            "decimal": pyarrow.array([Decimal("1.5"), Decimal(3)] * 2),
            "text": ["u", "v", "u", None],
            "large": pyarrow.array(["u", "v", "u", None], "large_string"),
            "empty": pyarrow.array(["u", "v", "u", ""], "large_string"),
            "dictionary": pyarrow.array(["v", "u", "u", "v"]).dictionary_encode(),
            "places": pyarrow.array([7, 8, 8, 7]).dictionary_encode(),
            "code": [3, 1, 1, None],
            "t": [0, 1, 0, 1],
        },
        categorical=("code",),
    )
    moments = {column.name: (column.center, column.scale) for column in result.columns}
    assert moments["float"] == (2.0, 1.0)
    assert moments["int8"] == moments["half"] == (1.0, 1.0)
    assert moments["decimal"] == (2.25, 0.75)
    kinds = {column.name: (column.levels, column.indicates) for column in result.columns}
    assert kinds["bool"] == (None, True)
    assert kinds["text"] == kinds["large"] == kinds["dictionary"] == (("u", "v"), False)
    assert kinds["empty"] == (("", "u", "v"), False)
    assert kinds["places"] == (("7", "8"), False)
    assert kinds["code"] == (("1", "3"), False)
    assert result.sizes == {0: 2, 1: 2}
    assert result.n_rows == 4


def test_columns_that_are_left_out() -> None:
    notes: list[str] = [""]
    n = 60
    result = learned(
        {
            "id": [f"row {i}" for i in range(n)],
            "one": [5] * n,
            "word": ["x"] * n,
            "none": pyarrow.nulls(n),
            "day": [datetime.date(2020, 1, 1)] * n,
            "list": [[1]] * n,
            "bytes": [b"a"] * n,
            "blank": pyarrow.nulls(n, "string"),
            "comma": ["1,5", "2,5"] * (n // 2),
            "some": [None, 1.0] * (n // 2),
            "t": [0, 1] * (n // 2),
        },
        notes,
    )
    assert result.columns == (Column("some", None, 1.0, 1.0, True),)
    message = " ".join(notes)
    assert "'id' is left out: it has 60 texts in 60 rows, free text or ids" in message
    for name in ("one", "word", "day"):
        assert f"{name!r} is left out: it has one value only" in message
    for name in ("none", "blank"):
        assert f"{name!r} is left out: it is empty" in message
    others = "neither numbers, dates nor texts"
    assert f"'bytes' is left out: it holds binary, {others} in UTF-8" in message
    assert f"'list' is left out: it holds list<item: int64>, {others}" in message
    assert "'comma' is left out: it holds numbers with a decimal comma" in message
    assert result.schema.dropped["list"] == f"holds list<item: int64>, {others}"
    assert {*result.schema.dropped} == {
        "id",
        "one",
        "word",
        "none",
        "day",
        "list",
        "bytes",
        "blank",
        "comma",
    }
    for wanted in ({"chosen": True}, {"categorical": ("list",)}):
        with pytest.raises(TypeError, match=f"train: the column 'list' holds list<.*, {others}"):
            learned({"list": [[1]], "t": [1]}, **wanted)


def test_the_most_frequent_levels_are_kept() -> None:
    notes: list[str] = [""]
    words = [f"w{i:03}" for i in range(MOST_LEVELS + 20)]
    many = words * 2 + words[20:] * 2
    result = learned({"a": many, "t": [0, 1] * (len(many) // 2)}, notes)
    assert result.columns[0].levels == tuple(words[20:])
    assert notes[-1].endswith("100 levels are kept; the 20 rarest are taken as unknown")


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["b", "a", "b", "c"], None, Target("t", ("a", "b", "c"))),
        ([True, False, True, False], None, Target("t", (False, True))),
        ([5, 3, 5, 3], None, Target("t", (3, 5))),
        ([5, 3, 5, 3], "regression", Target("t", None, 4.0, 1.0)),
        ([0.5, 1.5, 0.5, 1.5], None, Target("t", None, 1.0, 0.5)),
        ([0.5, 1.5, 0.5, 1.5], "classification", Target("t", (0.5, 1.5))),
        (list(range(40)), None, Target("t", None, 19.5, float(np.std(np.arange(40))))),
    ],
)
def test_the_task_is_guessed_by_the_target(values: Any, task: Any, expected: Target) -> None:
    notes: list[str] = [""]
    result = learned({"a": [0.0, 1.0] * (len(values) // 2), "t": values}, notes, task).target
    assert (result.name, result.classes) == (expected.name, expected.classes)
    assert (result.center, result.scale) == pytest.approx((expected.center, expected.scale))
    assert ("task:" in " ".join(notes)) == (task is None)


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (
            [1.0, None, float("nan"), 2.0],
            None,
            "has 2 missing values, the first in row 1; .* (4 rows in all)",
        ),
        ([1, 1, 1, 1], None, "has one value, 1"),
        (["a", "b", "a", "b"], "regression", "a regression needs numbers"),
        ([1.0, float("inf"), 1.0, 2.0], None, "'t' is infinite in row 1"),
        ([datetime.date(2020, 1, day) for day in (1, 2, 3, 4)], None, "holds date32"),
    ],
)
def test_targets_that_are_none(values: Any, task: Any, message: str) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=message.replace("(", r"\(").replace(")", r"\)")
    ):
        learned({"a": [0.0, 1.0, 2.0, 3.0], "t": values}, None, task)


N = 1003


def batches(*arrays: Any) -> Iterator[Any]:
    """Rows of several arrays, 100 at a time."""
    for first in range(0, len(arrays[0]), 100):
        yield tuple(array[first : first + 100] for array in arrays)


def scored(task: Any, name: str, y: Any, predictions: Any) -> float:
    metric = METRICS[task][name]()
    for part in batches(y, predictions):
        metric.add(*part)
    return metric.value()


@pytest.mark.parametrize("n_classes", [2, 3, 300])
def test_scores_of_classes(rng: np.random.Generator, n_classes: int) -> None:
    codes = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=N - n_classes)])
    p = rng.random((N, n_classes)).astype(np.float32)
    p[np.arange(N), codes] += rng.random(N, np.float32)
    p /= p.sum(axis=1, keepdims=True)
    p[:, 0] += 1 - p.sum(axis=1)
    exact = p / p.sum(axis=1, dtype=np.float64)[:, None]
    options: Any = {} if n_classes == 2 else {"multi_class": "ovr"}
    area = metrics.roc_auc_score(codes, p[:, 1] if n_classes == 2 else exact, **options)
    expected = {
        "accuracy": metrics.accuracy_score(codes, p.argmax(axis=1)),
        "log_loss": metrics.log_loss(codes, exact),
        "auc": area,
    }
    assert {*expected} == {*METRICS["classification"]}
    for name, value in expected.items():
        assert scored("classification", name, codes, p) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("center", [0.0, 1e8])
def test_scores_of_numbers(rng: np.random.Generator, center: float) -> None:
    y = rng.normal(center, 2, N)
    result = y + rng.normal(size=N)
    expected = {
        "rmse": metrics.root_mean_squared_error(y, result),
        "mae": metrics.mean_absolute_error(y, result),
        "r2": metrics.r2_score(y, result),
    }
    assert {*expected} == {*METRICS["regression"]}
    for name, value in expected.items():
        assert scored("regression", name, y, result) == pytest.approx(
            value, rel=1e-9 if center else 1e-12
        )
    assert np.isnan(scored("regression", "r2", np.ones(N), result))


def test_only_the_area_keeps_rows(rng: np.random.Generator) -> None:
    """Five bytes a row of two classes, a probability and a class; others keep none."""
    n, made = 1000, [make() for task in METRICS.values() for make in task.values()]
    y, p = rng.integers(2, size=n), rng.random((n, 2), np.float32)
    for metric in made:
        args = (y, p) if metric in made[:3] else (y.astype(float), p[:, 0].astype(float))
        metric.add(*args)
        tracemalloc.start()
        for _ in range(200):
            metric.add(*args)
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        most = 200 * (5 * n + 600) if isinstance(metric, Auc) else 20_000
        assert grown < most


COLUMNS = (Column("a", None, 2.0, 4.0, True), Column("b", ("x", "y", "z")))
FRAME = pd.DataFrame({"b": ["y", "w", None], "more": 1, "a": [6.0, 2.0, np.nan]})


def model_of(target: Target) -> TableModel:
    sizes = (5, 4, target.n_outputs)
    loss: Any = {0: "mse", 2: "binary_cross_entropy"}.get(
        len(target.classes or ()), "cross_entropy"
    )
    return TableModel(COLUMNS, target, MLP(sizes, loss=loss, seed=0), {"rows": 9})


@pytest.mark.parametrize(
    "classes", [None, ("no", "yes"), (False, True), (1, 5, 7), (0.5, 1.5), tuple("äöü")]
)
def test_a_file_keeps_all_of_it(tmp_path: Path, classes: Any) -> None:
    model, path = model_of(Target("t", classes, 0.1, 1 / 3)), tmp_path / "model.safetensors"
    fastmlp.save(model, path)
    same = fastmlp.load(path, n_threads=1)
    assert type(same) is TableModel
    assert (same.columns, same.target, same.training) == (model.columns, model.target, {"rows": 9})
    assert same.net.n_threads == 1
    assert np.array_equal(same.predict(FRAME), model.predict(FRAME))
    assert same.inputs(FRAME).tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert same.predict(FRAME).dtype == (np.float64 if classes is None else np.array(classes).dtype)
    if classes is None:
        with pytest.raises(AttributeError, match="'t' is a number: no predict_proba"):
            same.predict_proba(FRAME)
    else:
        assert same.predict_proba(FRAME).shape == (3, len(classes))


def test_predictions_as_a_stream_of_arrow() -> None:
    for classes in (None, ("no", "yes")):
        model = model_of(Target("t", classes))
        result = fastmlp.predict_arrow(model, FRAME, keep="more", batch_rows=2).read_all()
        assert np.array_equal(result["prediction"].to_numpy(), model.predict(FRAME))
        if classes is not None:
            p = model.predict_proba(FRAME)[:, 1]
            assert np.array_equal(result["probability_yes"].to_numpy(), p)


def test_training_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    model, path = model_of(Target("t")), tmp_path / "model.safetensors"
    X, y = model.inputs(FRAME), np.arange(3.0)
    model.net.fit(X, y, epochs=2)
    fastmlp.save(model, path, include_training_state=True)
    same = fastmlp.load(path)
    for one in (model, same):
        one.net.fit(X, y, epochs=2)
    assert np.array_equal(same.net.parameters, model.net.parameters)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("columns", 0, "scale"), 0.0, "finite numbers, scale above 0"),
        (("columns", 0, "center"), "1", "finite numbers"),
        (("columns", 0, "indicates"), 1, "indicates must be true or false"),
        (("columns", 0, "name"), "b", "two columns of one name"),
        (("columns", 0, "name"), 5, "must be a text"),
        (("columns", 1, "levels"), ["x", "x", "z"], "texts that differ"),
        (("columns", 1, "levels"), ["x"], "of (3, 1) inputs and outputs"),
        (("columns", 1, "code"), "import os", "unexpected keyword"),
        (("target", "classes"), ["no"], "two labels of one type"),
        (("target", "classes"), ["no", 1], "two labels of one type"),
        (("target", "classes"), [[1], [2]], "two labels of one type"),
        (("target", "classes"), ["a", "b", "c"], "inputs and outputs"),
        (("net",), {}, "layer_sizes"),
        (("training",), 3, "training must be an object"),
    ],
)
def test_content_that_is_none_is_an_error(
    tmp_path: Path, place: tuple[Any, ...], value: Any, message: str
) -> None:
    content = archive.pack(model_of(Target("t", ("no", "yes"))), training=False)
    header = copy.deepcopy(content.header)
    *way, last = place
    inside: Any = header
    for step in way:
        inside = inside[step]
    inside[last] = value
    path = tmp_path / "model.safetensors"
    safetensors_file.write(path, content._replace(header=header))
    with pytest.raises(FileError) as raised:
        fastmlp.load(path)
    assert message in str(raised.value)


# Golden files: written once, by the version in their name, and never again.
GOLDEN = Path(__file__).parents[2] / "golden"
EXPECTED = json.loads((GOLDEN / "tables.json").read_text(encoding="utf-8"))


def golden_rows(n: int) -> Any:
    return pyarrow.table(
        {
            "a": [None if k % 9 == 4 else k % 7 / 7 for k in range(n)],
            "town": [["Bern", "Chur", None, "Åbo"][k % 4] for k in range(n)],
            "owner": [k % 3 == 0 for k in range(n)],
            "buys": [["no", "yes"][(k * k % 7) > 2] for k in range(n)],
            "size": [["s", "m", "l"][k * k % 7 % 3] for k in range(n)],
            "price": [k % 11 * 2.5 + 10 for k in range(n)],
        }
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_every_released_format_loads(name: str) -> None:
    model, expected = fastmlp.load(GOLDEN / name), EXPECTED[name]
    rows = golden_rows(6)
    assert repr(model) == expected["repr"]
    assert model.training == expected["training"]
    assert model.inputs(rows).tolist() == expected["inputs"]
    if model.classes_ is None:
        np.testing.assert_allclose(model.predict(rows), expected["predictions"], rtol=1e-5)
    else:
        assert model.predict(rows).tolist() == expected["predictions"]
        p = model.predict_proba(rows)
        np.testing.assert_allclose(p, expected["probabilities"], rtol=1e-5)
    table = golden_rows(60)
    target = table[model.target.name].combine_chunks()
    y = model.target.scaled(target, "golden")
    history = model.net.fit(model.inputs(table), y, epochs=3, batch_size=7)
    np.testing.assert_allclose(history.loss, expected["losses"], rtol=1e-3)
