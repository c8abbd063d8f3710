"""Which rate and penalty? Every pair of them on five folds of digits,
all nets in one call.
"""

import sys
from itertools import product

import numpy as np
from sklearn.datasets import load_digits

from fastmlp import MLP, Adam, fit_many

quick = "--quick" in sys.argv
epochs = 3 if quick else 60
rates = (0.001, 0.003, 0.01)
penalties = (0.0, 0.1, 1.0)
n_folds = 5
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
fold = np.random.default_rng(0).integers(n_folds, size=len(X))

trials = list(product(rates, penalties, range(n_folds)))
nets = [
    MLP((64, 64, 10), loss="cross_entropy", optimizer=Adam(rate), l2=l2, seed=k)
    for rate, l2, k in trials
]
histories = fit_many(
    nets,
    X,
    y,
    epochs=epochs,
    rows=[fold != k for *_, k in trials],
    validation_rows=[fold == k for *_, k in trials],
    early_stopping=5,
)

print(f"{len(nets)} nets")
print("   rate   l2   loss of the fold, mean and spread   epochs")
# Trials of one pair are next to each other, a fold each.
for start in range(0, len(trials), n_folds):
    rate, l2, _ = trials[start]
    folds = histories[start : start + n_folds]
    losses = [history.validation_loss[history.best_epoch] for history in folds]
    mean = np.mean(losses)
    spread = np.std(losses)
    n_epochs = np.mean([len(history.loss) for history in folds])
    print(f"{rate:7} {l2:4} {mean:12.3f} {spread:6.3f} {n_epochs:22.1f}")
