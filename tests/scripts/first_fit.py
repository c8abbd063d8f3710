"""First fits of a process from a wheel: with FASTMLP_PREBUILT=require nothing is
compiled, and no compiler is imported or needed.
"""

import os
import sys
import tempfile

import numpy as np

import fastmlp
from fastmlp.info import info

required = os.environ.get("FASTMLP_PREBUILT") == "require"
X = np.random.default_rng(0).normal(size=(64, 3))
y = X[:, :1] * X[:, 1:2]
with tempfile.TemporaryDirectory() as folder:
    for dtype in ("float32", "float64"):
        net = fastmlp.MLP((3, 32, 32, 1), dtype=np.dtype(dtype), seed=0)
        history = net.fit(X, y, epochs=50, batch_size=16)
        assert history.loss[-1] < history.loss[0]
        for _ in range(3):
            net.train_on_batch(X.astype(dtype), y.astype(dtype))
        net.save(f"{folder}/net.safetensors")
        again = fastmlp.load(f"{folder}/net.safetensors").predict(X)
        assert (again == net.predict(X)).all()
        assert len(net.predict(X[:1])) == 1
assert not required or not {"numba", "llvmlite"} & sys.modules.keys()
assert not required or "the wheel has code for" in info()["compiler"]
