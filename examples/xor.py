"""XOR, the smallest thing that a net without a hidden layer cannot learn."""

import sys

import numpy as np

from fastmlp import MLP, SGD

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
y = np.array([0, 1, 1, 0])

net = MLP(
    (2, 4, 1),
    activation="sigmoid",
    output_activation="sigmoid",
    loss="mse",
    optimizer=SGD(2.0),
    seed=1,
)
quick = "--quick" in sys.argv
epochs = 500 if quick else 20_000
history = net.fit(X, y, epochs=epochs, batch_size=4)

for (a, b), output in zip(X, net.predict(X).ravel(), strict=True):
    print(f"{a} xor {b} = {output:.3f}")
print(f"loss {history.loss[0]:.4f} -> {history.loss[-1]:.6f}")
