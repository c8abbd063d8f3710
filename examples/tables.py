"""A table of texts, numbers and missing values:
a model, its members, columns and intervals.
"""

import sys

import numpy as np
import pandas as pd

from fastmlp import TabularMLPRegressor

quick = "--quick" in sys.argv
n = 300 if quick else 3000
preset = "fast" if quick else "balanced"
max_iter = 5 if quick else None
rng = np.random.default_rng(0)
rooms = pd.DataFrame(
    {
        "area": rng.gamma(9, 8, n).round(),
        "town": rng.choice(["Bern", "Chur", "Genf", "Zug"], n, p=[0.4, 0.3, 0.2, 0.1]),
        "lift": rng.random(n) < 0.5,
        "built": rng.integers(1890, 2024, n),
    }
)
level = rooms["town"].map({"Bern": 20, "Chur": 15, "Genf": 27, "Zug": 33})
price = level * rooms["area"] ** 0.9 + 90 * rooms["lift"]
rent = (price + rng.normal(0, 60, n)).to_numpy()
rooms.loc[rng.random(n) < 0.1, "built"] = None
train = np.arange(n) < 0.8 * n

model = TabularMLPRegressor(preset=preset, max_iter=max_iter, cv=3, random_state=0)
model.fit(rooms[train], rent[train])
low, high = model.predict_interval(rooms[~train], coverage=0.9).T
inside = np.mean((low <= rent[~train]) & (rent[~train] <= high))
score = model.score(rooms[~train], rent[~train])

print(model.summary())
print(f"R2 {score:.3f}, {inside:.0%} in intervals of 90 %")
for name, worse in zip(rooms.columns, model.feature_importances_, strict=True):
    print(f"{name:6} {worse:8.1f}")
