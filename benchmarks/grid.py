"""A grid search: fastmlp's `MLPSearchCV` beside scikit-learn's `GridSearchCV` in processes.

Both search the same candidates over the same folds with the same random state, in float64, and find
the same scores.
"""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from benchmarks.machine import cores
from benchmarks.race import Race, timed
from benchmarks.scores import Record, failed

FOLDS = 5
GRID: dict[str, list[Any]] = {
    "hidden_layer_sizes": [(32,), (64,), (32, 32)],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "learning_rate_init": [1e-3, 1e-2],
    "batch_size": [64, 200],
}
QUICK: dict[str, list[Any]] = {"hidden_layer_sizes": [(8,)], "alpha": [1e-4, 1e-2]}
FIXED = {"max_iter": 30, "random_state": 0}


def search_of(contestant: str, quick: bool) -> Any:
    fixed: Any
    parameters, fixed = (QUICK, {**FIXED, "max_iter": 3}) if quick else (GRID, FIXED)
    if contestant == "fastmlp":
        from fastmlp import MLPClassifier, MLPSearchCV

        return MLPSearchCV(MLPClassifier(**fixed), parameters, cv=FOLDS)
    from sklearn import neural_network
    from sklearn.model_selection import GridSearchCV

    model = neural_network.MLPClassifier(**fixed)
    return GridSearchCV(model, parameters, cv=FOLDS, n_jobs=cores())


class Work:
    """In a contestant's process: a search on digits, after a short one that compiles, or starts
    the processes."""

    def __init__(self, worker: Any, quick: bool) -> None:
        self.name, self.clock, self.about = worker.name, worker.clock, dict[str, Any]()
        self.turn(quick=True)

    def turn(self, quick: bool) -> Record:
        """The seconds of a search, the scores and the best parameters."""
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        rows, model = slice(300 if quick else None), search_of(self.name, quick)
        with (
            warnings.catch_warnings(),
            nullcontext() if self.name == "fastmlp" else _processes(),
        ):
            warnings.simplefilter("ignore")
            seconds, _ = timed(partial(model.fit, X[rows] / 16, y[rows]), self.clock)
        scores = [model.cv_results_[f"split{i}_test_score"] for i in range(FOLDS)]
        best = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in model.best_params_.items()
        }
        return {"seconds": seconds, "scores": np.array(scores).tolist(), "best": best}


def _processes() -> AbstractContextManager[Any]:
    """One thread of BLAS for each process: the environment's number is for all of them together."""
    import joblib

    return joblib.parallel_config("loky", inner_max_num_threads=1)


def measure(race: Race) -> list[Record]:
    """A record of both searches, at each number of threads where both contestants are."""
    records: list[Record] = []
    pairs = race.only(("fastmlp", "sklearn"))
    for threads in dict.fromkeys(c.n_threads for c in pairs.contestants):
        both = [c for c in pairs.contestants if c.n_threads == threads]
        record: Record = {"threads": threads, "quick": race.quick}

        def turn(contestant: Any, record: Record) -> None:
            record[contestant.name] = contestant.ask("turn", quick=race.quick)

        if len({c.name for c in both}) == 2:
            works: Any = [(contestant, record, {}) for contestant in both]
            race.take_turns("grid", works, turn, most=1)
            records.append(record)
    return records


def lines(records: list[Record]) -> Iterator[str]:
    """Sentences for the page and the terminal: times, and the scores that differ."""
    for r in records:
        ours, theirs = r.get("fastmlp", {}), r.get("sklearn", {})
        if failed(r) or "seconds" not in ours or "seconds" not in theirs:
            continue
        n, scores = len(ours["scores"][0]), np.array([ours["scores"], theirs["scores"]])
        different = int((np.abs(scores[0] - scores[1]) > 1e-9).sum())
        yield (
            f"\nA search of {n} candidates x {FOLDS} folds on digits, float64: "
            f"`MLPSearchCV` {ours['seconds']:.3g} s, `GridSearchCV` in processes "
            f"{theirs['seconds']:.3g} s, {theirs['seconds'] / ours['seconds']:.2f}x; "
            f"{different} scores differ."
        )
