"""
A curve with error bars
=======================

Twenty nets with different seeds, each on a bootstrap sample of the same noisy rows, trained in one
call. Their mean is the prediction; how far they are apart shows where the data say little.
"""

import matplotlib.pyplot as plt
import numpy as np

from fastmlp import MLPEnsembleRegressor

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -0.5, 120), rng.uniform(1, 2.5, 60)])
y = np.sin(2 * x) + 0.3 * x + rng.normal(0, 0.15, x.size)

ensemble = MLPEnsembleRegressor(
    hidden_layer_sizes=(50, 50),
    activation="tanh",
    n_members=20,
    bootstrap=True,
    learning_rate_init=0.01,
    batch_size=45,
    n_iter_no_change=30,
    max_iter=2000,
    random_state=0,
    n_jobs=2,
).fit(x[:, None], y)

# %%
# Mean and standard deviation of the members, also where there are no rows.

grid = np.linspace(-4, 4, 300)
mean, spread = ensemble.predict(grid[:, None]), ensemble.predict_std(grid[:, None])

figure, ax = plt.subplots(figsize=(6, 4.5))
ax.fill_between(grid, mean - spread, mean + spread, alpha=0.25, linewidth=0, label="± predict_std")
for member in ensemble.estimators_:
    ax.plot(grid, member.predict(grid[:, None]), color="C0", linewidth=0.4, alpha=0.5)
ax.plot(grid, mean, color="C0", label="mean of 20 nets")
ax.plot(grid, np.sin(2 * grid) + 0.3 * grid, "--", color="C1", linewidth=1.5, label="truth")
ax.plot(x, y, ".", color="#333333", markersize=3, label="rows")
ax.set(title="Twenty nets, their mean and spread", xlabel="x", ylabel="y", ylim=(-3.5, 3))
ax.legend(ncols=2, loc="lower center")

# %%
# The band is the disagreement of the nets, and not a prediction interval: the noise of y is not in
# it, so that it is narrow where the rows are dense. It is wider in the gap and beyond the rows, as
# it should be, and still the truth leaves it there: all members share the habits of a net. For an
# interval see :ref:`sphx_glr_auto_gallery_plot_quantiles.py`.

inside = np.mean(abs(y - ensemble.predict(x[:, None])) < ensemble.predict_std(x[:, None]))
print(f"{inside:.0%} of the rows lie within one predict_std of the mean")
