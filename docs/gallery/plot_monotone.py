"""
What if it can only rise?
=========================

A dose, a price, a load: often the direction of an effect is known before there are
data. A net with `monotonic_cst` cannot go the other way, and needs fewer rows.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, fit_many


def response(x):
    return 1 / (1 + np.exp(-4 * x)) + 0.15 * x


rng = np.random.default_rng(0)
grid = np.linspace(-2, 2, 400)[:, None].astype(np.float32)

# %% Twenty noisy rows, drawn fifteen times, and on each draw a free net and one that
# can only rise. Both have the same layers and the same seed.

draws = rng.uniform(-2, 2, (15, 20))
noisy = response(draws) + rng.normal(0, 0.3, draws.shape)
rows = [np.arange(20) + 20 * k for k in range(15)]
predictions = {}
for name, cst in (("free", None), ("can only rise", [1])):
    nets = [
        MLP((1, 32, 32, 1), optimizer=Adam(Cosine(0.01)), monotonic_cst=cst, seed=seed)
        for seed in range(15)
    ]
    fit_many(
        nets, draws.reshape(-1, 1), noisy.ravel(), epochs=1000, rows=rows, n_threads=2
    )
    predictions[name] = np.hstack([net.predict(grid) for net in nets])

# %% The free nets follow the noise up and down, and each draw tells another story.
# The others are steps or slopes, never a fall, and nearer to the truth.

figure, axes = plt.subplots(2, 1, figsize=(6, 6.5), sharex=True, sharey=True)
for ax, (name, curves) in zip(axes, predictions.items(), strict=True):
    ax.plot(draws[0], noisy[0], ".", color="grey", label="the rows of one draw")
    ax.plot(grid, curves, color="C0", linewidth=0.7, alpha=0.7)
    ax.plot([], color="C0", label="fifteen nets")
    ax.plot(grid, response(grid), "--", color="C1", label="truth")
    error = np.sqrt(np.mean((curves - response(grid)) ** 2))
    falls = np.mean((np.diff(curves, axis=0) < 0).any(axis=0))
    print(f"{name:13} error {error:.3f}; {falls:.0%} of the nets fall somewhere")
    ax.set(title=f"{name}: error {error:.2f}", ylabel="response", ylim=(-1.2, 2.2))
axes[1].set_xlabel("dose")
axes[0].legend()
