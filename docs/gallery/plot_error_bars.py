"""
A curve with error bars
=======================

Twenty nets with different seeds, each on a bootstrap sample of the same noisy rows,
trained in one call. Their mean is the prediction; how far they are apart shows where
the data say little. Below stands the interval that a model of tables promises.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, TabularMLPRegressor, fit_many

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -0.5, 120), rng.uniform(1, 2.5, 60)])
y = np.sin(2 * x) + 0.3 * x + rng.normal(0, 0.15, x.size)
X = x[:, None]

nets = [
    MLP((1, 50, 50, 1), activation="tanh", optimizer=Adam(Cosine(0.01)), seed=seed)
    for seed in range(20)
]
samples = [rng.integers(x.size, size=x.size) for _ in nets]
fit_many(nets, X, y, epochs=300, batch_size=45, rows=samples, n_threads=2)
table = TabularMLPRegressor(random_state=0).fit(X, y)

# %% Mean and standard deviation of the nets, also where there are no rows;
# and the interval, which is to hold 90 % of new targets.

grid = np.linspace(-4, 4, 300)[:, None]
members = np.array([net.predict(grid)[:, 0] for net in nets])
mean = members.mean(axis=0)
spread = members.std(axis=0)
low, high = table.predict_interval(grid, coverage=0.9).T

figure, axes = plt.subplots(2, 1, figsize=(6, 6.5), sharex=True, sharey=True)
line = grid[:, 0]
axes[0].fill_between(
    line, mean - spread, mean + spread, alpha=0.25, linewidth=0, label="± spread"
)
axes[0].plot(line, members.T, color="C0", linewidth=0.4, alpha=0.5)
axes[0].plot(line, mean, color="C0", label="mean of 20 nets")
axes[1].fill_between(
    line, low, high, alpha=0.25, linewidth=0, label="predict_interval, 90 %"
)
axes[1].plot(line, table.predict(grid), color="C0", label="TabularMLPRegressor")
for ax, title in zip(
    axes, ("Twenty nets, their mean and spread", "An interval"), strict=True
):
    ax.plot(
        line,
        np.sin(2 * line) + 0.3 * line,
        "--",
        color="C1",
        linewidth=1.5,
        label="truth",
    )
    ax.plot(x, y, ".", color="#333333", markersize=3, label="rows")
    ax.set(title=title, ylabel="y", ylim=(-4, 3))
    ax.legend(ncols=2, loc="lower center")
axes[1].set_xlabel("x")

# %% The spread is the disagreement of the nets, not an interval: without the noise of
# y, it is narrow where the rows are dense. The spread is wider in the gap and beyond
# the rows, and still the truth leaves it there, as all nets err alike. The interval
# holds where new rows are like training rows.

at_rows = np.array([net.predict(X)[:, 0] for net in nets])
inside = np.mean(abs(y - at_rows.mean(axis=0)) < at_rows.std(axis=0))
low, high = table.predict_interval(X, coverage=0.9).T
print(f"{inside:.0%} of the rows lie within one deviation of the mean")
print(f"{np.mean((low < y) & (y < high)):.0%} lie within the interval of 90 %")
