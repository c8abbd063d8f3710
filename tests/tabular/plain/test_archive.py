"""Files of table models: what is kept, and content that is none."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

import fastmlp
from fastmlp import MLP, FileError
from fastmlp.serialization import safetensors_file
from fastmlp.tabular import TableModel
from fastmlp.tabular.plain import archive
from fastmlp.tabular.plain.columns import Column, Target

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
        found = fastmlp.predict_arrow(model, FRAME, keep="more", batch_rows=2).read_all()
        assert np.array_equal(found["prediction"].to_numpy(), model.predict(FRAME))
        if classes is not None:
            p = model.predict_proba(FRAME)[:, 1]
            assert np.array_equal(found["probability_yes"].to_numpy(), p)


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
    ("place", "value", "told"),
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
    tmp_path: Path, place: tuple[Any, ...], value: Any, told: str
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
    assert told in str(raised.value)


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
