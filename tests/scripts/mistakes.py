"""Sixteen mistakes, one on each line that ends in a comment:
both type checkers find each of them.

The script does not run.
"""

import numpy as np

import fastmlp
from fastmlp import MLP, Adam, Cosine, MLPClassifier, MLPRegressor, MLPSearchCV

X = np.zeros((4, 2))
y = np.zeros(4)


def mistakes() -> None:
    net = MLP((2, 4, 1), activation="rleu")  # the name of an activation
    MLP((2, 4, 1), los="mse")  # a keyword
    MLP((2, 4, 1), loss="huberr")  # the name of a loss
    MLP((2, 4, 1), optimizer=Cosine(0.1))  # a schedule for an optimizer
    Adam(learning_rate="0.1")  # text for a number
    Adam(average=0.99)  # a number for an average
    net.fitt(X, y)  # a method
    MLP((2, 4, 1), layer_rates=[1, {"kernel": 0.1}])  # a key of a layer's rates
    net.fit(X, y, epochs="10")  # text for a number
    MLPClassifier(activaton="relu")  # a keyword of an estimator
    model = MLPRegressor(solver="adm")  # the name of a solver
    model.fitt(X, y)  # a method of an estimator
    model.fit(X, y, epochs=10)  # a keyword of its method
    model.fit(X, y, progress="yes")  # text for True or False
    len(model.coef_)  # an attribute
    MLPSearchCV(MLPRegressor, {"alpha": [1.0]})  # a class for an estimator
    fastmlp.fit_all([net], X, y)  # a name of the module
