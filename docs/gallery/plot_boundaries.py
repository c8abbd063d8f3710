"""
Where does a net draw the line?
===============================

Two classes whose clouds overlap: narrow and wide nets, without a penalty and with one.
The line at 50 % shows how much of the noise a net has taken for a rule.
"""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from fastmlp import MLP, Adam, Cosine, fit_many

X, y = make_moons(120, noise=0.35, random_state=0)
X_test, y_test = make_moons(5000, noise=0.35, random_state=1)

trials = list(product((4, 64), (0.0, 0.1)))
nets = [
    MLP(
        (2, width, width, 1),
        loss="binary_cross_entropy",
        optimizer=Adam(Cosine(0.02)),
        l2=l2,
        seed=0,
    )
    for width, l2 in trials
]
fit_many(nets, X, y, epochs=1000, n_threads=2)

# %% The wide net without a penalty winds around single points: all rows that it has
# seen are right, and fewer of new ones. With a penalty it is right more often than nets
# of four units, which draw a few straight lines and no more. The numbers are of new
# rows.

across, up = np.meshgrid(np.linspace(-2, 3, 150), np.linspace(-1.5, 2, 150))
grid = np.column_stack([across.ravel(), up.ravel()])

figure, axes = plt.subplots(2, 2, figsize=(6, 5.8), sharex=True, sharey=True)
figure.suptitle(
    "Probability of the second class, and accuracy on new rows", fontsize="medium"
)
for ax, net, (width, l2) in zip(axes.flat, nets, trials, strict=True):
    p = net.predict(grid).reshape(across.shape)
    ax.contourf(across, up, p, levels=20, cmap="RdBu", vmin=-0.2, vmax=1.2)
    ax.contour(across, up, p, levels=[0.5], colors="black", linewidths=1.5)
    for label, colour, marker in ((0, "#8b1a1a", "o"), (1, "#123f6d", "^")):
        ax.scatter(*X[y == label].T, s=9, color=colour, marker=marker)
    accuracy = np.mean((net.predict(X_test).ravel() > 0.5) == y_test)
    seen = np.mean((net.predict(X).ravel() > 0.5) == y)
    print(
        f"{width:2} units, l2={l2:g}: {seen:.1%} of the rows it has seen, "
        f"{accuracy:.1%} of others"
    )
    ax.set(title=f"{width} units, l2={l2:g}: {accuracy:.1%}", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
