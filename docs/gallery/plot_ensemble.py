"""
One net, or the mean of several?
================================

Two nets that differ in nothing but the seed make different errors,
and a mean has less of them. How many does it take?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1

from fastmlp import MLP, Adam, Cosine, fit_many

X, y = make_friedman1(3400, n_features=10, noise=1.0, random_state=0)
y = (y - y.mean()) / y.std()
train = slice(400)
test = slice(400, None)

nets = [
    MLP((10, 64, 64, 1), optimizer=Adam(Cosine(0.005)), seed=seed) for seed in range(32)
]
fit_many(nets, X[train], y[train], epochs=100, n_threads=2)

# %% Each net predicts the test rows;
# then means of 1 to 32 of them, forty draws of each number.

members = np.array([net.predict(X[test]).ravel() for net in nets])
rng = np.random.default_rng(0)
numbers = np.arange(1, 33)
errors = np.array(
    [
        [
            np.sqrt(
                np.mean((members[rng.permutation(32)[:n]].mean(axis=0) - y[test]) ** 2)
            )
            for _ in range(40)
        ]
        for n in numbers
    ]
)

# %% The first few nets bring most of it, and the tenth next to nothing. A mean is
# better than the best single net, which nobody could have chosen without the test rows.

low = errors.min(axis=1)
mean = errors.mean(axis=1)
high = errors.max(axis=1)
figure, ax = plt.subplots()
ax.fill_between(
    numbers, low, high, alpha=0.25, linewidth=0, label="from best to worst draw"
)
ax.plot(numbers, mean, label="mean of forty draws")
ax.axhline(low[0], color="C1", linestyle="--", label="the best single net")
ax.set(title="Error on new rows, by the number of nets", xlabel="nets in the mean")
ax.set(ylabel="root mean squared error", xscale="log", xlim=(1, 32))
ax.set_xticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
ax.minorticks_off()
ax.legend()

# %%

for n in (1, 2, 4, 8, 16, 32):
    print(
        f"{n:2} nets: error {mean[n - 1]:.3f}, draws differ by "
        f"{high[n - 1] - low[n - 1]:.3f}"
    )
