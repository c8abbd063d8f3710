"""Programs beside `compare`: their ways do the same, runs of little, arithmetic and tables."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import command_line, embedding
from benchmarks.conftest import MACHINE
from benchmarks.output import BEGIN, END
from fastmlp import MLP, jit
from fastmlp.compiler.jit import INTERPRETED


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.parametrize("who", ["fastmlp", "LightGBM"])
@pytest.mark.parametrize("score", ["R2", "AUC"])
def test_both_learn_a_table(who: str, score: str, tmp_path: Path) -> None:
    for library in ("pyarrow", "sklearn", *["lightgbm"] * (who == "LightGBM")):
        pytest.importorskip(library, reason="it is measured, or measures")
    pd = pytest.importorskip("pandas", reason="tables are its frames")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=2000), "b": rng.choice(["u", "v"], 2000)})
    number = table["a"] + (table["b"] == "u") * 2.0
    table["y"] = number if score == "R2" else np.where(number > 0.5, "yes", "no")
    for name in ("train.csv", "later.csv"):
        table.to_csv(tmp_path / name, index=False)
    record = command_line.both(
        command_line.CsvTable("", "made", "y", score, ("a", "b")), who, tmp_path
    )
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
    assert [command_line.PAGE.read_text().count(mark) for mark in (BEGIN, END)] == [1, 1]


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: no code")
def test_ways_predict_the_same() -> None:
    net, x = MLP((4, 5, 6, 1), activation="tanh", seed=0), np.ones(4, np.float32)
    tables = tuple(map(np.ascontiguousarray, net.weights)), tuple(map(np.array, net.biases))
    expected = embedding.by_handle(jit.compiled(net), x, None)
    for way in ("one sum after the other", embedding.BEST, "`x @ W`"):
        work = np.zeros((3, 6), np.float32)
        value = embedding.by_hand("tanh", way)(tables, x, work)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_nets_in_compiled_code_have_ratios() -> None:
    ns = {embedding.HANDLE: 100.0, embedding.BEST: 250.0}
    records = [{"net": "4-32-32-1", "activation": "relu", "ns": ns}]
    results = {"machine": MACHINE, "versions": {"numpy": "2.0"}, "records": records}
    text = "\n".join(embedding.lines(results))
    assert "| rows of weights, fastmath | 250 (2.50x) |" in text
