"""
Which learning rate, and should it fall?
========================================

Eight rates, each constant and each with a schedule, five seeds: 120 nets in one call.
"""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Constant, Cosine, OneCycle, fit_many

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (3000, 4)).astype(np.float32)
y = np.sin(3 * X[:, 0]) * X[:, 1]
truth = y[1000:]
y = y + rng.normal(0, 0.3, 3000)
train = np.arange(1000)
test = np.arange(1000, 3000)

rates = np.geomspace(3e-4, 0.3, 8)
seeds = range(5)
schedules = {"constant": Constant, "half a cosine": Cosine, "one cycle": OneCycle}
trials = list(product(schedules.values(), rates, seeds))
nets = [
    MLP((4, 64, 64, 1), optimizer=Adam(schedule(rate)), seed=seed)
    for schedule, rate, seed in trials
]
histories = fit_many(nets, X, y, epochs=40, rows=train, n_threads=2)

# %% The error against the function without noise,
# on rows that were held out: mean and spread over seeds.

errors = np.array(
    [np.mean((net.predict(X[test]).ravel() - truth) ** 2) for net in nets]
)
errors = errors.reshape(len(schedules), len(rates), len(seeds))

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 6.5))
for (name, kind), by_rate, colour in zip(
    schedules.items(), errors, ("grey", "C0", "C1"), strict=True
):
    mean = by_rate.mean(axis=1)
    spread = by_rate.std(axis=1, ddof=1)
    above.errorbar(
        rates, mean, spread, marker="o", markersize=4, color=colour, label=name
    )
    shown = histories[trials.index((kind, rates[4], 0))]
    below.plot(shown.learning_rate, color=colour, label=name)
above.set(title="Error on new rows, by rate", xscale="log", yscale="log")
above.set(xlabel="highest rate", ylabel="mean squared error")
below.set(title="The three schedules", xlabel="epoch", ylabel="learning rate")
above.legend()

# %% A schedule allows a higher rate, and ends at a lower error:
# at a constant rate the weights keep jumping about the minimum.

for name, by_rate in zip(schedules, errors, strict=True):
    best = by_rate.mean(axis=1).argmin()
    print(f"{name:14} best at {rates[best]:.4f}: error {by_rate[best].mean():.4f}")
