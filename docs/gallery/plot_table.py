"""
A table end to end
==================

Breast cancer data: a pipeline that scales, a search over settings in threads, early
stopping on the loss, and an honest last figure on rows that took no part in any choice.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.inspection import permutation_importance
from sklearn.metrics import RocCurveDisplay
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPSearchCV
from fastmlp.plotting import plot_search

data = load_breast_cancer(as_frame=True)
X = data.data
y = data.target
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

model = MLPClassifier(
    learning_rate_init=0.003,
    early_stopping=True,
    scoring="loss",
    max_iter=1000,
    random_state=0,
)
pipeline = make_pipeline(StandardScaler(), model)

# %%
# Twelve candidates on five folds, 60 fits; the scaler is fitted within each fold.

search = MLPSearchCV(
    pipeline,
    {
        "mlpclassifier__alpha": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
        "mlpclassifier__hidden_layer_sizes": [(8,), (32,)],
    },
    cv=5,
    scoring="neg_log_loss",
    n_jobs=2,
).fit(X_train, y_train)
print(search.best_params_)
print(f"log loss {-search.best_score_:.3f}, mean of the folds")

# %%
# Above: what the strength of the penalty does. Below: the ROC curve on the test rows.

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 8), height_ratios=[2, 3])
plot_search(search, above, parameter="mlpclassifier__alpha")
above.set_title("Score by the strength of the penalty", loc="left")
above.set(ylim=(None, 0.04), xlabel="alpha")
RocCurveDisplay.from_estimator(search, X_test, y_test, ax=below, name="test rows")
below.set_title("ROC curve of the test rows")

# %%
# Which columns does the net use? Shuffle each, and see how much the score falls.

# sphinx_gallery_thumbnail_number = 2
importance = permutation_importance(
    search, X_test, y_test, n_repeats=10, random_state=0
)
order = np.argsort(importance.importances_mean)[-8:]
figure, ax = plt.subplots()
ax.barh(X.columns[order], importance.importances_mean[order], color="C0")
ax.set(title="The eight columns used most", xlabel="loss of score when it is shuffled")
