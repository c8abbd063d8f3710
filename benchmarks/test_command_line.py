"""The comparison of the command with LightGBM: its commands run, and its table."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import command_line
from benchmarks.command_line import PAGE, CsvTable
from benchmarks.conftest import MACHINE
from benchmarks.output import BEGIN, END
from fastmlp.compiler.jit import INTERPRETED

pd = pytest.importorskip("pandas", reason="tables are frames of pandas")


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.parametrize("who", ["fastmlp", "LightGBM"])
@pytest.mark.parametrize("score", ["R2", "AUC"])
def test_both_learn_a_table(who: str, score: str, tmp_path: Path) -> None:
    for library in ("pyarrow", "sklearn", *["lightgbm"] * (who == "LightGBM")):
        pytest.importorskip(library, reason="it is measured, or measures")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=2000), "b": rng.choice(["u", "v"], 2000)})
    number = table["a"] + (table["b"] == "u") * 2.0
    table["y"] = number if score == "R2" else np.where(number > 0.5, "yes", "no")
    for name in ("train.csv", "later.csv"):
        table.to_csv(tmp_path / name, index=False)
    record = command_line.measure(CsvTable("", "made", "y", score, ("a", "b")), who, tmp_path)
    assert record["who"] == who
    assert record["score"] > 0.95
    assert min(record["train"], record["predict"]) > 0


def test_the_table_has_the_shortest_times() -> None:
    same = {"table": "t", "rows": 1234, "metric": "R2", "who": "fastmlp"}
    records = [
        same | {"train": 2.0, "predict": 0.25, "score": 0.5},
        same | {"train": 1.0, "predict": 0.75, "score": 0.7},
    ]
    *_, last = command_line.lines({"machine": MACHINE, "versions": {}, "records": records})
    assert last == "| t | 1,234 | fastmlp | 1.0 s | 0.2 s | R2 0.6000 |"
    assert [PAGE.read_text().count(mark) for mark in (BEGIN, END)] == [1, 1]
