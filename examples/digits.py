"""Handwritten digits: ten classes, a held-out fifth,
and stopping when it gets no better.
"""

import sys

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmlp import MLP, Adam, ReduceLROnPlateau

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.2, stratify=y, random_state=0
)

quick = "--quick" in sys.argv
net = MLP((64, 100, 10), loss="cross_entropy", optimizer=Adam(0.003), l2=1e-4, seed=0)
history = net.fit(
    X_train,
    y_train,
    epochs=5 if quick else 200,
    batch_size=64,
    validation_split=0.1,
    metrics="accuracy",
    early_stopping=10,
    callbacks=ReduceLROnPlateau(0.3, patience=4),
)

best = history.best_epoch
validation_accuracy = history.metrics["accuracy"][best]
right = net.predict(X_test).argmax(axis=1) == y_test
print(f"{len(history.loss)} epochs, {history.status.value}; best after {best + 1}")
print(f"validation accuracy {100 * validation_accuracy:.1f} %")
print(f"held-out accuracy {100 * right.mean():.1f} %")
