"""X is in memory once: what a fit takes beside it, on dense rows and on sparse ones."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fitting import needs_compiler, unconverged
from memory_use import peak_of

from fastmlp import MLPClassifier, MLPRegressor

pytestmark = [needs_compiler, unconverged]

FIT = """
import warnings

import numpy as np
from memory_use import bytes_of_process, peak_of_process
from scipy import sparse

from fastmlp import MLPClassifier

warnings.simplefilter("ignore")
# A RandomState would draw from all places, of 800 MB: no fit would raise the peak.
rng = np.random.default_rng(0)
X = sparse.random(800, 50_000, density=0.001, random_state=rng, format="csr")
y = np.asarray(X.sum(axis=1)).ravel() > 25


def fit(rows, units):
    model = MLPClassifier((units,), max_iter=1, batch_size=400, n_jobs=1)
    return model.fit(rows, y[: rows.shape[0]])


fit(X[:400], 2).predict(X[:400])  # compiles; a team, which n_jobs forbids, would take 40 MB
before = bytes_of_process()  # the peak is 10 MB more, of imports and compilations
model = fit(X, 100)
model.predict(X)
matrix = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
parameters = sum(part.nbytes for part in model.coefs_ + model.intercepts_)
print((peak_of_process() - before - 2 * matrix) / parameters)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_a_sparse_fit_takes_twice_the_matrix_and_five_times_the_parameters(
    python: Callable[..., str],
) -> None:
    # They are held flat, and in panels, 4 % wider, with Adam's two numbers each; at the end they
    # are laid out flat once more, to be copied to where predictions see all of them or none: 205
    # MB, 5.1 times, and dense rows would be 800. Of arrays below 32 MB the allocator may keep freed
    # ones.
    assert 4.9 < float(python(FIT)) < 5.5


X = np.random.default_rng(0).normal(size=(20_000, 64))
REAL = X[:, 0] * X[:, 1]
SETTINGS: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 500}


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "loss"},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
def test_a_fit_on_dense_rows_copies_none(kind: Any, settings: dict[str, Any]) -> None:
    y = REAL > 0 if kind is MLPClassifier else REAL
    model = kind(**SETTINGS, **settings)
    model.fit(X, y)  # compiles: all rows, which a team may share and fewer not
    assert peak_of(lambda: model.fit(X, y)) < 0.3 * X.nbytes
