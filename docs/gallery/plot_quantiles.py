"""
A band for the noise: quantiles
===============================

The loss whose minimum is a quantile is three lines. With it, one net for each quantile draws a band
that follows the noise, also where the noise depends on x.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, fit_many

rng = np.random.default_rng(0)


def measured(n):
    x = rng.uniform(-2, 2, (n, 1))
    return x, np.sin(2 * x[:, 0]) + rng.normal(0, 0.1 + 0.25 * abs(x[:, 0]))


X, y = measured(3000)
X_test, y_test = measured(3000)

# %%
# A loss returns its value and its slope. `type(error)` keeps float32 from widening.


def quantile(q):
    def pinball(prediction, target):
        error = target - prediction
        weight = type(error)(q if error > 0 else q - 1)
        return weight * error, -weight

    return pinball


levels = (0.05, 0.25, 0.5, 0.75, 0.95)
nets = [
    MLP((1, 32, 32, 1), activation="gelu", loss=quantile(q), optimizer=Adam(Cosine(0.01)), seed=0)
    for q in levels
]
histories = fit_many(nets, X, y, epochs=60, n_threads=2)

# %%
# Each quantile should have its share of the rows below it, also of rows that it has not seen.

for q, net in zip(levels, nets, strict=True):
    below = np.mean(y_test < net.predict(X_test).ravel())
    print(f"quantile {q:.2f}: {below:.3f} of new rows lie below")

grid = np.linspace(-2, 2, 200)[:, None]
q05, q25, q50, q75, q95 = (net.predict(grid).ravel() for net in nets)
along = grid.ravel()
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ax.plot(X_test[::3], y_test[::3], ".", color="#999999", markersize=2, label="new rows")
ax.fill_between(along, q05, q95, color="#1f77b4", alpha=0.2, linewidth=0, label="5 % to 95 %")
ax.fill_between(along, q25, q75, color="#1f77b4", alpha=0.3, linewidth=0, label="25 % to 75 %")
ax.plot(along, q50, color="#1f77b4", linewidth=2, label="median")
ax.set(xlabel="x", ylabel="y")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, ncols=2, loc="lower right")
