"""
Are my probabilities honest?
============================

If a model gives 70 % to a hundred cases, seventy should turn out so. A net that has
learnt its rows by heart gives 99 % too often. The same net, fitted in three ways, and
what becomes of its probabilities.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from fastmlp import MLP, fit_many

rng = np.random.default_rng(0)
X = rng.normal(size=(21_000, 10)).astype(np.float32)
chance = 1 / (1 + np.exp(-2 * np.sin(1.5 * X[:, 0]) - X[:, 1] * X[:, 2]))
y = (rng.random(len(X)) < chance).astype(np.float32)
train = slice(1000)
test = slice(1000, None)


def nets(n):
    return [
        MLP((10, 64, 64, 1), loss="binary_cross_entropy", seed=seed)
        for seed in range(n)
    ]


# %% A hundred epochs; the epoch with the lowest loss on a fifth of the rows;
# and the mean of ten nets that stop so.

early = {"validation_split": 0.2, "early_stopping": 10}
ways = {
    "100 epochs": (nets(1), {}),
    "early stopping": (nets(1), early),
    "mean of ten": (nets(10), early),
}
said = {}
for name, (models, options) in ways.items():
    fit_many(models, X[train], y[train], epochs=100, n_threads=2, **options)
    said[name] = np.mean([net.predict(X[test]).ravel() for net in models], axis=0)

# %% On the dashed line what is said is what happens. The net of 100 epochs is too sure
# at both ends, and it is nearly always sure: most of its probabilities are close to 0
# or 1. The mean of ten nets errs a little to the other side, as careful as ten voices
# that do not agree.

figure, (above, below) = plt.subplots(
    2, 1, figsize=(6, 6.5), height_ratios=[2, 1], sharex=True
)
above.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
for (name, p), marker in zip(said.items(), "os^", strict=True):
    found, mean = calibration_curve(y[test], p, n_bins=10)
    above.plot(mean, found, marker=marker, label=name)
    below.hist(p, bins=30, range=(0, 1), histtype="step", linewidth=2, label=name)
above.set(
    title="How often it happens, by probability", ylabel="share of rows that are 1"
)
below.set(title="How often a probability is given", xlabel="probability", ylabel="rows")
above.legend()

# %% The accuracy shows little of it, the log loss does.
# No model can be better than the chance from which these rows were drawn.

for name, p in {**said, "the chance itself": chance[test]}.items():
    accuracy = np.mean((p > 0.5) == y[test])
    print(f"{name:17} log loss {log_loss(y[test], p):.3f}, accuracy {accuracy:.3f}")
