"""Steps that are called from Python: all contestants take the same; the report and the page."""

from typing import Any

import numpy as np
import pytest

from benchmarks import compare, steps
from benchmarks.conftest import Ours, short_race
from benchmarks.peers import PEERS, missing, one_step
from benchmarks.peers.one_step import FIT, INSIDE, OURS, PARTIAL_FIT, STEPS
from benchmarks.race import calls_in
from benchmarks.workloads import CE, Workload

NETS = (
    Workload((5, 8, 8, 2), 8, 32, "tanh", dtype="float32"),
    Workload((4, 16, 3), 8, 32, loss=CE),
)
NAME = "8-64-64-2@64"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("load", NETS, ids=lambda load: load.name)
@pytest.mark.parametrize("contestant", STEPS)
def test_ways_take_the_same_steps(contestant: str, load: Workload) -> None:
    """The batches are taken in their order, each by one step of Adam."""
    if reason := missing(contestant):
        pytest.skip(reason)
    expected = one_step.ways("fastmlp", load, quick=False)[FIT]
    assert expected.parameters is not None
    expected.run(9)
    for name, way in one_step.ways(contestant, load, quick=False).items():
        if way.parameters is not None:
            way.run(9)
            difference = np.abs(way.parameters() - expected.parameters())
            assert np.quantile(difference, 0.99) < 3e-4, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("contestant", ["fastmlp", "sklearn", "river"])
def test_learners_of_a_stream_learn(contestant: str) -> None:
    for name in (contestant, "river"):
        if reason := missing(name):
            pytest.skip(reason)
    _, y, unit = one_step.stream_of(quick=True)
    usual = unit * np.abs(y[one_step.FIRST_ROWS :]).mean()
    for way in one_step.ways(contestant, steps.STREAM, quick=True).values():
        assert way.units == len(y)
        assert way.mae is not None
        assert way.mae < usual


def test_contestants_of_this_part_alone() -> None:
    names = {name for task in one_step.CALLS for name in one_step.makers(task)} | {
        *STEPS
    }
    assert names <= {*PEERS}
    assert {name for name, peer in PEERS.items() if peer.alone} == {
        *("keras", "river", "lightgbm", "chimeraboost", "wheel")
    }


def test_turns_of_little() -> None:
    records = steps.measure(short_race(Ours(), names=["2-4-1@4"]), [])
    assert {FIT, INSIDE, PARTIAL_FIT} <= {record["way"] for record in records}
    assert all(len(record["seconds"]) == 2 for record in records)


def test_a_turn_has_as_many_calls_as_its_seconds_allow() -> None:
    """Seconds are of a unit, of which a call has 50."""
    asked: list[int] = []

    class Slow:
        name = title = "fastmlp"
        n_threads = 1

        def ask(self, verb: str, **request: Any) -> dict[str, Any]:
            if verb == "make":
                return {"ways": {"fit": {"units": 50}}}
            asked.append(request["calls"])
            return {"seconds": 0.001}

    (record,) = short_race(Slow()).ways("steps", seconds=0.2, task="t")
    assert asked == [1, 1, 4, 4]
    assert record["seconds"] == [0.001] * 2


def test_cold_calls_do_not_tell_how_many_a_turn_has() -> None:
    """The first call compiles, the next ones take 1/8192 of a second, then all 1/65536."""
    asked: list[int] = []

    class Warming:
        def ask(self, verb: str, **request: Any) -> dict[str, Any]:
            asked.append(request["calls"])
            return {"seconds": (1.0, 2**-13, 2**-16)[min(len(asked), 3) - 1]}

    assert calls_in(Warming(), "step", 1 / 16) == 4096
    assert asked == [1, 1, 8, 8, 64, 64, 512, 512]


def with_steps(results: dict[str, Any]) -> dict[str, Any]:
    """Results of a net, of a call, of the stream, and of a peer that failed."""

    def record(
        name: str, task: str, way: str, us: float, **more: Any
    ) -> dict[str, Any]:
        key = {"contestant": name, "threads": 2, "task": task, "way": way}
        return {**key, "seconds": [1e-6 * us] * 3, **more}

    results["steps"] = [
        record("fastmlp", NAME, INSIDE, 10),
        record("fastmlp", NAME, OURS, 12),
        record("fastmlp", NAME, FIT, 100),
        record("jax", NAME, "jit", 90),
        record("jax", NAME, "jit, optax", 60),
        record("lightgbm", "table row", "predict", 900),
        record("fastmlp", "table row", "predict", 300),
        record("river", "stream", "LinearRegression", 10, mae=0.5),
        {
            "contestant": "keras",
            "threads": 2,
            "task": NAME,
            "seconds": [],
            "error": "it ended",
        },
    ]
    return results


def test_steps_are_shown_with_their_aims(results: dict[str, Any]) -> None:
    assert f"{NAME}: Keras over TensorFlow: it ended" in "\n".join(
        compare.all_lines(with_steps(results))
    )
    text = compare.pages(results)[steps.PAGE]
    ratio, jax = "**1.20x** (1.20 to 1.20)", "**5.00x** (5.00 to 5.00)"
    assert f"| {NAME} | 12 | 10 | {ratio} | {jax} | - | - | - | - |" in text
    assert "JAX, the fastest of its ways: jit, optax." in text
    assert "| `fit` of one batch, 8-64-64-2@64 | 100 | - | - |" in text
    beside = "| 300 | LightGBM | **3.00x** (3.00 to 3.00) |"
    assert f"| `TabularMLPRegressor.predict`, one row {beside}" in text
    assert "| river | LinearRegression | 10 | 100,000 | 0.500 |" in text
    assert not list(steps.table(compare.empty(), 2))
    assert {call.task for call in steps.CALLS} <= set(steps.TASKS)
