"""
Can a net stand in for a simulation?
====================================

A formula or a simulation without noise, some hundred runs of it, and an error of a
ten-thousandth wanted. Adam does not get there; `LevenbergMarquardt`, which solves for
each step, does.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, LevenbergMarquardt

rng = np.random.default_rng(0)


def amplitude(X):
    """Of a driven oscillator, by frequency (0.2 to 1.8) and damping (0.2 to 0.6)."""
    frequency = 1 + 0.8 * X[:, 0]
    damping = 0.4 + 0.2 * X[:, 1]
    return 1 / np.hypot(1 - frequency**2, 2 * damping * frequency)


X = rng.uniform(-1, 1, (600, 2))
X_test = rng.uniform(-1, 1, (4000, 2))
y = amplitude(X)

# %% The same net twice. Adam takes thousands of epochs of small steps, with a rate that
# falls to zero; `LevenbergMarquardt` some hundred epochs, each one step on all rows.


def fitted(optimizer, epochs):
    net = MLP(
        (2, 16, 16, 1), activation="tanh", dtype="float64", optimizer=optimizer, seed=0
    )
    start = time.perf_counter()
    ends = []
    history = net.fit(
        X, y, epochs=epochs, callbacks=lambda _: ends.append(time.perf_counter())
    )
    return net, np.array(ends) - start, history.loss


ways = {
    "Adam": (Adam(Cosine(0.01)), 5000),
    "LevenbergMarquardt": (LevenbergMarquardt(), 300),
}
fits = {}
for name, (optimizer, epochs) in ways.items():
    fitted(optimizer, 1)  # loads kernels, or compiles them
    fits[name] = fitted(optimizer, epochs)

# %% Both axes are logarithmic. Adam is ahead in the first moments;
# then its curve lies flat where the other one falls.

figure, ax = plt.subplots()
for name, (_, seconds, losses) in fits.items():
    ax.plot(seconds, losses, label=name)
ax.set(xscale="log", yscale="log", xlabel="seconds", ylabel="mean squared error")
ax.set(title="Training loss over time")
ax.legend()

# %% Where the errors are: each unit of the scale is a factor of ten.
# Both find the resonance at low damping hardest, at the bottom in the middle.

across = np.linspace(-1, 1, 120)
grid = np.array(np.meshgrid(across, across)).reshape(2, -1).T
figure, axes = plt.subplots(1, 2, figsize=(6, 4), sharey=True)
figure.suptitle("Errors, by frequency and damping", fontsize="medium")
for ax, (name, (net, seconds, _)) in zip(axes, fits.items(), strict=True):
    error = abs(net.predict(grid).ravel() - amplitude(grid)).reshape(120, 120)
    image = ax.imshow(
        np.log10(error + 1e-12), origin="lower", extent=(0.2, 1.8, 0.2, 0.6), aspect="auto",
        cmap="Blues", vmin=-8, vmax=-2,
    )  # fmt: skip
    ax.set(title=name, xlabel="frequency")
    rms = np.sqrt(np.mean((net.predict(X_test).ravel() - amplitude(X_test)) ** 2))
    print(
        f"{name:18} {seconds[-1]:.1f} s, root mean squared error on new rows {rms:.1e}"
    )
axes[0].set_ylabel("damping")
figure.colorbar(
    image, ax=axes, orientation="horizontal", label="error, power of ten", aspect=40
)
