"""
Would more rows help?
=====================

Before you collect more data, look at the error over the number of rows: on logarithmic
axes it is often close to a straight line, which says what twice the rows would bring.
"""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from fastmlp import MLP, Adam, Cosine, fit_many

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
order = np.random.default_rng(0).permutation(len(X))
pool = order[:1400]
test = order[1400:]

# %% Seven sizes, eight draws of each: 56 nets in one call.
# All take about as many steps, so that the number of rows is all that differs.

sizes = [44, 88, 175, 350, 700, 1400]
seeds = range(8)
trials = list(product(sizes, seeds))
nets = [
    MLP(
        (64, 64, 10),
        loss="cross_entropy",
        optimizer=Adam(Cosine(0.005)),
        l2=0.1,
        seed=seed,
    )
    for _, seed in trials
]
rows = [np.random.default_rng(seed).permutation(pool)[:n] for n, seed in trials]
epochs = [1400 * 30 // n for n, _ in trials]
fit_many(nets, X, y, epochs=epochs, rows=rows, n_threads=2)

wrong = [np.mean(net.predict(X[test]).argmax(axis=1) != y[test]) for net in nets]
wrong = np.reshape(wrong, (len(sizes), len(seeds)))

# %% A line through the sizes up to 350 says about what 1,400 rows reach, and that there
# is no end yet: more rows would help. The points bend away from it a little. Where they
# become level, more rows of the same kind no longer help; better columns, or labels,
# may.

slope, start = np.polyfit(np.log(sizes[:4]), np.log(wrong.mean(axis=1)[:4]), 1)
line = np.exp(start) * np.array(sizes) ** slope

figure, ax = plt.subplots()
ax.plot(np.repeat(sizes, len(seeds)), wrong.ravel(), ".", color="grey", label="one net")
ax.plot(sizes, wrong.mean(axis=1), "o-", label="mean of eight")
ax.plot(sizes, line, "--", color="C1", label="line through the first four")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="rows to learn from",
    ylabel="share of wrong digits",
)
ax.set(title="Error on new digits, by the number of rows")
ax.set_xticks(sizes, sizes)
ax.set_yticks([0.02, 0.05, 0.1, 0.2], ["2 %", "5 %", "10 %", "20 %"])
ax.minorticks_off()
ax.legend()

# %%

print(f"twice the rows leave {2**slope:.0%} of the errors, by the line")
print(f"1,400 rows: {line[-1]:.1%} by the line, {wrong.mean(axis=1)[-1]:.1%} measured")
