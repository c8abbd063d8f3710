"""Programs beside `compare`: their ways do the same, runs of little, arithmetic and tables."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cartpole, cluster, command_line, embedding
from benchmarks.conftest import MACHINE, page_of
from benchmarks.output import BEGIN, END
from benchmarks.workloads import Array
from fastmlp import MLP, jit
from fastmlp.compiler.jit import INTERPRETED


@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("who", cartpole.CONTESTANTS)
def test_both_sides_take_steps(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if who == "fastmlp":
        alone = import_module("examples.environments.cartpole").CartPole
        monkeypatch.setattr(cartpole, "environment", alone)
    else:
        pytest.importorskip("stable_baselines3", reason="it is measured")
    monkeypatch.setattr(cartpole, "ROLLOUT", 10)
    record = cartpole.ends_of(who, seed=1, most_steps=2100)
    assert (record["who"], record["seed"], record["steps"]) == (who, 1, 2100)
    assert record["seconds"] > 0
    assert record["processor"] > 0


def test_the_goal_is_a_mean_of_the_last_episodes() -> None:
    finish = cartpole.Finish()
    returns = [*[10.0] * 5, *[200.0] * 98]
    assert [finish.reached(total) for total in returns].index(True) == 102
    assert not finish.reached(-500.0)


def test_weights_are_orthogonal() -> None:
    actor, critic = cartpole.nets(0)
    gains = [np.linalg.svd(w)[1] for net in (actor, critic) for w in net.weights]
    expected = [2**0.5, 2**0.5, 0.01, 2**0.5, 2**0.5, 1.0]
    for values, gain in zip(gains, expected, strict=True):
        np.testing.assert_allclose(values, gain, rtol=1e-5)
    assert not np.allclose(actor.weights[0], critic.weights[0])


def test_the_table_has_all_seeds() -> None:
    same = {"most": 5000, "seconds": 9.0}
    records = [
        same | {"who": "fastmlp", "seed": 0, "steps": 4000, "processor": 0.4},
        same | {"who": "stable-baselines3", "seed": 0, "steps": 5000, "processor": 7.5},
        same | {"who": "fastmlp", "seed": 1, "steps": 2000, "processor": 0.2},
    ]
    results = {"machine": MACHINE, "versions": {}, "environment": 11e-6, "records": records}
    text = "\n".join(cartpole.lines(results))
    assert "| 0 | 4,000 | 0.4 | not in 5,000 | 7.5 |" in text
    assert "| 1 | 2,000 | 0.2 | - | - |" in text
    assert "100 us with fastmlp, 1500 us with stable-baselines3, 15.0 times as much" in text
    results["records"] = records[::2]
    assert "us with" not in "\n".join(cartpole.lines(results))
    marks = [f"<!-- cartpole:{end} -->" for end in ("begin", "end")]
    assert [cartpole.PAGE.read_text().count(mark) for mark in marks] == [1, 1]


def little(client: Any, turn: int) -> list[Array]:
    """Train three small nets on 0.8 MB of rows."""
    from fastmlp import MLP, fit_many

    X = np.random.default_rng(turn).normal(size=(10_000, 20)).astype(np.float32)
    made = [MLP((20, 4, 1), seed=i) for i in range(3)]
    fit_many(made, X, X[:, 0], epochs=1, client=client)
    return [net.parameters for net in made]


def test_a_cluster_of_little(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setitem(cluster.WORKS, "nets", cluster.Work("three nets", little))
    monkeypatch.setattr(cluster, "N_TASKS", 4)
    text = page_of(cluster.main, ["--parts", "nets", "--turns", "1"], page)
    (record,) = json.loads(page.with_name("results.json").read_text())["records"]
    assert len(record["here"]) == len(record["there"]) == 1
    # Rows are sent once to each worker that asks for them: to one, or to both, in two calls.
    n_bytes = 10_000 * 21 * 4
    assert n_bytes < record["first"][0] + record["again"][0] < 3 * n_bytes
    assert record["first"][1] > 0
    assert "| three nets | " in text


def test_runs_of_parts_are_merged_in_order() -> None:
    record: dict[str, Any] = {"here": [2.0, 4.0], "there": [3.0, 5.0], "again": [1, 2]}
    record["first"] = [2_000_000, 100_000]
    before = [record | {"name": name, "here": [9.0]} for name in ("table", "nets")]
    both = cluster.merged(before, [record | {"name": "nets"}])
    assert [r["name"] for r in both] == ["nets", "table"]
    results = {"machine": MACHINE, "versions": {}, "milliseconds_a_task": 4.0, "records": both}
    text = "\n".join(cluster.lines(results))
    assert f"| {cluster.WORKS['nets'].title} | 2.00 s | 3.00 s | 1.50 | 2.0 | 0.0 | 0.1 |" in text
    assert "A group without work takes 4.0 ms." in text


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
