"""Ways to give a table to a model: each ends with the bits of the plain call."""

import itertools
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.base import clone
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.utils.class_weight import compute_sample_weight
from small_tables import FEW, drawn, labels

import fastmlp
from fastmlp import TabularMLPClassifier, TabularMLPRegressor
from fastmlp._process import memory
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.tabular.estimators import splits
from fastmlp.tabular.pack.folds import Fold

pytestmark = pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
X, Y = drawn()
LABELS = labels()
GROUPS = np.random.default_rng(5).integers(0, 12, 120)
WEIGHT = np.where(np.arange(120) % 7 == 0, 0.0, 1.0 + np.arange(120) % 3)
TABLE = X.assign(sold=LABELS, price=Y, group=GROUPS, weight=WEIGHT)
NAMES = [*X.columns]


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row as dicts, from which a third of the missing values is left out as keys."""
    found = []
    for i, row in enumerate(frame.to_dict("records")):
        found.append({str(k): v for k, v in row.items() if i % 3 or not pd.isna(v)})
    return found


def written(frame: pd.DataFrame, path: Path) -> str:
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=50)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path), compression="uncompressed")
    else:
        frame.to_csv(path, index=False)
    return str(path)


def in_files(frame: pd.DataFrame, path: Path) -> list[Path]:
    cuts = (frame[:50], frame[50:])
    return [Path(written(each, path / f"{i}.parquet")) for i, each in enumerate(cuts)]


def query(frame: pd.DataFrame, path: Path) -> Any:
    connection = duckdb.connect()
    connection.register("frame", frame)
    return connection.sql("select * from frame")


KINDS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, path: frame,
    "polars": lambda frame, path: polars.from_pandas(frame),
    "arrow": lambda frame, path: pyarrow.Table.from_pandas(frame, preserve_index=False),
    "duckdb": query,
    "dicts": lambda frame, path: as_rows(frame),
    "parquet": lambda frame, path: written(frame, path / "a.parquet"),
    "feather": lambda frame, path: Path(written(frame, path / "a.feather")),
    "csv": lambda frame, path: written(frame, path / "a.csv"),
    "csv.gz": lambda frame, path: written(frame, path / "a.csv.gz"),
    "files": in_files,
}


def combinations() -> list[Any]:
    """Return a seeded draw of kinds of tables and what goes with them: each value, most pairs."""
    draw = random.Random(0)
    values = {
        "classes": [True, False],
        "weight": [None, "balanced", {"top": 3.0}],
        "rows": [None, "array", "name"],
        "divided": ["cv", "groups", "named groups", "splitter", "pairs", "X_val"],
        "saved": [False, True],
    }
    every = list(itertools.product(*values.values()))
    cases = [(kind, *case) for kind in KINDS for case in draw.sample(every, 3)]
    return [pytest.param(*case, id="-".join(map(str, case)).replace(" ", "")) for case in cases]


@pytest.mark.parametrize(
    ("kind", "classes", "class_weight", "rows", "divided", "saved"), combinations()
)
def test_every_door_gives_the_bits_of_the_plain_call(
    kind: str,
    classes: bool,
    class_weight: Any,
    rows: Any,
    divided: str,
    saved: bool,
    tmp_path: Path,
) -> None:
    target, y = ("sold", LABELS) if classes else ("price", Y)
    settings: dict[str, Any] = {**FEW, "max_iter": 3}
    plain: dict[str, Any] = {}
    given: dict[str, Any] = {"target": target}
    weight = None if rows is None else WEIGHT
    frame = TABLE[[*NAMES, target]]
    if rows == "name":
        frame = frame.assign(weight=WEIGHT)
    if rows is not None:
        given["sample_weight"] = WEIGHT if rows == "array" else "weight"
    kept = np.arange(120) if weight is None else np.flatnonzero(weight)
    if classes and class_weight is not None:
        of_class = np.zeros(120)
        of_class[kept] = compute_sample_weight(class_weight, y[kept])
        weight = of_class if weight is None else weight * of_class
        settings["class_weight"] = class_weight
    if "groups" in divided:
        settings["cv"] = 3
        given["groups"] = "group" if "named" in divided else GROUPS
        frame = frame.assign(group=GROUPS) if "named" in divided else frame
        folding = StratifiedGroupKFold if classes else GroupKFold
        pairs = folding(3).split(X.iloc[kept], y[kept], GROUPS[kept])
        plain["cv"] = [(kept[first], kept[second]) for first, second in pairs]
    elif divided == "X_val":
        (tmp_path / "valid").mkdir()
        given["X_val"] = KINDS[kind](frame[::2], tmp_path / "valid")
        if rows is not None:
            given["sample_weight_val"] = WEIGHT[::2] if rows == "array" else "weight"
        plain |= {"X_val": X[::2], "y_val": y[::2]}
        plain["sample_weight_val"] = None if weight is None else weight[::2]
    else:
        settings["cv"] = 2
    if divided == "splitter":
        settings["cv"] = (StratifiedKFold if classes else KFold)(2, shuffle=True, random_state=1)
    if divided == "pairs":
        settings["cv"] = list(KFold(3).split(X))
    make = TabularMLPClassifier if classes else TabularMLPRegressor
    model = clone(make(**settings)).fit(KINDS[kind](frame, tmp_path), **given)
    settings.pop("class_weight", None)
    if "cv" in plain:
        settings["cv"] = plain.pop("cv")
    expected = make(**settings).fit(X, y, sample_weight=weight, **plain)
    if saved:
        fastmlp.save(model, tmp_path / "m.safetensors")
        model = fastmlp.load(tmp_path / "m.safetensors")
    method = "predict_proba" if classes else "predict"
    of_model, of_plain = (getattr(one, method)(X) for one in (model, expected))
    np.testing.assert_array_equal(of_model, of_plain)
    assert model.training_["target"] == target
    assert model.feature_names_in_.tolist() == NAMES
    np.testing.assert_array_equal(getattr(model, method)(as_rows(X)), of_plain)
