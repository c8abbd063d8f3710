"""Data that arrives in chunks: each goes into the net once, and is gone."""

import sys

import numpy as np

from fastmlp import MLP, Adam

quick = "--quick" in sys.argv
n_chunks = 20 if quick else 400
rng = np.random.default_rng(0)


def readings(n_rows):
    X = rng.normal(size=(n_rows, 6))
    truth = X[:, 0] * X[:, 1] + np.abs(X[:, 2]) - 0.5 * X[:, 3]
    noise = rng.normal(0, 0.1, n_rows)
    return X, truth + noise


def stream():
    for _ in range(n_chunks):
        yield readings(512)


net = MLP((6, 64, 32, 1), activation="gelu", optimizer=Adam(0.003), seed=0)
for number, (X, y) in enumerate(stream(), start=1):
    error = np.mean((net.predict(X).ravel() - y) ** 2)
    net.fit(X, y, epochs=1, batch_size=64)
    if number == 1 or number % (n_chunks // 5) == 0:
        print(f"chunk {number:4d}  error before learning from it {error:.4f}")

print(
    f"{net.n_steps} steps of one optimizer, whose state carried on from chunk to chunk"
)
print("the noise alone is an error of 0.0100")
