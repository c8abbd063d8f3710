"""
A net that overfits, and what helps
===================================

Few rows, much noise, a large net: the loss of the rows that it learns falls,
and that of others rises. The same net with one remedy at a time, and with several.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import EMA, MLP, Adam

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (2200, 6)).astype(np.float32)
y = np.sin(3 * X[:, 0]) * X[:, 1] + rng.normal(0, 0.3, 2200)
rows = (X[:200], y[:200])
validation = (X[200:], y[200:])

# %%
# What each remedy changes: of the net, of the optimizer, of the fit.

remedies = {
    "plain": ({}, {}, {}),
    "early stopping": ({}, {}, {"early_stopping": 15}),
    "l2=0.5": ({"l2": 0.5}, {}, {}),
    "dropout=0.2": ({"dropout": 0.2}, {}, {}),
    "average=EMA(0.99)": ({}, {"average": EMA(0.99)}, {}),
    "all four": (
        {"dropout": 0.2, "l2": 0.5},
        {"average": EMA(0.99)},
        {"early_stopping": 15},
    ),
}
histories = {}
for name, (of_net, of_optimizer, of_fit) in remedies.items():
    net = MLP((6, 64, 64, 1), optimizer=Adam(3e-3, **of_optimizer), seed=0, **of_net)
    histories[name] = net.fit(*rows, epochs=150, validation_data=validation, **of_fit)

# %% The dashed line is the variance of the noise, below which no net can be. The
# training loss has the penalty in it, and with dropout it is that of nets with units
# left out. A circle is at the epoch that early stopping has kept. An average of the
# weights takes the noise out of the curve; it does not keep a net from overfitting.

plain = histories["plain"].validation_loss
figure, axes = plt.subplots(3, 2, figsize=(6, 7.5), sharex=True, sharey=True)
figure.suptitle("Loss by epoch, and the validation loss at the end", fontsize="medium")
for ax, (name, history) in zip(axes.flat, histories.items(), strict=True):
    best = int(np.argmin(history.validation_loss))
    kept = best if "early_stopping" in remedies[name][2] else len(history.loss) - 1
    loss = history.validation_loss[kept]
    print(
        f"{name:18} {len(history.loss):3} epochs, validation loss at the end {loss:.3f}"
    )
    ax.axhline(0.3**2, color="grey", linewidth=1, linestyle="--")
    ax.plot(plain, color="grey", linewidth=1, label="validation, plain")
    ax.plot(history.loss, color="C0", linewidth=1, label="training")
    ax.plot(history.validation_loss, color="C1", label="validation")
    if kept == best:
        ax.plot(kept, loss, "o", color="C1", markersize=8, fillstyle="none")
    ax.set(title=f"{name}: {loss:.3f}", ylim=(0, 0.4))
for ax in axes[2]:
    ax.set_xlabel("epoch")
axes[1, 0].set_ylabel("mean squared error")
axes[0, 0].legend(loc="upper right")
