"""A stream of river's, row by row:
predict the approval of a president, then learn it.
"""

import sys
from itertools import islice

from river import datasets, linear_model, metrics, preprocessing

from fastmlp.river import MLPRegressor

models = {
    "net": MLPRegressor(seed=0),
    "line": preprocessing.StandardScaler()
    | linear_model.LinearRegression(intercept_lr=0.1),
}
quick = "--quick" in sys.argv
rows = 100 if quick else None
for name, model in models.items():
    error = metrics.MAE()
    for x, y in islice(datasets.TrumpApproval(), rows):
        error.update(y, model.predict_one(x))
        model.learn_one(x, y)
    print(f"{name}: mean absolute error {error.get():.2f} points")
