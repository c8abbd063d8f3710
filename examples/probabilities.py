"""Benign or malignant: a probability for each case,
and whether the probabilities are honest.
"""

import sys

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from fastmlp import MLP, Adam

X, benign = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, benign, test_size=0.4, stratify=benign, random_state=0
)
mean = X_train.mean(axis=0)
scale = X_train.std(axis=0)
X_train = (X_train - mean) / scale
X_test = (X_test - mean) / scale

quick = "--quick" in sys.argv
net = MLP(
    (30, 16, 1),
    activation="silu",
    loss="binary_cross_entropy",
    optimizer=Adam(0.003),
    l2=1.0,
    seed=0,
)
net.fit(X_train, y_train, epochs=5 if quick else 50, batch_size=32)
p = net.predict(X_test).ravel()

print(f"held-out accuracy {100 * ((p > 0.5) == y_test).mean():.1f} %")
print(f"Brier score       {np.mean((p - y_test) ** 2):.4f}")
print("\np(benign)  cases  said  found")
for low in np.arange(0, 1, 0.2):
    here = (p >= low) & (p < low + 0.2)
    if here.any():
        said = p[here].mean()
        found = y_test[here].mean()
        print(f"{low:.1f}-{low + 0.2:.1f}    {here.sum():5d}  {said:.2f}   {found:.2f}")
