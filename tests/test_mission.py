"""The mission, line by line: what may never go so that another aim is met."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fastmlp
from fastmlp import MLP, SGD
from fastmlp.compiler.jit import INTERPRETED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KERNELS = ROOT / "fastmlp" / "backends" / "cpu" / "kernels"
only_compiled = pytest.mark.skipif(INTERPRETED, reason="hours of steps in plain Python")
XOR_X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
XOR_Y = np.array([0.0, 1.0, 1.0, 0.0])


def names_of(requirements: list[str]) -> set[str]:
    """Names of distributions, without versions, extras and conditions."""
    return {re.split(r"[\[<>=!~; ]", text, maxsplit=1)[0] for text in requirements}


# "A Numba-compiled high-performance MLP core": packages, and the top level.


def test_the_core_needs_numba_and_numpy_alone() -> None:
    assert names_of(PROJECT["dependencies"]) == {"numba", "numpy"}


@pytest.mark.parametrize("extra", ["test", "bench"])
def test_tests_and_benchmarks_run_on_pytest_and_pytest_benchmark(extra: str) -> None:
    extras = PROJECT["optional-dependencies"]
    assert {"pytest", "pytest-benchmark"} <= names_of(extras[extra])


@pytest.mark.parametrize(
    "entry",
    ["pyproject.toml", "README.md", "fastmlp", "tests", "benchmarks", "examples"],
)
def test_the_top_level_has_each_entry(entry: str) -> None:
    path = ROOT / entry
    assert path.is_file() or any(path.glob("*.py"))


# "Forward pass, backpropagation and the regularized update loop are
# @njit(parallel=True) kernels over preallocated buffers."


def kernels_with_prange() -> Iterator[tuple[str, str]]:
    """Name and decorator of each function of `kernels` that has a loop over
    `prange`.
    """
    for path in KERNELS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            loops = [
                loop.iter
                for loop in node.body
                if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call)
            ]
            if any(ast.unparse(loop.func) == "prange" for loop in loops):
                yield node.name, ", ".join(map(ast.unparse, node.decorator_list))


@pytest.mark.parametrize("kernel", ["forward_backward", "update"])
def test_phases_are_parallel_kernels_with_prange(kernel: str) -> None:
    assert dict(kernels_with_prange())[kernel] == "njit(parallel=True)"


FIT = """
import hashlib
import numpy as np
from fastmlp import MLP, Adam
from fastmlp.compiler import COMPILER

X = np.random.default_rng(0).random((40, 3))
y = X.sum(axis=1)
net = MLP((3, 8, 1), optimizer=Adam(0.01), l2=0.1, seed=0, dtype="float64", n_threads=1)
net.fit(X, y, epochs=5, batch_size=16)
print(COMPILER, hashlib.sha256(net.parameters.tobytes()).hexdigest())
"""


@only_compiled
@pytest.mark.slow
def test_numba_itself_compiles_kernels_to_the_same_bits(
    python: Callable[..., str],
) -> None:
    bits = {}
    for compiler in ("translator", "numba"):
        printed = python(FIT, timeout=500, FASTMLP_COMPILER=compiler)
        name, bits[compiler] = printed.split()
        assert name == compiler
    assert bits["numba"] == bits["translator"]


@only_compiled
def test_a_step_allocates_nothing() -> None:
    net = MLP((3, 8, 1), optimizer=SGD(0.01), seed=0)
    rng = np.random.default_rng(0)
    X = rng.random((64, 3), np.float32)
    y = rng.random(64, np.float32)
    peaks = []
    # A table of the rates of 256 steps is made by the first.
    for n_steps in (10, 10, 200):
        tracemalloc.start()
        for _ in range(n_steps):
            net.train_on_batch(X, y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 190  # a byte for each further step


# The mathematics: gradient descent, the penalty lambda / 2m,
# mean squared error, cross-entropy.

Loss = Literal["mse", "binary_cross_entropy"]


def objective(loss: Loss, output: Any, target: Any) -> tuple[Any, Any]:
    """A loss of raw outputs (n_rows, 1), averaged over rows, and its slopes by them."""
    m = len(output)
    if loss == "mse":
        return np.mean((output - target) ** 2), 2 * (output - target) / m
    p = 1 / (1 + np.exp(-output))
    entropy = -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))
    return entropy, (p - target) / m


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_a_step_is_gradient_descent_with_a_penalty_of_lambda_over_2m(
    loss: Loss,
) -> None:
    rate = 0.3
    penalty = 0.7
    m = len(XOR_X)
    net = MLP(
        (2, 4, 1),
        activation="sigmoid",
        loss=loss,
        optimizer=SGD(rate),
        l2=penalty,
        dtype="float64",
        seed=0,
    )
    first, second = [w.copy() for w in net.weights]
    shift, last_shift = [b.copy() for b in net.biases]
    target = XOR_Y[:, None]

    # The forward pass, z = a W + b, and backpropagation.
    hidden = 1 / (1 + np.exp(-(XOR_X @ first + shift)))
    value, delta = objective(loss, hidden @ second + last_shift, target)
    value += penalty / (2 * m) * (np.sum(first**2) + np.sum(second**2))
    hidden_delta = delta @ second.T * hidden * (1 - hidden)
    first -= rate * (XOR_X.T @ hidden_delta + penalty / m * first)
    second -= rate * (hidden.T @ delta + penalty / m * second)

    assert net.train_on_batch(XOR_X, XOR_Y) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(net.weights[0], first, rtol=1e-12)
    np.testing.assert_allclose(net.weights[1], second, rtol=1e-12)
    np.testing.assert_allclose(net.biases[0], shift - rate * hidden_delta.sum(axis=0))
    np.testing.assert_allclose(net.biases[1], last_shift - rate * delta.sum(axis=0))


def test_cross_entropy_of_classes_is_the_mean_of_log_probabilities() -> None:
    X, labels = load_iris(return_X_y=True)
    net = MLP((4, 5, 3), loss="cross_entropy", dtype="float64", seed=0)
    p = net.predict(X)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    value = -np.log(p[np.arange(len(labels)), labels]).mean()
    assert net.loss_and_gradient(X, labels)[0] == pytest.approx(value, rel=1e-12)


@only_compiled
def test_xor_is_learnt() -> None:
    net = MLP(
        (2, 4, 1),
        activation="sigmoid",
        output_activation="sigmoid",
        optimizer=SGD(4.0),
        seed=1,
    )
    net.fit(XOR_X, XOR_Y, epochs=20_000, batch_size=4)
    assert np.array_equal(net.predict(XOR_X).ravel().round(), XOR_Y)


# "With an optional numba.cuda path."

ON_CUDA = """
import numpy as np
from fastmlp import MLP, SGD

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
y = np.array([0.0, 1.0, 1.0, 0.0])
for device in ("cpu", "cuda"):
    settings = {"optimizer": SGD(0.5), "dtype": "float64", "seed": 0, "device": device}
    net = MLP((2, 4, 1), **settings)
    net.fit(X, y, epochs=3, batch_size=2)
    print(*net.parameters)
"""


def test_the_cuda_path_trains_as_the_cpu(python: Callable[..., str]) -> None:
    printed = python(ON_CUDA, NUMBA_ENABLE_CUDASIM="1").splitlines()
    on_cpu, on_cuda = [np.array(line.split(), np.float64) for line in printed]
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-9, atol=1e-12)


# "Used by: importing it as a fast drop-in trainer, running pytest-benchmark suites."


@only_compiled
@pytest.mark.parametrize("peer", [MLPClassifier, MLPRegressor])
def test_estimators_are_drop_ins(peer: Any) -> None:
    X, y = load_iris(return_X_y=True)
    settings = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    models = [peer(**settings), getattr(fastmlp, peer.__name__)(**settings)]
    for model in models:
        with pytest.warns(match="Maximum iterations"):
            model.fit(X, y)
    for theirs, ours in zip(models[0].coefs_, models[1].coefs_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


VERBS = ("train", "step", "gradient", "predict")
PEERS = ("numpy", "sklearn", "torch", "compile", "jax", "onnx")


@pytest.fixture(scope="module")
def benchmarks() -> list[str]:
    """What the command of the mission collects,
    peers that are not installed included.
    """
    command = [
        *("-m", "pytest", "benchmarks", "--benchmark-only", "--collect-only", "-q"),
        *("-p", "no:cacheprovider"),
    ]
    # A worker of xdist has set variables, in which the plugin sees that it is one.
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_")
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_benchmarks_of_fastmlp_and_four_peers(
    verb: str, benchmarks: list[str]
) -> None:
    names = [line for line in benchmarks if f"bench_{verb}.py" in line]
    assert any("fastmlp" in name for name in names)
    peers = [peer for peer in PEERS if any(f"-{peer}" in name for name in names)]
    assert len(peers) >= 4
