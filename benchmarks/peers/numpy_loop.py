"""NumPy: the loop by hand, over its BLAS, in arrays that are allocated once."""

import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.peers import Run
from benchmarks.workloads import Array, Workload, flat

VARIANTS = {"plain": ("loop",)}


def about() -> str:
    text = io.StringIO()
    with redirect_stdout(text):
        np.show_config()
    found = re.search(r"OpenBLAS [\w. ]+", text.getvalue())
    blas = found[0].strip() if found else "another BLAS"
    return f"NumPy {np.__version__}, {blas}"


def sgemm(size: int) -> Callable[[], Any]:
    a = np.ones((size, size), np.float32)
    return partial(np.matmul, a, a, out=np.empty_like(a))


def make(workload: Workload, variant: str = "loop") -> "NumpyLoop":
    return NumpyLoop(workload)


def views(workload: Workload, vector: Array) -> tuple[list[Array], list[Array]]:
    """Weights and biases as views into a flat vector."""
    weights = []
    biases = []
    offset = 0
    for n_in, n_out in pairwise(workload.sizes):
        size = n_in * n_out
        weights.append(vector[offset : offset + size].reshape(n_in, n_out))
        offset += size
    for n_out in workload.sizes[1:]:
        biases.append(vector[offset : offset + n_out])
        offset += n_out
    return weights, biases


def activate(name: str, z: Array) -> None:
    if name == "relu":
        np.maximum(z, 0, out=z)
    elif name == "tanh":
        np.tanh(z, out=z)
    else:
        np.negative(z, out=z)
        np.exp(z, out=z)
        z += 1
        np.reciprocal(z, out=z)


def backward_through(name: str, a: Array, delta: Array, work: Array) -> None:
    """Multiply delta by the activation's slope, from its value a."""
    if name == "relu":
        np.multiply(delta, a > 0, out=delta)
    elif name == "tanh":
        np.multiply(a, a, out=work)
        np.subtract(1, work, out=work)
        delta *= work
    else:
        np.subtract(1, a, out=work)
        work *= a
        delta *= work


class NumpyLoop(Run):
    """Flat parameters and moments; activations and deltas of one batch."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.x, self.y = workload.data()
        self.rng = np.random.default_rng(0)
        self.start = flat(workload.start())
        self.w = self.start.copy()
        self.g = np.zeros_like(self.w)
        self.m = np.zeros_like(self.w)
        self.v = np.zeros_like(self.w)
        self.work = np.zeros_like(self.w)
        self.weights, self.biases = views(workload, self.w)
        self.weight_slopes, self.bias_slopes = views(workload, self.g)
        self.a = self._by_layer()
        self.d = self._by_layer()
        self.s = self._by_layer()
        self.yb = np.empty((workload.batch, *self.y.shape[1:]), self.y.dtype)
        self.reset()

    def _by_layer(self) -> list[Array]:
        """New arrays of one batch, shape (batch, units), inputs first."""
        load = self.workload
        return [np.empty((load.batch, n), load.dtype) for n in load.sizes]

    def reset(self) -> None:
        self.w[:] = self.start
        self.m[:] = 0
        self.v[:] = 0
        self.t = 0

    def epochs(self, n: int) -> None:
        load = self.workload
        for _ in range(n):
            if not load.shuffle:
                self._step(self.x, self.y)
                continue
            order = self.rng.permutation(load.n_rows).reshape(-1, load.batch)
            for index in order:
                # mode: the default one buffers the output.
                np.take(self.x, index, 0, out=self.a[0], mode="clip")
                np.take(self.y, index, 0, out=self.yb, mode="clip")
                self._step(self.a[0], self.yb)

    def steps(self, n: int) -> None:
        for rows in map(self.workload.rows, range(n)):
            self._step(self.x[rows], self.y[rows])

    def gradient(self) -> Array:
        rows = self.workload.rows(0)
        self._gradient(self.x[rows], self.y[rows])
        return self.g

    def loss(self) -> float:
        raw = self.predict(self.x).astype(np.float64)
        if self.workload.loss == "mse":
            losses = (raw - self.y) ** 2
        elif self.workload.loss == "cross_entropy":
            true = np.take_along_axis(raw, self.y[:, None], 1)[:, 0]
            losses = np.logaddexp.reduce(raw, 1) - true
        else:
            losses = np.logaddexp(0, raw) - self.y * raw
        return float(np.mean(losses))

    def parameters(self) -> Array:
        return self.w.copy()

    def predict(self, x: Array) -> Array:
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ w
            x += b
            if i < len(self.weights) - 1:
                activate(self.workload.activation, x)
        return x

    def predictors(self) -> dict[str, Callable[[Any], Any]]:
        return {"matmul": self.predict, "blocks of 1,000": self._by_blocks}

    def _by_blocks(self, x: Array, block: int = 1_000) -> Array:
        """Predict rows whose activations stay in the cache."""
        if len(x) <= block:
            return self.predict(x)
        out = np.empty((len(x), self.workload.sizes[-1]), x.dtype)
        for first in range(0, len(x), block):
            rows = slice(first, first + block)
            out[rows] = self.predict(x[rows])
        return out

    def _step(self, x: Array, y: Array) -> None:
        self._gradient(x, y)
        self.t += 1
        _UPDATES[self.workload.rule.kind](self)

    def _gradient(self, x: Array, y: Array) -> None:
        load = self.workload
        last = len(self.weights) - 1
        a = [x, *self.a[1:]]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            np.matmul(a[i], w, out=a[i + 1])
            a[i + 1] += b
            if i < last:
                activate(load.activation, a[i + 1])
        self._last_delta(a[-1], y, self.d[-1])
        for i in range(last, -1, -1):
            delta = self.d[i + 1]
            np.matmul(a[i].T, delta, out=self.weight_slopes[i])
            np.sum(delta, axis=0, out=self.bias_slopes[i])
            if load.l2:
                self.weight_slopes[i] += self.weights[i] * (load.l2 / load.batch)
            if i:
                np.matmul(delta, self.weights[i].T, out=self.d[i])
                backward_through(load.activation, a[i], self.d[i], self.s[i])

    def _last_delta(self, raw: Array, y: Array, delta: Array) -> None:
        load = self.workload
        if load.loss == "mse":
            np.subtract(raw, y, out=delta)
            delta *= 2 / raw.size
        elif load.loss == "cross_entropy":
            np.subtract(raw, raw.max(axis=1, keepdims=True), out=delta)
            np.exp(delta, out=delta)
            delta /= delta.sum(axis=1, keepdims=True)
            delta[np.arange(len(y)), y] -= 1
            delta /= load.batch
        else:
            np.copyto(delta, raw)
            activate("sigmoid", delta)
            delta -= y
            delta /= raw.size


def _sgd(run: NumpyLoop) -> None:
    rule = run.workload.rule
    g = run.g
    v = run.m
    g *= rule.rate
    if rule.momentum:
        v *= rule.momentum
        v -= g
        np.multiply(v, rule.momentum, out=run.work)
        run.w += run.work
    run.w -= g


def _adam(run: NumpyLoop) -> None:
    rule = run.workload.rule
    g = run.g
    m = run.m
    v = run.v
    work = run.work
    root = np.sqrt(1 - 0.999**run.t)
    if rule.weight_decay:
        run.w *= 1 - rule.rate * rule.weight_decay
    np.subtract(g, m, out=work)
    work *= 1 - 0.9
    m += work
    g *= g
    g -= v
    g *= 1 - 0.999
    v += g
    np.sqrt(v, out=work)
    work += 1e-8 * root
    np.divide(m, work, out=work)
    work *= rule.rate * root / (1 - 0.9**run.t)
    run.w -= work


_UPDATES = {"sgd": _sgd, "adam": _adam, "adamw": _adam}
