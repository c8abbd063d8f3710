"""Which rate and penalty? Every pair of them on five folds of digits,
all nets in one call.
"""

import sys
from itertools import product

import numpy as np
from sklearn.datasets import load_digits

from fastmlp import MLP, Adam, fit_many

epochs = 3 if "--quick" in sys.argv else 60
rates, penalties, n_folds = (0.001, 0.003, 0.01), (0.0, 0.1, 1.0), 5
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

print(f"{len(nets)} nets\n   rate   l2   loss of the fold, mean and spread   epochs")
for rate, l2 in product(rates, penalties):
    its = [h for h, t in zip(histories, trials, strict=True) if t[:2] == (rate, l2)]
    best = [history.validation_loss[history.best_epoch] for history in its]
    n_epochs = np.mean([len(history.loss) for history in its])
    print(f"{rate:7} {l2:4} {np.mean(best):12.3f} {np.std(best):6.3f} {n_epochs:22.1f}")
