"""
Which columns can go?
=====================

Thirty columns, of which five matter. The penalty `l1` takes the weights of the others
to zero, and says so before anybody asks what a column means.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLP, Adam, Cosine, fit_many

rng = np.random.default_rng(0)
X = rng.normal(size=(5500, 30)).astype(np.float32)
y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + abs(X[:, 3]) - X[:, 4]
y = (y - y.mean()) / y.std() + rng.normal(0, 0.3, len(y))
train = slice(500)
test = slice(500, None)

# %% Ten strengths, in one call.
# A rate that falls to zero lets weights come to rest at zero.

strengths = np.geomspace(0.003, 3, 10)


def fitted(columns, strengths):
    nets = [
        MLP((len(columns), 32, 32, 1), optimizer=Adam(Cosine(0.01)), l1=l1, seed=0)
        for l1 in strengths
    ]
    fit_many(nets, X[train][:, columns], y[train], epochs=200, n_threads=2)
    errors = [
        np.mean((net.predict(X[test][:, columns]).ravel() - y[test]) ** 2)
        for net in nets
    ]
    return nets, np.array(errors)


nets, errors = fitted(np.arange(30), strengths)
norms = np.array([np.linalg.norm(net.weights[0], axis=1) for net in nets])

# %% A column's weights into the first layer. With a stronger penalty columns go one by
# one, and those that matter go last. The error on new rows falls with each that is
# rightly gone, and rises when the penalty takes from the others too.

best = int(errors.argmin())
kept = np.flatnonzero(norms[best] > 0.1 * norms[best].max())
_, (alone,) = fitted(kept, [0.1])

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 6.5), sharex=True)
above.plot(strengths, norms[:, 5:], color="grey", linewidth=0.8)
above.plot(strengths, norms[:, :5], color="C0")
above.plot([], color="C0", label="the five that matter")
above.plot([], color="grey", linewidth=0.8, label="the other 25")
above.set(
    xscale="log", title="What is left of each column", ylabel="norm of its weights"
)
above.legend()
below.plot(strengths, errors, "o-", label="all columns")
below.axhline(alone, color="C1", linestyle="--", label=f"the {len(kept)} kept, alone")
below.set(title="Error on new rows", xlabel="l1", ylabel="mean squared error")
below.legend()

# %% Ask for the columns at the strength of the least error, and fit a net on these
# alone. A few that do not matter may be among them; all that matter are there.

print(f"l1={strengths[best]:.2g} keeps the columns {kept.tolist()}")
print(
    f"error: all columns, least l1 {errors[0]:.3f}; best l1 {errors[best]:.3f}; kept "
    f"{alone:.3f}"
)
