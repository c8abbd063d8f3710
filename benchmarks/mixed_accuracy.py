"""Losses and scores of mixed precision beside float32, of the same seeds: python -m
benchmarks.mixed_accuracy"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

from fastmlp import MLP, fit_many

SEEDS = range(5)
HIDDEN = (256, 256)
DTYPES: tuple[Any, ...] = (None, "bfloat16")
SETS: dict[str, tuple[Callable[..., Any], int]] = {
    "digits": (datasets.load_digits, 60),
    "breast cancer": (datasets.load_breast_cancer, 60),
    "wine": (datasets.load_wine, 60),
    "diabetes": (datasets.load_diabetes, 30),
}


def teacher() -> tuple[Any, Any]:
    """Return rows of 128 numbers and the largest of ten sums of waves, for nets 1024 wide."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 128)).astype(np.float32)
    waves = np.sin(x @ rng.normal(size=(128, 64)) / 6)
    return x, (waves @ rng.normal(size=(64, 10))).argmax(1)


def compared(name: str, x: Any, y: Any, hidden: tuple[int, ...], epochs: int) -> str:
    """Return a row of the table: final training loss and score on held-out rows, in float32 and in
    bfloat16, and the spread of the scores of the seeds."""
    classes = len(np.unique(y)) if y.dtype.kind == "i" else 0
    given = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y if classes else None)
    train, test, targets, truth = given
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (((part - mean) / std).astype(np.float32) for part in (train, test))
    if not classes:
        middle, spread = targets.mean(), targets.std()
        targets, truth = ((part - middle) / spread for part in (targets, truth))
    sizes = (train.shape[1], *hidden, classes or 1)
    found = []
    for dtype in DTYPES:
        aim: Any = "cross_entropy" if classes else "mse"
        nets = [MLP(sizes, loss=aim, seed=seed, compute_dtype=dtype) for seed in SEEDS]
        runs = fit_many(nets, train, targets, epochs=epochs, batch_size=64)
        losses = [net.loss_and_gradient(train, targets)[0] for net in nets]
        assert all(run.status.name == "COMPLETED" for run in runs)
        found.append((np.array(losses), np.array([score(net, test, truth) for net in nets])))
    (loss, scores), (mixed_loss, mixed_scores) = found
    spread = scores.std(ddof=1)
    return (
        f"| {name}, {'-'.join(map(str, sizes))} | {loss.mean():.4g} -> {mixed_loss.mean():.4g} | "
        f"{scores.mean():.4f} -> {mixed_scores.mean():.4f} | {spread:.4f} |"
    )


def score(net: MLP, x: Any, y: Any) -> float:
    """Return the accuracy, or R^2."""
    predicted = net.predict(x)
    if predicted.shape[1] > 1:
        return float((predicted.argmax(1) == y).mean())
    return float(1 - ((predicted[:, 0] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def main() -> None:
    """Print a table in Markdown."""
    print("| data, net | training loss | score | spread of seeds |\n|---|---|---|---|", flush=True)
    for name, (make, epochs) in SETS.items():
        x, y = make(return_X_y=True)
        print(compared(name, x, y, HIDDEN, epochs), flush=True)
    x, y = teacher()
    print(compared("ten sums of waves", x, y, (1024, 1024), 6), flush=True)


if __name__ == "__main__":
    main()
