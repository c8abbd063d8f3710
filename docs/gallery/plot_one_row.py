"""
How long does one row take?
===========================

A controller, a game or a web service asks for one prediction at a time. Then most of
the time is not arithmetic: it is Python. The same net, asked in four ways.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from numba import njit
from sklearn import neural_network

from fastmlp import MLPRegressor, jit

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (500, 16))
y = np.sin(X.sum(axis=1))
settings = {
    "hidden_layer_sizes": (64, 64),
    "tol": 1.0,
    "n_iter_no_change": 3,
    "random_state": 0,
}
ours = MLPRegressor(**settings).fit(X, y)
theirs = neural_network.MLPRegressor(**settings).fit(X, y)

# %% The net of an estimator takes rows of its own dtype,
# and a place for the result, without copies.

net = ours.net_
net.n_threads = 1
row = X[:1].astype(net.dtype)
out = np.empty((1, 1), net.dtype)
calls = {
    "scikit-learn": lambda: theirs.predict(row),
    "MLPRegressor": lambda: ours.predict(row),
    "MLP, out=": lambda: net.predict(row, out=out),
}
microseconds = {}
for name, call in calls.items():
    spent = np.empty(1000)
    for i in range(len(spent)):
        start = time.perf_counter_ns()
        call()
        spent[i] = time.perf_counter_ns() - start
    microseconds[name] = spent[100:] / 1e3

# %% In your compiled code there is no Python at all: a call is a jump.
# It is too short for the clock, so a thousand are timed together.


@njit
def many(handle, rows, n):
    total = 0.0
    for i in range(n):
        total += jit.value(handle, rows[i % len(rows)])
    return total


handle = jit.compiled(net)
many(handle, X, 1)
spent = np.empty(200)
for i in range(len(spent)):
    start = time.perf_counter_ns()
    many(handle, X, 1000)
    spent[i] = time.perf_counter_ns() - start
microseconds["in @njit"] = spent / 1e6

# %% Each step to the left leaves something out: checks and conversions of a table,
# arrays made anew, and at last Python. The tails to the right are the machine, which
# had other work too.

figure, ax = plt.subplots()
bins = np.geomspace(0.1, 1000, 120)
for (name, spent), shade in zip(
    microseconds.items(), ("grey", "C2", "C0", "C1"), strict=True
):
    weights = np.full(len(spent), 1 / len(spent))
    label = f"{name}: {np.median(spent):.1f} µs"
    ax.hist(spent, bins, weights=weights, color=shade, alpha=0.8, label=label)
ax.set(xscale="log", xlabel="microseconds of one row", ylabel="share of calls")
ax.set(title="Times of one row through 16-64-64-1")
ax.legend()

# %%

for name, spent in microseconds.items():
    median, late = np.quantile(spent, [0.5, 0.99])
    print(f"{name:13} median {median:7.2f} us, 99 of 100 within {late:7.2f} us")
