"""Compiling ahead: afterwards, a new process finds all code in the cache."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastmlp.backends.cpu.kernels.rule_blocks import PAIRED
from fastmlp.cli.warmup import warmup
from fastmlp.compiler.jit import INTERPRETED
from fastmlp.rules.activations import RULES as ACTIVATIONS
from fastmlp.rules.links import LINKS
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import OPTIMIZERS
from fastmlp.rules.weight_rules import PENALTIES

N_RULES = len(ACTIVATIONS) + len(LINKS) + len(LOSSES) + len(PENALTIES) + len(OPTIMIZERS) + 2
WARM = """
from fastmlp.cli.warmup import warmup
warmup(dtypes=["float32"], report=print, compute_dtype=%r)
import sys
assert "sklearn" not in sys.modules
"""
# Every activation, loss, penalty and optimizer, without the warm-up's own helpers. The large net
# gathers a team, by Numba's pool wherever the threading layer allows it.
USE = """
import numpy as np
from fastmlp import MLP, SGD
from fastmlp.rules.activations import RULES
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.threads import worker_pool, limits
from fastmlp.rules.losses import LOSSES
from fastmlp.rules.optimizers import (OPTIMIZERS)
for width, n_rows in ((3, 5), (64, 200)):
    wide = width > 3 and limits.thread_limit() > 1
    dispatch.pays, dispatch.REGION_SECONDS = lambda work, n_threads: wide, 0
    X, hot = np.ones((n_rows, width)), np.eye(width)[np.arange(n_rows) % width]
    settings = [dict(activation=name) for name in RULES]
    settings += [dict(loss=name, l1=0.1, l2=0.1) for name in LOSSES]
    settings += [dict(optimizer=name) for name in OPTIMIZERS]
    settings += [dict(optimizer=name, l2=0.1) for name in OPTIMIZERS]
    settings += [dict(optimizer=name, l1=0.1) for name in OPTIMIZERS]
    settings += [dict(optimizer=SGD(0.01, momentum=0.5, nesterov=n)) for n in (False, True)]
    for chosen in settings:
        loss = LOSSES[chosen.get("loss", "mse")]
        net = MLP((width, 7, width * loss.per_target), seed=0, **chosen)
        y = hot + (loss.targets == "positive")
        net.fit(X, y, epochs=1, batch_size=200, validation_data=(X, y))
        net.fit(X, y, epochs=1, batch_size=n_rows - 1)  # in an order of its own
        net.predict(X), net.predict_raw(X)
        net.predict(X[:1]), net.predict(X[:1])
        net.predict(np.ones((2000, width)))
        net.apply_gradient(net.loss_and_gradient(X, y)[1])
    assert bool(worker_pool.gather.signatures) == (wide and limits.parallel_is_safe())
MLP((2, 1 << 18, 3, 1), seed=0, activation=["gelu", "tanh"]).predict(np.ones((50, 2)))
net = MLP((64, 256, 64), seed=0, n_threads=1)
for _ in range(2):
    net.train_on_batch(np.ones((32, 64), np.float32), np.ones((32, 64), np.float32))
dispatch.measure(limits.thread_limit())
from fastmlp import MLPClassifier, gradient, jacobian, jit
from fastmlp.backends.cpu.predict.embedded_calls import c_function
net = MLP((3, 7, 1), optimizer="sgd", seed=0, activation="tanh")
X, y, row = np.ones((5, 3)), np.ones((5, 1)), np.empty(3)
two = MLPClassifier((7,), max_iter=2, tol=0, random_state=0)
for model, n in ((net, 1), (two.fit(X.astype(np.float32), [0, 1, 0, 1, 1]), 2)):
    jit.predict(jit.compiled(model), X, np.empty((5, n)))
    jit.gradient(jit.compiled(model), X[0], np.empty(n), np.empty((n, 3)))
    jacobian(model, X.astype(np.float32)), gradient(net, X, y=y)
for n in (1, 5):
    with jit.learner(net, batch_size=n) as handle:
        jit.train_on_batch(handle, X[:n], y[:n]), jit.train_on_gradient(handle, X[:n], y[:n])
        jit.vjp(handle, X[:n], y[:n], np.empty(net.parameters.size), X[:n].copy())
jit.function("float32"), c_function("quad"), c_function("generic_filter")
from fastmlp.cli.warmup import warmup
assert warmup(dtypes=["float32"], parallel=False) > 0
"""
# Steps on one thread and of a team, by rows and otherwise; predictions of many rows and of one.
MIXED = """
import numpy as np
from fastmlp import MLP
from fastmlp.backends.cpu import dispatch
from fastmlp.backends.cpu.threads import limits
dispatch.pays = lambda work, n_threads: limits.thread_limit() > 1
for sizes in ((40, 64, 64, 2), (400, 512, 512, 2)):
    X = np.ones((300, sizes[0]), np.float32)
    for batch in (20, 300):
        net = MLP(sizes, seed=0, compute_dtype="bfloat16", activation="tanh")
        net.fit(X, X[:, :2], epochs=2, batch_size=batch, validation_data=(X, X[:, :2]))
        for rows in (X, X[:1]):
            net.predict(rows, compute_dtype="bfloat16")
"""

needs_compiler = pytest.mark.skipif(
    INTERPRETED, reason="NUMBA_DISABLE_JIT is set: nothing to compile"
)


def run(script: str, cache: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "NUMBA_OPT": "0"}
    environment.pop("FASTMLP_CACHE", None)
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@needs_compiler
def test_all_rules_and_kernels_are_in_the_cache_afterwards(tmp_path: Path) -> None:
    printed = run(WARM % None, tmp_path)
    assert printed.splitlines()[0] == "float32: kernels"
    assert "parallel" in printed
    assert "bfloat16" not in printed
    stored = set(tmp_path.rglob("*.code"))
    assert len(stored) > N_RULES
    assert run(USE, tmp_path) == "", "warmup() prints nothing by itself"
    assert set(tmp_path.rglob("*.code")) == stored
    # The further code is added to what is there.
    assert "float32: products of bfloat16" in run(WARM % "bfloat16", tmp_path).splitlines()
    more = set(tmp_path.rglob("*.code"))
    assert len(more) == len(stored) + len(PAIRED)
    run(MIXED, tmp_path)
    assert set(tmp_path.rglob("*.code")) == more


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dtypes": ["float32", "float16"]}, ValueError, "float16"),
        ({"dtypes": "float32"}, TypeError, "dtypes must be a sequence of dtypes, got 'float32'"),
        ({"dtypes": 32}, TypeError, "dtypes must be a sequence of dtypes, got 32"),
        ({"parallel": 1}, TypeError, "parallel must be True or False, got 1"),
        ({"compute_dtype": "bf16"}, ValueError, "compute_dtype .*'bf16', did you mean 'bfloat16'"),
        (
            {"compute_dtype": "bfloat16", "dtypes": ["float64"]},
            ValueError,
            r"warmup: compute_dtype='bfloat16' needs 'float32' among dtypes, got \['float64'\]",
        ),
    ],
)
def test_arguments_are_checked_before_anything_is_compiled(
    options: dict[str, Any], error: type, words: str
) -> None:
    reports: list[str] = []
    with pytest.raises(error, match=words):
        warmup(**options, report=reports.append)
    assert reports == []
