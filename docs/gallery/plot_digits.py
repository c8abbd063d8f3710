"""
Digits beside scikit-learn
==========================

`fastmlp.MLPClassifier` takes the place of scikit-learn's estimator of the same name:
the import changes, the numbers do not. Here both learn 1,347 handwritten digits with
the same `random_state`.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn import neural_network
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import fastmlp

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, stratify=y, random_state=0
)
settings = {
    "hidden_layer_sizes": (100,),
    "learning_rate_init": 0.003,
    "early_stopping": True,
    "random_state": 0,
}

# %% Both get one thread: more would not help a net of this size, and on a busy machine
# the threads of scikit-learn's BLAS wait for each other. The first fit of a program
# loads or compiles kernels, so a short one goes before the clock starts.

models = {
    "scikit-learn": neural_network.MLPClassifier(**settings),
    "fastmlp": fastmlp.MLPClassifier(**settings, n_jobs=1),
}
models["fastmlp"].fit(X_train[:200], y_train[:200])

seconds = {}
for name, model in models.items():
    with threadpool_limits(1):
        start = time.perf_counter()
        model.fit(X_train, y_train)
        seconds[name] = time.perf_counter() - start
    print(
        f"{name:12} {model.n_iter_} epochs, {seconds[name]:.2f} s, "
        f"held-out accuracy {model.score(X_test, y_test):.4f}"
    )

# %% The loss curves lie on each other, epoch by epoch,
# and so do the weights, but for rounding.

ours = models["fastmlp"]
theirs = models["scikit-learn"]
largest = max(abs(a - b).max() for a, b in zip(ours.coefs_, theirs.coefs_, strict=True))
print(f"largest difference of a weight: {largest:.1e}")

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 5.5), height_ratios=[3, 1])
above.plot(
    theirs.loss_curve_, color="grey", linewidth=6, alpha=0.5, label="scikit-learn"
)
above.plot(ours.loss_curve_, color="C0", linewidth=1.5, label="fastmlp")
above.set(
    title="Loss, epoch by epoch", xlabel="epoch", ylabel="training loss", yscale="log"
)
above.legend()
below.barh(list(seconds), list(seconds.values()), color=["grey", "C0"], height=0.6)
below.set(title="Time of one fit", xlabel="seconds")

# %%
# Some of the digits that were held out; wrong ones are red.

predicted = ours.predict(X_test)
wrong = np.flatnonzero(predicted != y_test)[:4]
right_ones = np.flatnonzero(predicted == y_test)[:4]
shown = [*right_ones, *wrong]
figure, axes = plt.subplots(2, 4, figsize=(6, 3.2))
figure.suptitle("Digits that were held out")
for ax, i in zip(axes.ravel(), shown, strict=True):
    color = "black" if predicted[i] == y_test[i] else "red"
    ax.imshow(X_test[i].reshape(8, 8), cmap="Greys")
    ax.set_title(f"{predicted[i]}, is {y_test[i]}", color=color)
    ax.set(xticks=[], yticks=[])
