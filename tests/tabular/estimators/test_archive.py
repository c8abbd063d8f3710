"""Files of models of tables and of their packs: released formats, and invalid content."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_use import peak_of
from sklearn.exceptions import NotFittedError
from sklearn.tree import DecisionTreeRegressor
from small_models import FEW, classifier, drawn, regressor

import fastmlp
from fastmlp import FileError, TabularMLPClassifier, TabularMLPRegressor
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.serialization import files
from fastmlp.tabular.extras import matrix

needs_compiler = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
# Golden files: written once by the format in their name, and anew for another format.
GOLDEN = Path(__file__).parents[2] / "golden"
EXPECTED = json.loads((GOLDEN / "tables.json").read_text())


def golden_data(name: str) -> Any:
    if "trees" in name:
        # Levels that are unknown, and missing values, are among them.
        return [[i % 7, "xyzw"[i % 4], 1.5 * i if i % 4 else None, "uv"[i % 2]] for i in range(10)]
    if "pairs" in name:
        # Columns of two levels at places beyond that of the one number.
        k = range(10)
        return [[i % 7 / 7, "xyz"[i % 3], "uv"[i * i % 7 > 2], i % 5 == 0, f"level {i}"] for i in k]
    X = np.arange(180.0).reshape(60, 3) % 7 / 7
    X[::9, 1] = np.nan
    X[:, 2] = np.round(2 * X[:, 2])
    return X[:10]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_of_this_format_loads(name: str) -> None:
    model, expected, X = fastmlp.load(GOLDEN / name), EXPECTED[name], golden_data(name)
    assert repr(model).split() == expected["repr"].split()
    assert model.schema_.to_json() == expected["schema"]
    assert model.validation_score_ == expected["score"]
    assert model.weights_.tolist() == expected["weights"]
    # Sums of trees have the same bits on every machine.
    for _, trees in model.extra_members_:
        assert trees.predict_raw(matrix(model.schema_.read(X))).tolist() == expected["trees"]
    outputs = getattr(model, "predict_proba", model.predict)(X)
    np.testing.assert_allclose(outputs, expected["outputs"], rtol=1e-5)
    if "sets" in expected:
        assert model.predict_set(X, 0.8).tolist() == expected["sets"]
    if "interval" in expected:
        interval = model.predict_interval(X[:1], 0.8)
        quantiles = model.predict_quantiles(X[:1], [0.2, 0.5])
        np.testing.assert_allclose(interval, expected["interval"], rtol=1e-5)
        np.testing.assert_allclose(quantiles, expected["quantiles"], rtol=1e-5)


Header = dict[str, Any]
DAMAGES: list[tuple[str, Callable[[Header], Any], str]] = [
    ("classifier", lambda h: h["labels"]["values"].pop(), "classes must be 3 labels"),
    ("classifier", lambda h: h["labels"]["values"].reverse(), "sorted"),
    ("regressor", lambda h: h["pack"]["members"].clear(), "without members"),
    ("regressor", lambda h: h["schema"]["levels"].clear(), "beyond the columns"),
    ("regressor", lambda h: h["schema"].update(named=3), "named must be true"),
    ("regressor", lambda h: h["leaderboard"][0].insert(0, 1.5), r"leaderboard.0 must have 0, 1"),
    ("regressor", lambda h: h["leaderboard"][0].reverse(), "leaderboard.0.0 must be str"),
    ("regressor", lambda h: h["parameters"].update(cv=-3), "'cv' parameter"),
    ("regressor", lambda h: h["pack"]["outputs"].update(task="binary"), "binary"),
    ("regressor", lambda h: h["pack"]["outputs"].update(task="ranking"), "got 'ranking'"),
    ("regressor", lambda h: h["pack"]["outputs"].update(scale=0.0), "a scale above 0"),
    ("regressor", lambda h: h["pack"]["outputs"].update(n_outputs=2), "a net of"),
    ("regressor", lambda h: h["pack"]["members"][0].update(encoding=7), "the encoding 7 of"),
    ("regressor", lambda h: h["pack"]["members"][0].update(weight=1.5), "weight must be in"),
    ("regressor", lambda h: h["pack"]["members"][0]["net"].update(layer_sizes=[3, 1]), "has 0 hid"),
    ("regressor", lambda h: h["pack"]["encodings"][0].update(scaling="log"), "scaling 'log'"),
    ("regressor", lambda h: h["pack"].update(validation_score=None), "score must be float"),
]


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGES)
def test_content_that_is_no_model(
    name: str, damage: Callable[[Header], Any], words: str, tmp_path: Path
) -> None:
    content = copy.deepcopy(files.read(GOLDEN / f"2-tabular-{name}.safetensors"))
    damage(content.header)
    path = tmp_path / "model.safetensors"
    files.write(path, content)
    with pytest.raises(FileError, match=words):
        fastmlp.load(path)


@pytest.mark.slow
def test_places_of_columns_are_compared_with_the_table(tmp_path: Path) -> None:
    content = files.read(GOLDEN / "2-tabular-pairs.safetensors")
    damaged: list[tuple[Path, str]] = []
    for name in ("scaled", "missing", "statistics", "pairs", "pieces", "levels"):
        columns = f"pack.encodings.0.{name}.columns"
        for place in (4, 6 * 10**7, 2**62):
            damaged.append((tmp_path / f"{len(damaged)}.safetensors", name))
            arrays = {**content.arrays, columns: content.arrays[columns] + place}
            files.write(damaged[-1][0], content._replace(arrays=arrays))

    def load() -> None:
        for path, name in damaged:
            with pytest.raises(FileError, match=f"{name}.columns beyond the columns of the table"):
                fastmlp.load(path)

    assert peak_of(load) < 1e6


def test_a_kind_that_does_not_suit_the_pack(tmp_path: Path) -> None:
    content = files.read(GOLDEN / "2-tabular-classifier.safetensors")
    path = tmp_path / "model.safetensors"
    content.header["parameters"].pop("class_weight")
    files.write(path, content._replace(kind="TabularMLPRegressor"))
    with pytest.raises(FileError, match="a pack of multiclass in a file of another kind"):
        fastmlp.load(path)


@needs_compiler
def test_what_no_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(NotFittedError):
        fastmlp.save(TabularMLPRegressor(), path)
    frame, y = drawn()
    best = [("tree", DecisionTreeRegressor())]
    # The tree knows the rows to validate on by heart.
    model = TabularMLPRegressor(**{**FEW, "extra_members": best})
    model.fit(frame, y, X_val=frame[:40], y_val=y[:40])
    with pytest.raises(ValueError, match="has tree of extra_members, which a file of numbers"):
        fastmlp.save(model, path)
    assert not path.exists()


@needs_compiler
def test_threads_are_those_of_load(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for model in (classifier(), regressor()):
        fastmlp.save(model, path, include_training_state=True)
        loaded = fastmlp.load(path, n_threads=1)
        assert loaded.n_jobs == 1
        assert type(loaded) in (TabularMLPClassifier, TabularMLPRegressor)


def test_residuals_must_ascend_and_weights_be_theirs(tmp_path: Path) -> None:
    content = files.read(GOLDEN / "2-tabular-regressor.safetensors")
    residuals = content.arrays["pack.residuals"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"pack.residuals": residuals[::-1].copy()}, "ascend")
    ]
    for weights in (np.ones(len(residuals) - 1), np.full(len(residuals), -1.0)):
        wrong.append(({"pack.row_weights": weights}, "row_weights must be those of the residuals"))
    for arrays, words in wrong:
        path = tmp_path / "model.safetensors"
        files.write(path, content._replace(arrays={**content.arrays, **arrays}))
        with pytest.raises(FileError, match=words):
            fastmlp.load(path)
