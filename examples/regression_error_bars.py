"""A noisy curve, fitted by several nets:
their mean, and their spread as an error bar.
"""

import sys

import numpy as np

from fastmlp import MLP, Adam, Cosine

quick = "--quick" in sys.argv
n_nets = 3 if quick else 20
epochs = 50 if quick else 300
rng = np.random.default_rng(0)


def truth(x):
    return np.sin(3 * x) + 0.5 * x


X = rng.uniform(-2, 2, (300, 1))
y = truth(X) + rng.normal(0, 0.2, X.shape)
grid = np.linspace(-3, 3, 13)[:, None]


def curve(seed):
    net = MLP(
        (1, 32, 32, 1),
        activation="tanh",
        optimizer=Adam(Cosine(0.01)),
        seed=seed,
    )
    net.fit(X, y, epochs=epochs, batch_size=50)
    return net.predict(grid).ravel()


curves = np.array([curve(seed) for seed in range(n_nets)])
mean = curves.mean(axis=0)
spread = curves.std(axis=0, ddof=1)

print(f"{n_nets} nets, trained on x from -2 to 2")
print("    x    truth     mean   spread")
columns = zip(grid.ravel(), truth(grid).ravel(), mean, spread, strict=True)
for x, f, m, s in columns:
    bar = "#" * round(20 * min(s, 2))
    print(f"{x:5.1f} {f:8.2f} {m:8.2f} {s:8.2f}  {bar}")
