"""A grid search: fastmlp's `MLPSearchCV` beside scikit-learn's `GridSearchCV` in processes.

Both search the same candidates over the same folds with the same random state, in float64, and find
the same scores.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from benchmarks.machine import cores
from benchmarks.scores import counted

FOLDS = 5
GRID: dict[str, list[Any]] = {
    "hidden_layer_sizes": [(32,), (64,), (32, 32)],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "learning_rate_init": [1e-3, 1e-2],
    "batch_size": [64, 200],
}
QUICK: dict[str, list[Any]] = {"hidden_layer_sizes": [(8,)], "alpha": [1e-4, 1e-2]}
FIXED = {"max_iter": 30, "random_state": 0}
TIMES = ("mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time")


def search(contestant: str, quick: bool) -> dict[str, Any]:
    """Search, timed; return seconds, the scores and the best parameters."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = X / 16
    parameters = QUICK if quick else GRID
    fixed = {**FIXED, "max_iter": 3} if quick else FIXED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _search(contestant, parameters, fixed)
        begin = time.perf_counter()
        with nullcontext() if contestant == "fastmlp" else _processes():
            model.fit(X[:300] if quick else X, y[:300] if quick else y)
        seconds = time.perf_counter() - begin
    scores = [model.cv_results_[f"split{i}_test_score"] for i in range(FOLDS)]
    best = {name: list(v) if isinstance(v, tuple) else v for name, v in model.best_params_.items()}
    return {"seconds": seconds, "scores": np.array(scores).tolist(), "best": best}


def _processes() -> AbstractContextManager[Any]:
    """One thread of BLAS for each process: the environment's number is for all of them together."""
    import joblib

    return joblib.parallel_config("loky", inner_max_num_threads=1)


def _search(contestant: str, parameters: dict[str, list[Any]], fixed: dict[str, Any]) -> Any:
    if contestant == "fastmlp":
        from fastmlp import MLPClassifier, MLPSearchCV

        return MLPSearchCV(MLPClassifier(**fixed), parameters, cv=FOLDS)
    from sklearn import neural_network
    from sklearn.model_selection import GridSearchCV

    model = neural_network.MLPClassifier(**fixed)
    return GridSearchCV(model, parameters, cv=FOLDS, n_jobs=cores())


def race(contestants: list[Any], quick: bool, say: Callable[[str], None]) -> list[Any]:
    """Return a record of both searches, at each number of threads where there are both."""
    records = []
    for threads in dict.fromkeys(c.n_threads for c in contestants):
        pair = {c.name: c for c in contestants if c.n_threads == threads}
        if not {"fastmlp", "sklearn"} <= pair.keys():
            continue
        record: dict[str, Any] = {"threads": threads, "quick": quick}
        for name in ("fastmlp", "sklearn"):
            say(f"grid: {pair[name].title}, threads {threads}")
            if name == "fastmlp" or quick:
                pair[name].ask("search", quick=True)  # compiles, and starts the processes
            record[name] = pair[name].ask("search", quick=quick)
        records.append(record)
    return records


def lines(records: list[dict[str, Any]]) -> Iterator[str]:
    """Times, and whether the scores are the same."""
    for r in records:
        ours, theirs = r["fastmlp"], r["sklearn"]
        if "seconds" not in ours or "seconds" not in theirs:
            yield f"\ngrid: {ours.get('error', theirs.get('error'))}"
            continue
        same = "the same best" if ours["best"] == theirs["best"] else "ANOTHER best"
        yield (
            f"\n{candidates(r)} candidates x {FOLDS} folds on digits, {counted(r['threads'])}: "
            f"fastmlp {ours['seconds']:.3g} s, GridSearchCV {theirs['seconds']:.3g} s, "
            f"{ratio(r):.2f}x; {different(r)} of {FOLDS * candidates(r)} scores differ, {same}"
        )


def table(records: list[dict[str, Any]]) -> Iterator[str]:
    """The same as a sentence for docs/benchmarks.md."""
    for r in records:
        if "seconds" in r["fastmlp"] and "seconds" in r["sklearn"]:
            yield (
                f"\nA search of {candidates(r)} candidates x {FOLDS} folds on digits, float64: "
                f"`MLPSearchCV` {r['fastmlp']['seconds']:.3g} s, `GridSearchCV` in processes "
                f"{r['sklearn']['seconds']:.3g} s, {ratio(r):.2f}x; {different(r)} scores differ."
            )


def candidates(record: dict[str, Any]) -> int:
    """Return how many candidates there are."""
    return len(record["fastmlp"]["scores"][0])


def ratio(record: dict[str, Any]) -> float:
    """Return scikit-learn's time over fastmlp's."""
    return float(record["sklearn"]["seconds"] / record["fastmlp"]["seconds"])


def different(record: dict[str, Any]) -> int:
    """Return how many scores are not the same."""
    ours, theirs = (np.array(record[name]["scores"]) for name in ("fastmlp", "sklearn"))
    return int((np.abs(ours - theirs) > 1e-9).sum())
