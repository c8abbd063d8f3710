"""Many fits in one process: memory does not grow, and what is allocated is freed."""

import sys
from collections.abc import Callable

import pytest

from fastmlp.compiler.jit import INTERPRETED

FIT_ON = """
import gc, os, sys
import numpy as np
from numba.core.runtime import rtsys
from fastmlp import MLP
n_fits = int(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.normal(size=(64, 16)).astype(np.float32)
y = rng.normal(size=64)

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def fit(i):
    net = MLP((16, 32, 1), optimizer=["adam", "sgd"][i % 2], seed=i)
    net.fit(X, y, epochs=3, batch_size=16, validation_data=(X, y), callbacks=lambda report: None)
    net.predict(X)
    net.predict(X[:1])
    net.loss_and_gradient(X, y)

for i in range(100):
    fit(i)
before = resident()
for i in range(n_fits - 100):
    fit(i)
stats = rtsys.get_allocation_stats()
print(resident() - before, stats.alloc - stats.free, stats.mi_alloc - stats.mi_free)
"""


@pytest.mark.skipif(INTERPRETED, reason="hundreds of fits in plain Python")
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_does_not_grow_and_what_is_allocated_is_freed(
    python: Callable[..., str], soak: bool
) -> None:
    n_fits = 2_000 if soak else 400
    told = python(FIT_ON, n_fits, timeout=600, NUMBA_NRT_STATS="1")
    growth, allocated, infos = map(int, told.split())
    assert growth < 5_000_000
    assert allocated == infos == 0
