"""Nets, data and starting parameters that all contestants share."""

import math
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Rule(NamedTuple):
    """An optimizer by name and numbers,
    for every contestant to build in its own words.
    """

    kind: str = "adam"
    rate: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __str__(self) -> str:
        if self.momentum:
            return f"{self.kind} nesterov"
        return self.kind


class Recipe(NamedTuple):
    """Additions to the optimizer; the learning rate then falls to 0 as half a cosine.

    Attributes
    ----------
    dropout : the rate after each hidden activation
    average : the momentum of the average of the weights, whose k-th step has the weight
        ``(1 - average) / (1 - average^k)``
    norm : to which the gradient of all parameters is clipped
    """

    dropout: float = 0.2
    average: float = 0.99
    norm: float = 1.0

    def __str__(self) -> str:
        return f"dropout {self.dropout:g}, EMA {self.average:g}, norm {self.norm:g}, cosine"

    def rate(self, highest: float, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0."""
        return highest * 0.5 * (1 + math.cos(math.pi * step / total))

    def weight(self, step: int) -> float:
        """The weight of a step's parameters in the average, steps counted from 1."""
        return (1 - self.average) / (1 - self.average**step)


class Workload(NamedTuple):
    """A net, its data's size and how it trains.

    Attributes
    ----------
    sizes : inputs, hidden layers, outputs
    batch : rows per step; a divisor of n_rows, so that all steps are alike
    l2 : the objective has ``l2 sum(W^2) / 2 / batch``; biases are not penalised
    shuffle : a new order each epoch; off where the batch is all rows
    compute_dtype : "bfloat16" for products of operands rounded to it, summed in float32
    """

    sizes: tuple[int, ...]
    batch: int
    n_rows: int
    # Names that fastmlp and the peers know.
    activation: Any = "relu"
    loss: Any = "mse"
    rule: Rule = Rule()
    l2: float = 0.0
    dtype: Any = "float32"
    recipe: Recipe | None = None
    compute_dtype: Any = None

    @property
    def name(self) -> str:
        """Sizes, batch, and unusual settings: "28-300x5-1@100"."""
        words = []
        for size, run in groupby(self.sizes):
            n = len(list(run))
            if n > 2:
                words.append(f"{size}x{n}")
            else:
                words += [str(size)] * n
        name = f"{'-'.join(words)}@{self.batch}"
        if self.dtype == "float64":
            name += "-f64"
        if self.recipe:
            name += " with the recipe"
        if self.compute_dtype:
            name += f" in {self.compute_dtype}"
        return name

    @property
    def description(self) -> str:
        """The name and all settings, for people."""
        short = {"binary_cross_entropy": "bce", "cross_entropy": "ce"}
        loss = short.get(self.loss, self.loss)
        facts = [self.name, self.activation, loss, str(self.rule)]
        if self.l2:
            facts.append(f"l2 {self.l2:g}")
        if self.recipe:
            facts.append(str(self.recipe))
        facts.append(self.dtype)
        return ", ".join(facts)

    @property
    def form(self) -> str:
        """The form of training: "recipe", "mixed" for mixed precision, or "plain"."""
        if self.recipe:
            return "recipe"
        if self.compute_dtype:
            return "mixed"
        return "plain"

    @property
    def shuffle(self) -> bool:
        """Return True if a step takes fewer than all rows, whose order matters then."""
        return self.batch < self.n_rows

    @property
    def n_steps(self) -> int:
        return self.n_rows // self.batch

    @property
    def flops(self) -> int:
        """Floating-point operations of a step's products.

        Three products a layer, of two operations a weight and row,
        but no delta for the inputs.
        """
        first_layer = self.sizes[0] * self.sizes[1]
        return (6 * self.n_weights - 2 * first_layer) * self.batch

    @property
    def n_weights(self) -> int:
        return sum(a * b for a, b in pairwise(self.sizes))

    def rows(self, step: int) -> slice:
        """The rows of a step, in their order."""
        if not self.shuffle:
            return slice(0, self.batch)
        first = step * self.batch
        return slice(first, first + self.batch)

    def quick(self) -> "Workload":
        """A net of the kind with few rows, and few in a step,
        and of at most 256 units a layer.
        """
        batch = min(self.batch, 64)
        n_rows = batch
        if self.shuffle:
            n_rows = 4 * batch
        sizes = tuple(min(n, 256) for n in self.sizes)
        return self._replace(sizes=sizes, n_rows=n_rows, batch=batch)

    def data(self) -> tuple[Array, Array]:
        """X, shape (n_rows, sizes[0]), and y of a smooth random teacher.

        y is int64 labels of shape (n_rows,)
        for cross-entropy, else (n_rows, sizes[-1]).
        """
        rng = np.random.default_rng(1)
        x = rng.standard_normal((self.n_rows, self.sizes[0]), np.float32)
        raw = x @ rng.standard_normal((self.sizes[0], self.sizes[-1]), np.float32)
        if self.loss == "cross_entropy":
            labels = raw.argmax(1)
            n_classes = self.sizes[-1]
            if n_classes <= self.n_rows and len(np.unique(labels)) < n_classes:
                # scikit-learn wants to see every class.
                labels[:n_classes] = np.arange(n_classes)
            return x.astype(self.dtype), labels
        if self.loss == "binary_cross_entropy":
            y = raw > 0
        else:
            y = np.tanh(raw)
        return x.astype(self.dtype), y.astype(self.dtype)

    def start(self) -> list[tuple[Array, Array]]:
        """New starting weights, shape (n_in, n_out), and biases (n_out,), by layer."""
        rng = np.random.default_rng(2)
        gain = 2 if self.activation == "relu" else 1
        layers = []
        for n_in, n_out in pairwise(self.sizes):
            weights = rng.standard_normal((n_in, n_out)) * np.sqrt(gain / n_in)
            biases = np.full(n_out, 0.01, self.dtype)
            layers.append((weights.astype(self.dtype), biases))
        return layers


def sized(work: Any, quick: bool) -> Any:
    """A workload, or another work that has a short form, in full or in short."""
    if quick:
        return work.quick()
    return work


def flat(layers: Any) -> Array:
    """All weights, then all biases: one vector, as fastmlp has it."""
    weights, biases = zip(*layers, strict=True)
    parts = [*weights, *biases]
    return np.concatenate([np.asarray(part).ravel() for part in parts])


def forward(
    layers: Any, x: Any, activation: Callable[[Any], Any], affine: Any = None
) -> Any:
    """The last layer's values, in any library's arrays.

    Parameters
    ----------
    layers : pairs of weights (n_in, n_out) and biases (n_out,)
    affine : a layer's sums of x, weights and biases; None: ``x @ w + b``
    """

    def product(x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    affine = affine or product
    *hidden, last = layers
    for layer in hidden:
        x = activation(affine(x, *layer))
    return affine(x, *last)


CE = "cross_entropy"
BCE = "binary_cross_entropy"
SGD = Rule("sgd", 0.01)
NESTEROV = Rule("sgd", 0.01, momentum=0.9)
ADAMW = Rule("adamw", weight_decay=0.01)
FASTER_ADAMW = Rule("adamw", 2e-3, weight_decay=3e-4)
WIDE = (1024, 2048, 2048, 1000)
WORKLOADS = [
    Workload((2, 4, 1), 4, 8_000, "sigmoid"),
    Workload((4, 16, 3), 32, 32_000, loss=CE),
    Workload((32, 64, 32, 1), 1, 2_000, loss=BCE, rule=SGD),
    Workload((8, 32, 32, 1), 32, 32_000),
    Workload((16, 64, 64, 2), 64, 32_000),
    Workload((17, 64, 64, 6), 64, 32_000, "tanh"),
    Workload((23, 256, 256, 1), 256, 15_360),
    Workload((32, 256, 256, 10), 256, 12_800, loss=CE),
    Workload((4, 32, 16, 4), 10_000, 10_000, "tanh"),
    Workload((784, 100, 100, 10), 200, 20_000, loss=CE, l2=1e-4),
    Workload((784, 128, 10), 128, 12_800, loss=CE),
    Workload((28, *[300] * 5, 1), 100, 10_000, "tanh", BCE, NESTEROV),
    Workload((784, 512, 512, 10), 128, 5_120, loss=CE),
    Workload((128, 1024, 1024, 10), 512, 4_096, loss=CE),
    Workload((1000, 8, 1000), 256, 10_240),
    # Rows for most of a second:
    # a fit of 8 million parameters takes 0.1 s to begin and to end.
    Workload(WIDE, 512, 4_096, loss=CE),
    Workload(WIDE, 32, 2_048, loss=CE, rule=ADAMW),
    Workload((100, 512, 512, 512, 1), 256, 5_120, loss=BCE, rule=FASTER_ADAMW),
    Workload((2, *[20] * 8, 1), 10_000, 10_000, "tanh", dtype="float64"),
    Workload((784, 512, 512, 10), 128, 5_120, loss=CE, dtype="float64"),
    Workload((128, 1024, 1024, 10), 512, 4_096, loss=CE, dtype="float64"),
]
WITH_RECIPE = ("17-64-64-6@64", "784-128-10@128", "784-512-512-10@128")
RECIPES = [
    load._replace(recipe=Recipe()) for load in WORKLOADS if load.name in WITH_RECIPE
]
IN_MIXED = (
    "128-1024-1024-10@512",
    "784-512-512-10@128",
    "1024-2048-2048-1000@512",
    "32-256-256-10@256",
    "23-256-256-1@256",
)
MIXED = [
    load._replace(compute_dtype="bfloat16")
    for load in WORKLOADS
    if load.name in IN_MIXED
]
BY_NAME = {workload.name: workload for workload in WORKLOADS + RECIPES + MIXED}
