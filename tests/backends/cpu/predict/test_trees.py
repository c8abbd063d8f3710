"""The compiled block of boosted trees, in any layout of the rows, and their probabilities."""

import numpy as np
import pytest

from fastmlp.backends.cpu.kernels.rule_blocks import linked
from fastmlp.backends.cpu.predict.trees import TreeNodes, add_trees

NAN = np.nan


def test_trees_are_added() -> None:
    """Two trees: a number, then levels 1, 33 and 255 of the second column; and a leaf alone."""
    words = np.zeros(8, np.int64)
    words[0], words[1], words[7] = 1 << 1, 1 << 1, -(1 << 31)
    nodes = TreeNodes(
        roots=np.array([0, 5]),
        features=np.array([0, 1, -1, -1, -1, -1]),
        numbers=np.array([0.5, 0.0, 1.0, 2.0, 4.0, 8.0]),
        children=np.array([[1, 4, 4], [2, 3, 3], *[[0, 0, 0]] * 4]),
        places=np.array([-1, 0, -1, -1, -1, -1]),
        sets=words,
    )
    levels = [1, 33, 255, 0, 65, NAN, 300, -1, 1, 1]
    X = np.array([[0.5, 0, 0, 0, 0, 0, 0, 0, 1, NAN], levels]).T
    wide = np.zeros((20, 4))
    wide[::2, ::2] = X
    for given in (X, np.ascontiguousarray(X), wide[::2, ::2]):
        out = np.full((10, 2), 16.0, order="F")
        add_trees(given, out, nodes)
        assert out[:, 0].tolist() == [17, 17, 17, *[18] * 5, 20, 20]
        assert (out[:, 1] == 24).all()
    with pytest.raises(ValueError, match="out must have columns of float64, with 10 rows"):
        add_trees(X, out[1:], nodes)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_probabilities_of_sums(n: int) -> None:
    raw = np.asfortranarray(10 * np.random.default_rng(n).normal(size=(9, n)))
    raw[0], raw[1, 0] = -800, 800
    link = "softmax" if n > 1 else "sigmoid"
    shares = linked(link, raw)
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    if n == 1:
        with np.errstate(over="ignore"):
            expected = 1 / (1 + np.exp(-raw))
    np.testing.assert_allclose(shares, expected, rtol=1e-14, atol=1e-300)
    for r in range(9):
        one = linked(link, raw[r : r + 1])
        np.testing.assert_array_equal(one, shares[r : r + 1])
