"""
What if the world changes while it learns?
==========================================

A stream of measurements: each batch is predicted first and learnt from after, by
`MLP.train_on_batch`. In the middle the law behind it changes at once, and later it
drifts. Which net keeps up?
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine

N_BATCHES = 3000
rng = np.random.default_rng(0)
angle = np.zeros(N_BATCHES)
angle[1000:] = np.pi / 2
angle[2000:] += np.linspace(0, np.pi, 1000)


def measured(t):
    X = rng.uniform(-1, 1, (32, 2)).astype(np.float32)
    along = X[:, 0] * np.cos(angle[t]) + X[:, 1] * np.sin(angle[t])
    return X, np.sin(3 * along)[:, None] + rng.normal(0, 0.1, (32, 1))


# %% One net stops after 500 batches, as one that is trained once and then served. One
# has a rate that falls to zero, as it would in a fit. One keeps its rate, and stays
# able to learn.

rates = {
    "stops at 500": 0.005,
    "falling rate": Cosine(0.005, n_steps=N_BATCHES),
    "constant": 0.005,
}
nets = {
    name: MLP(
        (2, 32, 32, 1), activation="tanh", optimizer=Adam(rate), seed=0, n_threads=1
    )
    for name, rate in rates.items()
}
errors = {name: np.empty(N_BATCHES) for name in nets}
for t in range(N_BATCHES):
    X, y = measured(t)
    for name, net in nets.items():
        errors[name][t] = np.mean((net.predict(X) - y) ** 2)
        if name != "stops at 500" or t < 500:
            net.train_on_batch(X, y)

# %% The error of predictions made before the rows were learnt, the mean of 50 batches.
# At 1,000 all three are wrong, and the two that still learn need some hundred batches.
# The drift from 2,000 on is too fast for the rate that falls; the constant one follows
# as if nothing had happened.

figure, ax = plt.subplots()
ax.axhline(0.01, color="grey", linestyle="--", linewidth=1, label="the noise")
for (name, error), style in zip(errors.items(), (":", "--", "-"), strict=True):
    ax.plot(
        np.arange(25, N_BATCHES, 50),
        error.reshape(-1, 50).mean(axis=1),
        style,
        label=name,
    )
ax.set(yscale="log", xlabel="batches of 32 rows", ylabel="mean squared error")
ax.set(title="Error of each batch before it is learnt", ylim=(0.005, 30))
ax.legend(ncols=2, loc="upper left")

# %%

for name, error in errors.items():
    parts = [error[500:1000], error[1500:2000], error[2000:]]
    before, after, drift = (part.mean() for part in parts)
    print(
        f"{name:13} before {before:.3f}, after the change {after:.3f}, in the drift "
        f"{drift:.3f}"
    )
