"""fastmlp's models of tables, as contestants: alone, and with trees in the same selection."""

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.tabular.models import Model
from benchmarks.tabular.sources import Table
from benchmarks.workloads import Array

FASTMLP, WITH_TREES = "fastmlp", "fastmlp and trees"


def fitted(table: Table, threads: int, seed: int, **settings: Any) -> Any:
    """Return a model of a table, fitted with no setting but threads and the seed."""
    tabular = import_module("fastmlp.tabular")
    kind = "Regressor" if table.task == "regression" else "Classifier"
    model = getattr(tabular, f"TabularMLP{kind}")(random_state=seed, n_jobs=threads, **settings)
    train, validation = table.train, table.validation
    model.fit(
        table.x.iloc[train],
        table.y[train],
        X_val=table.x.iloc[validation],
        y_val=table.y[validation],
    )
    return model


def pack(table: Table, threads: int, seed: int, **settings: Any) -> Array:
    """Return what such a model, a pack of nets, predicts."""
    model, rows = fitted(table, threads, seed, **settings), table.x.iloc[table.test]
    return np.asarray(
        model.predict(rows) if table.task == "regression" else model.predict_proba(rows)
    )


def with_trees(table: Table, threads: int, seed: int) -> Array:
    """Return what the pack predicts when it may select scikit-learn's trees as a member."""
    trees = import_module("sklearn.ensemble")
    kind = "Regressor" if table.task == "regression" else "Classifier"
    member = getattr(trees, f"HistGradientBoosting{kind}")(random_state=seed)
    return pack(table, threads, seed, extra_members=[("trees", member)])


OURS: dict[str, Model] = {FASTMLP: pack, WITH_TREES: with_trees}
# To compare fastmlp with itself; they run if they are named.
PRESETS: dict[str, Model] = {
    f"{FASTMLP} {preset}": partial(pack, preset=preset) for preset in ("fast", "best")
}
