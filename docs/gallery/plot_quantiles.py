"""
Prediction intervals
====================

Where the noise grows with x, an interval should grow with it. Two losses learn that:
`Quantile` predicts several quantiles at once, and "gaussian_nll" a mean and a standard
deviation.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, Quantile

rng = np.random.default_rng(0)


def measured(n):
    x = rng.uniform(0, 4, (n, 1))
    noise = 0.05 + 0.2 * x[:, 0]
    # Of mean 0 and deviation 1, but not normal:
    # most errors are small, and upward ones are large.
    return x, np.sin(2 * x[:, 0]) + noise * (rng.exponential(1, n) - 1)


X, y = measured(3000)
X_test, y_test = measured(3000)
settings = {
    "activation": "gelu",
    "optimizer": Adam(Cosine(0.01)),
    "seed": 0,
    "n_threads": 2,
}

# %% One output for each quantile;
# predictions are in ascending order, so that no two cross.

levels = (0.1, 0.5, 0.9)
quantiles = MLP((1, 32, 32, 3), loss=Quantile(levels), **settings)
quantiles.fit(X, y, epochs=60)

# %% A mean and a standard deviation. The interval from 10 % to 90 % of a normal
# distribution ends 1.28 deviations from the mean.

normal = MLP((1, 32, 32, 2), loss="gaussian_nll", **settings)
normal.fit(X, y, epochs=60)


def intervals(x):
    mean, deviation = normal.predict(x).T
    return {
        "Quantile((0.1, 0.5, 0.9))": quantiles.predict(x).T,
        "gaussian_nll": (mean - 1.28 * deviation, mean, mean + 1.28 * deviation),
    }


# %% Both bands grow with the noise. 10 % of new rows should lie below each, and 10 %
# above. Quantiles assume nothing about the noise. This noise is not normal, and where
# it ends downwards the symmetric band goes on; where noise is nearly normal, mean and
# deviation serve any level.

grid = np.linspace(0, 4, 200)[:, None]
figure, axes = plt.subplots(2, 1, figsize=(6, 7), sharex=True, sharey=True)
for ax, (name, (low, middle, high)) in zip(axes, intervals(grid).items(), strict=True):
    ax.plot(X_test[::3], y_test[::3], ".", color="grey", markersize=2, label="new rows")
    ax.fill_between(
        grid.ravel(), low, high, alpha=0.3, linewidth=0, label="10 % to 90 %"
    )
    ax.plot(grid, middle, label="mean" if name == "gaussian_nll" else "median")
    test_low, _, test_high = intervals(X_test)[name]
    below = np.mean(y_test < test_low)
    above = np.mean(y_test > test_high)
    print(f"{name}: {below:.1%} of new rows below, {above:.1%} above")
    ax.set(
        title=f"{name}: {below:.1%} below, {above:.1%} above",
        ylabel="y",
        ylim=(-2.5, 5),
    )
axes[1].set_xlabel("x")
axes[0].legend(loc="upper left")
