"""The first seconds of a library, in a new process that imports it,
fits 1,000 rows and predicts.

The home is empty, or has what was compiled before. A round is a process;
the CPU time and the peak of the memory of the last stand in `extra_info`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks import machine
from benchmarks.output import ROOT
from benchmarks.peers import missing

TURNS = 3
WHEEL = "fastmlp-wheel"
ROWS = """import numpy as np
X = np.random.default_rng(0).random((1000, 8), np.float32)
y = X[:, 0] * X[:, 1]
"""
TORCH = """import torch
from torch import nn
net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
rule, x, t = torch.optim.Adam(net.parameters()), torch.from_numpy(X), torch.from_numpy(y[:, None])
for _ in range(10):
    for rows in torch.randperm(1000).split(32):
        rule.zero_grad()
        nn.functional.mse_loss(net(x[rows]), t[rows]).backward()
        rule.step()
net(x).detach().numpy()"""
JAX = """import jax, optax
def start(key, a, b):
    return jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, np.zeros(b, np.float32)
def predict(net, x):
    for w, b in net[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ net[-1][0] + net[-1][1]
@jax.jit
def step(net, state, x, t):
    loss = lambda net: ((predict(net, x)[:, 0] - t) ** 2).mean()
    change, state = rule.update(jax.grad(loss)(net), state)
    return optax.apply_updates(net, change), state
rule, sizes = optax.adam(1e-3), [(8, 32), (32, 32), (32, 1)]
net = [start(key, *ab) for key, ab in zip(jax.random.split(jax.random.key(0), 3), sizes)]
state = rule.init(net)
for _ in range(10):
    for rows in np.random.permutation(992).reshape(-1, 32):
        net, state = step(net, state, X[rows], y[rows])
np.asarray(jax.jit(predict)(net, X))"""
OURS = """from fastmlp import MLP
net = MLP((8, 32, 32, 1), seed=0)
net.fit(X, y, epochs=10, batch_size=32)
net.predict(X)"""
THEIRS = "from {} import {} as Model\nModel({}).fit(X, y).predict(X)"
PROGRAMS = {
    "fastmlp": OURS,
    "numpy": "",
    "sklearn": THEIRS.format(
        "sklearn.neural_network",
        "MLPRegressor",
        "hidden_layer_sizes=(32, 32), batch_size=32, max_iter=10",
    ),
    "torch": TORCH,
    "jax": JAX,
    "lightgbm": THEIRS.format("lightgbm", "LGBMRegressor", "verbose=-1"),
    "chimeraboost": THEIRS.format("chimeraboost", "ChimeraBoostRegressor", ""),
}


class Start(NamedTuple):
    """Wall time, CPU time and the peak of the memory in MB, of a new process."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def launch(
    code: str, home: Path, checkout: Path = ROOT, compiled: str | None = None
) -> Start:
    """Run code in a new process, with a home and with the fastmlp of a folder.

    The code that Numba and fastmlp compile lies in the home, or in another folder.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    home_of = {"HOME": str(home), "NUMBA_CACHE_DIR": compiled or str(home / "numba")}
    if checkout == ROOT:
        kept["FASTMLP_PREBUILT"] = "0"  # a clone may have the code of a wheel
    env = {**kept, **home_of, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
    home.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=home, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{code.splitlines()[-1]!r} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Start(seconds, cpu_seconds, usage.ru_maxrss * unit / 1e6)


@pytest.fixture(scope="session")
def wheel(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Path]:
    """A function that installs `--wheel` in a folder;
    without one the test is skipped.
    """

    def folder() -> Path:
        path = pytestconfig.getoption("wheel", None)
        if path is None:
            pytest.skip("no --wheel")
        site = tmp_path_factory.mktemp("site")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*pip, site, path], check=True)
        return site

    return folder


@pytest.mark.libraries(WHEEL, *PROGRAMS)
@pytest.mark.parametrize("home", ["empty", "again"])
def test_first_fit(
    benchmark: Any, library: str, home: str, tmp_path: Path, wheel: Callable[[], Path]
) -> None:
    if why := missing(library):
        pytest.skip(why)
    checkout = wheel() if library == WHEEL else ROOT
    code = ROWS + PROGRAMS[library.partition("-")[0]]
    homes = iter(range(1_000))
    starts = []

    # Where it is only tried, what is compiled already.
    if benchmark.disabled:
        compiled = os.environ.get("NUMBA_CACHE_DIR")
    else:
        compiled = None

    def launched() -> None:
        name = "home" if home == "again" else f"home{next(homes)}"
        starts.append(launch(code, tmp_path / name, checkout, compiled))

    rounds = 1 if benchmark.disabled else TURNS
    benchmark.group = f"first fit, {home}"
    benchmark.extra_info |= {"verb": "first fit", "work": home, "library": library}
    benchmark.extra_info |= {"threads": machine.cores(), **machine.stamp()}
    # The first writes bytecode, and what is compiled.
    if not benchmark.disabled:
        launched()
    benchmark.pedantic(launched, rounds=rounds)
    benchmark.extra_info |= starts[-1]._asdict()
