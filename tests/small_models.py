"""Small models of every class, small tables,
drawn or fixed, and models through a file.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import PredefinedSplit

import fastmlp
from fastmlp import (
    MLP,
    MLPClassifier,
    MLPRegressor,
    MLPSearchCV,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from fastmlp.tabular import Encoding, Schema, boosted_trees, reports
from fastmlp.tabular.extras import matrix
from fastmlp.tabular.outputs import outputs_of
from fastmlp.tabular.pack import Member, Pack
from fastmlp.tabular.settings import Recipe

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
LITTLE: dict[str, Any] = {
    "hidden_layer_sizes": (4,),
    "max_iter": 3,
    "random_state": 0,
    "tol": 0,
}
TARGETS: dict[str, Any] = {
    "number": X[:, 0] + 1,
    "numbers": X[:, :2],
    "two": X[:, 0] > 0,
    "three": np.array([*"abc"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "labels": (X[:, :2] > 0).astype(int),
    "one": np.zeros(60, int),
}


def net_of(target: str, loss: Any) -> Any:
    sizes = {"numbers": (3, 4, 2), "labels": (3, 4, 2), "three": (3, 4, 3)}.get(
        target, (3, 4, 1)
    )
    return MLP(sizes, loss=loss).as_estimator(random_state=0, epochs=2)


MODELS: dict[str, Any] = {
    "regressor": lambda target: MLPRegressor(**LITTLE),
    "classifier": lambda target: MLPClassifier(**LITTLE),
    "net": lambda target: net_of(target, "mse"),
    "net_classifier": lambda target: net_of(target, "binary_cross_entropy"),
    "net_softmax": lambda target: net_of(target, "cross_entropy"),
    "search": lambda target: MLPSearchCV(
        MLPRegressor(**LITTLE),
        {"alpha": [0.1, 1.0]},
        cv=PredefinedSplit(np.arange(60) % 2),
    ),
}
CASES = [
    *[
        (name, target)
        for name in ("regressor", "net", "search")
        for target in ("number", "numbers")
    ],
    *[("classifier", target) for target in ("two", "three", "labels", "one")],
    *[("net_classifier", target) for target in ("two", "labels")],
    ("net_softmax", "three"),
]
# Without trees, which the default preset has: they take longer than so few epochs.
FEW: dict[str, Any] = {
    "preset": "fast",
    "n_members": 2,
    "max_iter": 8,
    "random_state": 0,
}
TOWNS = np.array(["Bern", "Chur", "Genf", "Zug"])


@cache
def drawn(n: int = 120, seed: int = 0) -> tuple[pd.DataFrame, Any]:
    """Numbers, some of them missing, texts and booleans;
    and a number that depends on them.
    """
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 90, n),
            "town": generator.choice(TOWNS, n),
            "income": generator.lognormal(1, 1, n),
            "member": generator.random(n) < 0.4,
        }
    )
    y = frame["age"] / 20 + (frame["town"] == "Chur") * 2 + frame["member"]
    frame.loc[generator.random(n) < 0.1, "income"] = np.nan
    frame.loc[generator.random(n) < 0.1, "town"] = None
    return frame, y.to_numpy() + 0.2 * generator.normal(size=n)


def labels(n: int = 120) -> Any:
    """Three classes as texts."""
    y = drawn(n)[1]
    return np.array(["low", "middle", "top"])[
        np.searchsorted(np.quantile(y, [0.3, 0.7]), y)
    ]


@cache
def classifier() -> TabularMLPClassifier:
    """A model of the three classes, with rows of its own to validate on."""
    X, _ = drawn()
    return TabularMLPClassifier(**FEW).fit(
        X, labels(), X_val=X[::3], y_val=labels()[::3]
    )


@cache
def decided() -> tuple[TabularMLPClassifier, pd.DataFrame, Any]:
    """A model of one net whose labels weigh the rare of two classes, and its rows."""
    X, y = drawn()
    rare = (y > np.quantile(y, 0.85)).astype(int)
    settings = {**FEW, "n_members": 1, "scoring": "balanced_accuracy"}
    return TabularMLPClassifier(**settings).fit(X, rare, X_val=X, y_val=rare), X, rare


@cache
def regressor() -> TabularMLPRegressor:
    """A model of the number, of folds."""
    return TabularMLPRegressor(**FEW, cv=2).fit(*drawn())


# Kinds of ensembles with boosted trees.
# Training rows may lack classes that others have.
LACKING = {"two of three": [0, 2], "one class": [1]}
WITH_TREES = ("number", "binary", "multiclass", *LACKING, "alone", "many levels")


@cache
def with_trees(kind: str) -> tuple[Any, pd.DataFrame]:
    """A model whose ensemble has boosted trees, of 15 rounds, and its table."""
    n = 900 if kind == "many levels" else 120
    X, y = drawn(n)
    options: dict[str, Any] = {**FEW, "n_members": 1, "max_iter": 1, "trees": True}
    options |= {"ensemble": "mean", "cv": None if kind == "alone" else 2}
    if kind == "binary":
        y = y > np.median(y)
    elif kind == "multiclass" or kind in LACKING:
        y = labels()
    elif kind == "many levels":
        X = X.assign(place=[f"place {k % 300}" for k in range(n)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted_trees, "ROUNDS", 15)
        if y.dtype != float:
            model: Any = TabularMLPClassifier(**options).fit(X, y)
        else:
            model = TabularMLPRegressor(**options)
            if kind == "alone":
                alone = {"X_val": X, "y_val": y}
            else:
                alone = {}
            model.set_params(ensemble="best" if alone else "mean").fit(X, y, **alone)
        if kind in LACKING:
            some = boosted_trees.BoostedTrees(classes=True, n_categories=2)
            some.fit(matrix(model.schema_.read(X)), np.resize(LACKING[kind], n))
            model.extra_members_ = [(boosted_trees.TREES_NAME, some)]
    assert model.pack_.extra_weights[0] > 0
    return model, X


@cache
def on_edges(seed: int) -> tuple[Any, pd.DataFrame]:
    """A model with boosted trees,
    and a table that repeats its training values and has new ones.
    """
    g = np.random.default_rng(seed)
    n = 600
    X = pd.DataFrame(
        {
            "number": g.normal(size=n),
            "price": g.lognormal(5, 1, n).round(1),
            "whole": g.integers(0, g.choice([9, 400, 2**30]), n).astype(float),
            "repeated": g.choice(g.normal(size=300), n) * 1e6,
        }
    )
    ranks = X.rank(pct=True).to_numpy() @ g.permutation([1, 2, 3, 5])
    y = np.floor(ranks * g.choice([1, 2]))
    kind: Any = TabularMLPRegressor if seed % 2 else TabularMLPClassifier
    model = kind(**{**FEW, "max_iter": 2}, trees=True, ensemble="mean")
    return model.fit(X[:400], y[:400] if seed % 2 else y[:400] > np.median(y)), X


def _some(column: Any, generator: np.random.Generator) -> Any:
    """The column with a tenth of its values missing, one at least."""
    missing = generator.random(len(column)) < 0.1
    missing[generator.integers(len(column))] = True
    return [
        None if gone else value for value, gone in zip(column, missing, strict=True)
    ]


# Columns of n rows, by their kind.
COLUMNS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "number": lambda g, n: g.normal(size=n),
    "whole": lambda g, n: g.integers(-3, 90, n),
    "two numbers": lambda g, n: g.integers(2, size=n),
    "number or none": lambda g, n: np.where(
        g.random(n) < 0.2, np.nan, g.lognormal(size=n)
    ),
    "bool": lambda g, n: g.random(n) < 0.4,
    "bool or none": lambda g, n: _some(g.random(n) < 0.4, g),
    "two texts": lambda g, n: g.choice(["u", "v"], n),
    "two texts or none": lambda g, n: _some(g.choice(["u", "v"], n), g),
    "texts": lambda g, n: g.choice(TOWNS, n),
    "texts or none": lambda g, n: _some(g.choice(TOWNS, n), g),
    "many texts": lambda g, n: [f"level {k:02}" for k in g.integers(n // 4, size=n)],
    "category": lambda g, n: pd.Categorical(g.integers(5, size=n)),
    "date": lambda g, n: (
        pd.Timestamp(2024, 1, 1) + pd.to_timedelta(g.integers(900, size=n), "D")
    ),
    "time or none": lambda g, n: pd.Series(
        np.datetime64("2024-03-01T05:30", "us")
        + g.integers(10**12, size=n).astype("m8[us]")
    ).mask(g.random(n) < 0.2),
    "ISO texts": lambda g, n: _some(
        np.datetime_as_string(np.datetime64("2023-11-05") + g.integers(60, size=n)), g
    ),
    "constant": lambda g, n: np.full(n, 7),
    "constant text": lambda g, n: ["same"] * n,
    "nothing": lambda g, n: np.full(n, np.nan),
    "id": lambda g, n: [f"row {k}" for k in g.permutation(n)],
}
# Columns of which nothing is learned.
LEFT_OUT = ("constant", "constant text", "nothing", "id")
TASKS = ("regression", "binary", "multiclass")


def table_of(seed: int, n: int = 60) -> tuple[pd.DataFrame, Any, Any]:
    """A drawn table, each column of a drawn kind,
    targets that depend on it, and their task.
    """
    g = np.random.default_rng(seed)
    kinds = [
        *g.choice([*COLUMNS], g.integers(7)),
        g.choice([k for k in COLUMNS if k not in LEFT_OUT]),
    ]
    g.shuffle(kinds)
    frame = pd.DataFrame(
        {f"{kind} {j}": COLUMNS[kind](g, n) for j, kind in enumerate(kinds)}
    )
    codes = [pd.factorize(frame[name], sort=False)[0] for name in frame]
    y = sum(codes) / n + g.normal(size=n)
    task = str(g.choice(TASKS))
    if task != "regression":
        cuts = np.quantile(y, [0.5] if task == "binary" else [0.3, 0.6])
        y = np.array(["low", "middle", "top"])[np.searchsorted(cuts, y)]
    return frame, y, task


def encoding_of(seed: int) -> Encoding:
    """An encoding with drawn settings."""
    g = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:
        return values[g.integers(len(values))]

    return Encoding(
        one_of("robust", "rising"),
        one_of("none", "piecewise"),
        n_bins=one_of(1, 3, 16),
        max_levels=one_of(2, 100),
        min_rows=one_of(1, 2),
        target_levels=one_of(2, 8, None),
        max_integers=one_of(None, 60),
    )


def untrained(seed: int) -> tuple[Any, pd.DataFrame]:
    """A model of a drawn table,
    an encoding that has learned and a net that has not; the table.
    """
    frame, y, task = table_of(seed)
    schema = Schema.learn(frame)
    classes = None
    places = y
    if task != "regression":
        classes, places = np.unique(y, return_inverse=True)
    values = schema.read(frame)
    kind: Any = "regression" if classes is None else "classification"
    encoding = encoding_of(seed).fit(values, places, kind, np.random.default_rng(seed))
    outputs = outputs_of(task, places, None, 0 if classes is None else len(classes))
    net = MLP((encoding.n_inputs, 3, outputs.n_outputs), loss=outputs.loss, seed=seed)
    recipe = Recipe(0, "drawn", (3,), "relu", 0.1, 0.0, 0.0, 0.0, seed)
    rest: dict[str, Any] = {
        "validation_score": -1.0,
        "residuals": np.arange(9.0),
        "n_trained": 1,
    }
    member = Member(recipe, 0, net, 1.0, -1.0, 1)
    pack = Pack(outputs, (encoding,), (member,), extra_weights=np.empty(0), **rest)
    model: Any = TabularMLPRegressor() if classes is None else TabularMLPClassifier()
    model._take(schema, pack, [], classes)
    model.leaderboard_ = reports.leaderboard(pack)
    model.training_ = {"rows": len(frame)}
    return model, frame


PIECE_ROWS = 170


def in_pieces(table: pa.Table) -> pa.Table:
    """Return the table in chunks."""
    starts = range(0, len(table), PIECE_ROWS)
    return pa.concat_tables([table.slice(first, PIECE_ROWS) for first in starts])


def written(table: pa.Table, folder: Path, end: str) -> list[Path]:
    """Write a table to two files of a kind, the first 600 rows and the others."""
    paths = [folder / f"{i}{end}" for i in range(2)]
    for path, part in zip(paths, (table.slice(0, 600), table.slice(600)), strict=True):
        if end == ".parquet":
            pq.write_table(part, path, row_group_size=PIECE_ROWS)
        elif end == ".csv":
            part.to_pandas().to_csv(path, index=False)
        else:
            pyarrow.feather.write_feather(part, path, chunksize=PIECE_ROWS)
    return paths


def forms_of(table: pa.Table) -> dict[str, Callable[[Path], Any]]:
    """Return from a folder to the table as each library has it,
    in memory or in files there.
    """
    pieces = in_pieces(table)
    return {
        "table": lambda folder: table,
        "pieces": lambda folder: pieces,
        "reader": lambda folder: pieces.to_reader(),
        "relation": lambda folder: duckdb.from_arrow(pieces),
        "pandas": lambda folder: table.to_pandas().set_index(
            np.arange(len(table))[::-1]
        ),
        "polars": lambda folder: polars.from_arrow(table),
        "dataset": lambda folder: pyarrow.dataset.dataset(
            written(table, folder, ".parquet")
        ),
        "parquet": lambda folder: [
            str(path) for path in written(table, folder, ".parquet")
        ],
        "feather": lambda folder: written(table, folder, ".feather"),
        "csv": lambda folder: written(table, folder, ".csv"),
    }


def reloaded(model: Any, path: Path, *, training: bool = False, **options: Any) -> Any:
    """Save a model, and return what is loaded from there, by these options."""
    fastmlp.save(model, path, include_training_state=training)
    return fastmlp.load(path, **options)
