"""The comparison with stable-baselines3 on CartPole: both sides take steps, and its table."""

from importlib import import_module

import numpy as np
import pytest

from benchmarks import cartpole
from benchmarks.conftest import MACHINE
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
    record = cartpole.measure(who, seed=1, most_steps=2100)
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
