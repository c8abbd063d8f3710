"""
Why did it predict that?
========================

How much has each column moved a prediction away from the mean prediction? `shap_values`
shares the whole difference out, here for patients with diabetes and the course of their
disease within a year.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from fastmlp import MLPRegressor, shap_values

data = load_diabetes()
columns = [
    "age",
    "sex",
    "body mass",
    "pressure",
    "cholesterol",
    "LDL",
    "HDL",
    "ratio",
    "fats",
    "sugar",
]
X_train, X_test, y_train, y_test = train_test_split(
    scale(data.data), data.target, random_state=0
)
mean = y_train.mean()
deviation = y_train.std()

model = MLPRegressor(
    hidden_layer_sizes=(32,),
    activation="tanh",
    alpha=1.0,
    early_stopping=True,
    max_iter=500,
    random_state=0,
).fit(X_train, (y_train - mean) / deviation)
attribution = shap_values(model, X_test, background=X_train[:100])
values = attribution.values * deviation

# %% A point is a patient; to the right the column has raised the prediction. Orange
# points have a high number in that column, blue ones a low one: a high body mass raises
# the prediction, a high HDL lowers it. Columns are in the order of what they matter;
# fats are the logarithm of triglycerides, and the ratio is cholesterol over HDL.

order = abs(values).mean(axis=0).argsort()
rng = np.random.default_rng(0)
figure, ax = plt.subplots(figsize=(6, 5))
for place, k in enumerate(order):
    beside = place + rng.uniform(-0.25, 0.25, len(values))
    for is_high, colour, label in ((False, "C0", "low"), (True, "C1", "high")):
        rows = (X_test[:, k] > np.median(X_test[:, k])) == is_high
        ax.plot(
            values[rows, k], beside[rows], ".", color=colour, markersize=5, alpha=0.7
        )
        if place == 0:
            ax.plot([], [], "o", color=colour, label=f"{label} numbers of the column")
ax.axvline(0, color="grey", linewidth=1, zorder=0)
ax.set_yticks(range(len(order)), [columns[k] for k in order])
ax.set(
    title="What each column adds to the prediction",
    xlabel="points of the disease's course",
)
ax.legend(loc="lower right")

# %%
# One patient: from the mean prediction, column by column, to his own. The sum is exact.

patient = int(values.sum(axis=1).argmax())
base = mean + deviation * attribution.base
by_size = abs(values[patient]).argsort()
ends = base + values[patient][by_size].cumsum()
colours = np.where(values[patient][by_size] > 0, "C1", "C0")

figure, ax = plt.subplots(figsize=(6, 4.5))
ax.barh(
    range(len(ends)),
    values[patient][by_size],
    left=ends - values[patient][by_size],
    color=colours,
)
ax.axvline(base, color="grey", linewidth=1)
ax.set_yticks(range(len(ends)), [columns[k] for k in by_size])
ax.set(
    title=f"From the mean, {base:.0f}, to this patient's {ends[-1]:.0f}",
    xlabel="prediction",
)

# %%

predicted = mean + deviation * model.predict(X_test[[patient]])[0]
print(f"the mean and all columns {ends[-1]:.3f}, the prediction {predicted:.3f}")
print(f"this patient's disease went on by {y_test[patient]:.0f}")
