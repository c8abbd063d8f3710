"""Handwritten digits: ten classes, a held-out fifth, and stopping when it gets no better."""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmlp import MLP, Adam, Cosine, Report

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.2, stratify=y, random_state=0
)
X_train, X_valid, y_train, y_valid = train_test_split(
    X_train, y_train, test_size=0.1, stratify=y_train, random_state=0
)


class Patience:
    def __init__(self, epochs):
        self.epochs, self.best, self.best_epoch = epochs, np.inf, 0

    def __call__(self, report: Report):
        if report.validation_loss < self.best:
            self.best, self.best_epoch = report.validation_loss, report.epoch
            self.parameters = report.net.parameters.copy()
        elif report.epoch - self.best_epoch >= self.epochs:
            report.stop()


patience = Patience(10)
net = MLP((64, 100, 10), loss="cross_entropy", optimizer=Adam(Cosine(0.003)), l2=1e-4, seed=0)
history = net.fit(
    X_train,
    y_train,
    epochs=5 if "--quick" in sys.argv else 60,
    batch_size=64,
    validation_data=(X_valid, y_valid),
    callbacks=patience,
)
net.parameters[:] = patience.parameters

accuracy = (net.predict(X_test).argmax(axis=1) == y_test).mean()
print(f"{len(history.loss)} epochs, {history.status.value}; best after {patience.best_epoch + 1}")
print(f"held-out accuracy {100 * accuracy:.1f} %")
