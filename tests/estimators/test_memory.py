"""Sparse rows stay sparse: what a fit on many features takes."""

import sys
from collections.abc import Callable

import pytest

from fastmlp._compile.jit import INTERPRETED

FIT = """
import resource
import warnings

import numpy as np
from scipy import sparse

from fastmlp import MLPClassifier

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = sparse.random_array((2_000, 50_000), density=0.001, rng=rng, format="csr")
y = np.asarray(X.sum(axis=1)).ravel() > 25


def most():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fit(rows, units):
    return MLPClassifier((units,), max_iter=1, n_jobs=1).fit(rows, y[: rows.shape[0]])


fit(X[:400], 2).predict(X[:400])  # compiles; a team, which n_jobs forbids, would take 40 MB
before = most()
model = fit(X, 100)
model.predict(X)
matrix = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
parameters = sum(part.nbytes for part in model.coefs_ + model.intercepts_)
print((most() - before - 2 * matrix) / parameters)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units")
@pytest.mark.skipif(INTERPRETED, reason="NUMBA_DISABLE_JIT is set: too slow")
def test_a_sparse_fit_takes_twice_the_matrix_and_four_times_the_parameters(
    python: Callable[..., str],
) -> None:
    # They are held flat and in the panels that training works on, and Adam has two numbers each:
    # 160 MB; dense rows would be 800 MB. Of arrays below 32 MB the allocator may keep freed ones.
    assert float(python(FIT)) < 4.4
