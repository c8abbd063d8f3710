"""
A band for the noise: quantiles
===============================

A net with the loss `Quantile` predicts several quantiles at once: a band that follows the noise,
also where the noise depends on x.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, Quantile

rng = np.random.default_rng(0)


def measured(n):
    x = rng.uniform(-2, 2, (n, 1))
    return x, np.sin(2 * x[:, 0]) + rng.normal(0, 0.1 + 0.25 * abs(x[:, 0]))


X, y = measured(3000)
X_test, y_test = measured(3000)

# %%
# One output for each quantile; predictions are in ascending order, so that no two cross.

levels = (0.05, 0.25, 0.5, 0.75, 0.95)
net = MLP(
    (1, 32, 32, len(levels)),
    activation="gelu",
    loss=Quantile(levels),
    optimizer=Adam(Cosine(0.01)),
    seed=0,
    n_threads=2,
)
net.fit(X, y, epochs=60)

# %%
# Each quantile should have its share of the rows below it, also of rows that it has not seen.

for q, predicted in zip(levels, net.predict(X_test).T, strict=True):
    print(f"quantile {q:.2f}: {np.mean(y_test < predicted):.3f} of new rows lie below")

grid = np.linspace(-2, 2, 200)[:, None]
q05, q25, q50, q75, q95 = net.predict(grid).T
along = grid.ravel()
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(X_test[::3], y_test[::3], ".", color="#999999", markersize=2, label="new rows")
ax.fill_between(along, q05, q95, color="#1f77b4", alpha=0.2, linewidth=0, label="5 % to 95 %")
ax.fill_between(along, q25, q75, color="#1f77b4", alpha=0.3, linewidth=0, label="25 % to 75 %")
ax.plot(along, q50, color="#1f77b4", linewidth=2, label="median")
ax.set(xlabel="x", ylabel="y")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, ncols=2, loc="lower right")
