"""Programs beside `compare`: their ways do the same, runs of little, arithmetic and tables."""

import numpy as np
import pytest

from benchmarks import embedding
from benchmarks.conftest import MACHINE
from fastmlp import MLP, jit
from fastmlp.compiler.jit import INTERPRETED


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
